//! `steady eval`: checkpoints on the episodes of datasets.

mod actions;
mod args;
mod chunking;
mod episode;
mod evaluation;
mod journal;
mod page;
mod plan;
mod printed;
mod subject;

pub use args::EvalArgs;
pub use episode::Pace;

use crate::interrupt;
use crate::options::stale;
use crate::outcome::Outcome;
use crate::output::note;
use crate::progress::Progress;
use crate::report::output::claim;
use crate::report::{Failed, Status};
use actions::ActionsFile;
use anyhow::{Context, Error, Result, bail, ensure};
use episode::{Failure, evaluate};
use evaluation::{Evaluation, Loaded};
use journal::Journal;
use plan::Run;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::session::{Actor, DatasetAtHand, NoiseSource};
use steadyhand_lerobot::Dataset;
use subject::{About, Subject};

/// Why an evaluation ends before its last episode.
enum Stop {
    Signal(i32),
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Error(error)
    }
}

/// Evaluates, prints the summary and leaves plots, JSON and a page.
pub fn run(args: &EvalArgs) -> Result<Outcome> {
    args.check()?;
    // What cannot be written is better known before the evaluation than after it.
    let runs = Run::all(args)?;
    let actions = args.actions.as_deref().map(ActionsFile::new).transpose()?;
    for path in [Some(args.json()), args.page()].into_iter().flatten() {
        claim(&path)?;
    }
    for (run, file) in runs.iter().zip(actions.iter().cycle()) {
        claim(&file.of_run(run.label.as_deref()))?;
    }
    let loaded = Loaded::open(args)?;
    interrupt::end_gently();

    let mut evaluation = Evaluation::new(args, &loaded, &runs);
    let stop = evaluate_all(args, &loaded, &runs, &mut evaluation).err();
    let status = match (&stop, evaluation.failures() > 0) {
        (Some(_), _) => Status::Interrupted,
        (None, true) => Status::Partial,
        (None, false) => Status::Complete,
    };
    evaluation.close(status);
    // A disk that is full may take none of this any more; what was printed before is kept.
    let written =
        write_all(args, &loaded, &mut evaluation, actions.as_ref(), matches!(stop, Some(Stop::Signal(_))));
    match stop {
        Some(Stop::Error(error)) => Err(error),
        Some(Stop::Signal(signal)) => written.map(|()| Outcome::Interrupted(signal)),
        None if evaluation.episodes() == 0 => {
            let reason = evaluation.first_failure().unwrap_or("none was asked for");
            Err(Error::msg(reason.to_owned()).context("no episode was evaluated"))
        }
        None => written.map(|()| if status == Status::Partial { Outcome::Partial } else { Outcome::Success }),
    }
}

/// Runs everything that is not done yet.
fn evaluate_all(
    args: &EvalArgs,
    loaded: &Loaded,
    runs: &[Run],
    evaluation: &mut Evaluation,
) -> Result<(), Stop> {
    let progress = Progress::new("evaluating", "inferences", loaded.inferences(args, runs)?);
    let ground = Ground { args, loaded, progress };
    for of_subject in runs.chunk_by(|a, b| a.checkpoint == b.checkpoint) {
        match &loaded.subjects[of_subject[0].checkpoint] {
            Subject::Checkpoint(checkpoint) => {
                let (mut policy, about) = checkpoint.policy(args)?;
                let name = policy.engine().name().to_owned();
                let identity = policy.engine().precision().identity();
                for run in of_subject {
                    let at_hand = DatasetAtHand::new(
                        &args.dataset_path[run.dataset],
                        stale(args.allow_stale_calibration),
                    );
                    let calibration = at_hand.check(&checkpoint.precision).map_err(Error::from)?;
                    let about = About { calibration, ..about.clone() };
                    ground.evaluate_run(run, &mut policy, (&name, &identity), about, evaluation)?;
                }
            }
            Subject::Server(server) => {
                let about = server.about();
                let mut remote = server.remote.borrow_mut();
                for run in of_subject {
                    let name = about.subject.clone();
                    ground.evaluate_run(run, &mut *remote, (&name, ""), about.clone(), evaluation)?;
                }
            }
            Subject::Recording(recording) => {
                let about = recording.about();
                let mut replay = recording.replay.borrow_mut();
                for run in of_subject {
                    let name = about.subject.clone();
                    ground.evaluate_run(run, &mut *replay, (&name, ""), about.clone(), evaluation)?;
                }
            }
        }
    }
    Ok(())
}

/// What all runs have in common.
struct Ground<'a> {
    args: &'a EvalArgs,
    loaded: &'a Loaded,
    progress: Progress,
}

