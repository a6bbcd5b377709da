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
mod share;
mod subject;
mod task;

pub use args::EvalArgs;
pub use episode::Pace;

use crate::interrupt;
use crate::options::stale;
use crate::outcome::Outcome;
use crate::output::note;
use crate::progress::Progress;
use crate::report::output::claim;
use crate::report::{Evaluating, Failed, Status};
use actions::ActionsFile;
use anyhow::{Context, Error, Result, bail, ensure};
use episode::{Failure, evaluate};
use evaluation::{Evaluation, Loaded};
use journal::{Done, Journal};
use plan::Run;
use share::{Alone, Crew, InOrder};
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::session::{Actor, DatasetAtHand, NoiseSource};
use steadyhand_lerobot::Dataset;
use subject::{About, Subject};
use task::Task;

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
                let (mut policies, about) = checkpoint.policies(args)?;
                let name = about.engine.clone();
                let identity = policies[0].engine().precision().identity();
                for run in of_subject {
                    let at_hand = DatasetAtHand::new(
                        &args.dataset_path[run.dataset],
                        stale(args.allow_stale_calibration),
                    );
                    let calibration = at_hand.check(&checkpoint.precision).map_err(Error::from)?;
                    let about = About { calibration, ..about.clone() };
                    ground.evaluate_run(run, &mut policies, (&name, &identity), about, evaluation)?;
                }
            }
            Subject::Server(server) => {
                let about = server.about();
                let mut remote = server.remote.borrow_mut();
                for run in of_subject {
                    let name = about.subject.clone();
                    let remote = &mut Alone(&mut *remote);
                    ground.evaluate_run(run, remote, (&name, ""), about.clone(), evaluation)?;
                }
            }
            Subject::Recording(recording) => {
                let about = recording.about();
                let mut replay = recording.replay.borrow_mut();
                for run in of_subject {
                    let name = about.subject.clone();
                    let replay = &mut Alone(&mut *replay);
                    ground.evaluate_run(run, replay, (&name, ""), about.clone(), evaluation)?;
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

/// What an episode came to.
enum Came {
    /// It was done before.
    Before(Done),
    /// It is done, and kept.
    Done(Done),
    /// It is left out.
    Skipped(Failed),
    /// Nothing follows.
    Stopped(Stop),
}

impl Ground<'_> {
    /// Runs the episodes of one run that are not done yet, shared among the actors. `identity` is the engine's, with that
    /// of its formats.
    fn evaluate_run<A: Actor>(
        &self,
        run: &Run,
        actors: &mut impl Crew<A>,
        (engine, precision): (&str, &str),
        about: About,
        evaluation: &mut Evaluation,
    ) -> Result<(), Stop> {
        let Ground { args, loaded, progress } = self;
        let identity = run.identity(args, &about.embodiment_tag, engine, precision)?;
        let journal = Rc::new(Journal::open(&run.folder(args), &identity, args.resume)?);
        evaluation.begin(run, &journal, about.clone());
        let data = &loaded.datasets[run.dataset];
        let before: Vec<_> = data.episodes.iter().map(|index| journal.done(*index)).collect();
        let places = data.episodes.iter().copied().enumerate();
        let todo: Vec<(usize, usize)> = places.filter(|(place, _)| before[*place].is_none()).collect();
        let only = data.episodes.len() == 1;
        for (_, index) in &todo {
            claim(&args.plot(run.label.as_deref(), &about.engine, *index, only))?;
        }
        let taken_over = before.iter().flatten().count();
        let known = before.into_iter().enumerate();
        let mut order = InOrder::new(known.filter_map(|(place, done)| Some((place, Came::Before(done?)))));
        let mut stop = None;
        let mut take = |came| self.take(run, came, &mut stop, evaluation);

        let task =
            Task { args, run, dataset: &data.dataset, about: &about, journal: &journal, progress, only };
        let noise = run.noise(args);
        let started = Instant::now();
        let work = |actor: &mut A, (place, index)| task.evaluate(actor, place, index, &noise);
        actors.share(&todo, work, |(place, came)| {
            order.put(place, came);
            while let Some(came) = order.ready() {
                take(came)?;
            }
            Ok::<(), Stop>(())
        })?;
        order.rest().try_for_each(take)?;
        if let Some(stop) = stop {
            return Err(stop);
        }
        let seconds = started.elapsed().as_secs_f64();
        evaluation.end(Evaluating { seconds, workers: actors.count() });
        if taken_over > 0 {
            let episodes = if taken_over == 1 { "episode" } else { "episodes" };
            let folder = run.folder(args);
            progress.suspend(|| note!("{taken_over} {episodes} taken over from {}", folder.display()));
        }
        Ok(())
    }

    /// Tells what an episode came to, and adds it to the evaluation.
    fn take(
        &self,
        run: &Run,
        came: Came,
        stop: &mut Option<Stop>,
        evaluation: &mut Evaluation,
    ) -> Result<(), Stop> {
        let progress = &self.progress;
        match came {
            Came::Before(done) => {
                progress.advance(done.report.inferences as u64);
                evaluation.add(done);
            }
            Came::Done(done) => {
                progress.suspend(|| printed::episode(run, &done.report))?;
                evaluation.add(done);
                evaluation.write_now_and_then()?;
            }
            Came::Skipped(failed) => {
                let place = printed::place(run, failed.episode_index);
                progress.suspend(|| note!("{place}: skipped: {}", failed.reason));
                evaluation.fail(failed);
            }
            // Of several the first episode's.
            Came::Stopped(found) => *stop = stop.take().or(Some(found)),
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