impl Ground<'_> {
    /// Runs the episodes of one run that are not done yet. `identity` is the engine's, with that of its formats.
    fn evaluate_run<A: Actor>(
        &self,
        run: &Run,
        actor: &mut A,
        (engine, precision): (&str, &str),
        about: About,
        evaluation: &mut Evaluation,
    ) -> Result<(), Stop> {
        let Ground { args, loaded, progress } = self;
        let identity = run.identity(args, &about.embodiment_tag, engine, precision)?;
        let journal = Rc::new(Journal::open(&run.folder(args), &identity, args.resume)?);
        evaluation.begin(run, &journal, about.clone());
        let data = &loaded.datasets[run.dataset];
        let plot = |index| args.plot(run.label.as_deref(), &about.engine, index, data.episodes.len() == 1);
        for index in &data.episodes {
            if journal.done(*index).is_none() {
                claim(&plot(*index))?;
            }
        }
        let noise = run.noise(args);
        let mut before = 0;
        for &index in &data.episodes {
            progress.now(printed::place(run, index));
            if let Some(done) = journal.done(index) {
                before += 1;
                progress.advance(done.report.inferences as u64);
                evaluation.add(done);
                continue;
            }
            if let Some(signal) = interrupt::signal() {
                return Err(Stop::Signal(signal));
            }
            match evaluate(args.pace(), actor, &data.dataset, index, &noise, &|| progress.inc()) {
                Ok(mut evaluated) => {
                    let path = plot(index);
                    episode::plot(&evaluated, &about, &path)?;
                    evaluated.report.noise_confirmed = args.is_remote().then_some(evaluated.asked_noise);
                    evaluated.report.plot = Some(path.display().to_string());
                    let done = journal.keep(&evaluated.report, evaluated.layout, &evaluated.curves)?;
                    progress.suspend(|| printed::episode(run, &done.report))?;
                    evaluation.add(done);
                    evaluation.write_now_and_then()?;
                }
                Err(Failure::Interrupted) => {
                    return Err(Stop::Signal(interrupt::signal().unwrap_or_default()));
                }
                Err(Failure::Engine(error)) => return Err(Stop::Error(error)),
                Err(Failure::Episode(error)) if args.strict => return Err(Stop::Error(error)),
                Err(Failure::Episode(error)) => {
                    let failed = Failed { episode_index: index, reason: crate::outcome::describe(&error) };
                    progress.suspend(|| note!("{}: skipped: {}", printed::place(run, index), failed.reason));
                    evaluation.fail(failed);
                }
            }
        }
        evaluation.end();
        if before > 0 {
            let episodes = if before == 1 { "episode" } else { "episodes" };
            progress.suspend(|| note!("{before} {episodes} taken over from {}", run.folder(args).display()));
        }
        Ok(())
    }
}

/// One episode as `steady eval` evaluates it, with the noise of `seed`: its entry in the report, as JSON, and the
/// predicted actions, `[steps, columns]`.
///
/// # Errors
/// The dataset or the episode cannot be read, or does not fit the policy; the engine failed.
pub fn evaluate_episode(
    policy: &mut Policy,
    dataset: &Path,
    episode: usize,
    seed: u64,
    pace: Pace,
) -> Result<(String, Vec<f32>)> {
    ensure!(pace.steps > 0, "--steps: expected at least 1, found 0");
    ensure!(pace.action_horizon > 0, "--action-horizon: expected at least 1, found 0");
    let dataset = Dataset::open(dataset)?;
    match evaluate(pace, policy, &dataset, episode, &NoiseSource::Seed(seed), &|| ()) {
        Ok(evaluated) => Ok((serde_json::to_string(&evaluated.report)?, evaluated.curves.predicted)),
        Err(Failure::Engine(error) | Failure::Episode(error)) => Err(error),
        Err(Failure::Interrupted) => bail!("episode {episode}: left before its end"),
    }
}

/// Prints the summary and writes what is written once.
fn write_all(
    args: &EvalArgs,
    loaded: &Loaded,
    evaluation: &mut Evaluation,
    actions: Option<&ActionsFile>,
    in_a_hurry: bool,
) -> Result<()> {
    if evaluation.episodes() == 0 && evaluation.failures() == 0 {
        return Ok(());
    }
    if args.chunking {
        evaluation.measure_chunking()?;
    }
    evaluation.write()?;
    let mut files = vec![("JSON", args.json())];
    if let Some(file) = actions {
        for finished in evaluation.finished().filter(|finished| !finished.report.episodes.is_empty()) {
            let path = file.of_run(finished.run.label.as_deref());
            file.write(&path, finished).with_context(|| format!("writing {}", path.display()))?;
            files.push(("Actions", path));
        }
    }
    if let Some(path) = args.page().filter(|_| evaluation.episodes() > 0 && !in_a_hurry) {
        page::write(&path, args, loaded, evaluation)?;
        files.push(("Page", path));
    }
    let mut out = std::io::stdout().lock();
    evaluation.print(&mut out)?;
    for (what, path) in files {
        writeln!(out, "{what}: {}", path.display())?;
    }
    Ok(())
}
