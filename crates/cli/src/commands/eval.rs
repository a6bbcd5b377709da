//! `steady eval`: a checkpoint on the episodes of a dataset.

use crate::options::{EngineArgs, VideoArgs, stale};
use crate::outcome::Outcome;
use crate::report::metrics::{self, Errors};
use crate::report::plot::{EpisodePlot, Panel, write_png};
use crate::report::{EpisodeReport, GroupError, Report, Timings, make_folder_of, summary};
use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::policy::Parts;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::{
    CalibrationUsed, DatasetAtHand, NoiseSource, Rollout, RolloutConfig, rollout,
};
use steadyhand_lerobot::{Dataset, Kind};

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Checkpoint folder.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// LeRobot dataset folder (v2.0, v2.1 or v3.0).
    #[arg(long, visible_alias = "dataset", value_name = "DIR")]
    pub dataset_path: PathBuf,
    /// Embodiment tag; may be left out where the checkpoint has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// Episodes to evaluate.
    #[arg(long, num_args = 1.., default_value = "0", value_name = "ID")]
    pub traj_ids: Vec<usize>,
    /// Most steps of an episode to evaluate.
    #[arg(long, default_value_t = 200)]
    pub steps: usize,
    /// Steps taken of each action chunk before the next inference.
    #[arg(long, default_value_t = 16)]
    pub action_horizon: usize,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4)]
    pub denoising_steps: usize,
    /// Inferences at the start of each episode that the timings leave out.
    #[arg(long, default_value_t = 1)]
    pub skip_timing_steps: usize,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Where the plots go: a folder, or a .png file (several episodes add their number to its name).
    #[arg(long, value_name = "PATH")]
    pub save_plot_path: Option<PathBuf>,
    /// Where the JSON goes; report.json in the folder of --out otherwise.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where the plots and the JSON go unless told otherwise.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Take fixed scales of activations although they were found on another dataset; the report says so.
    #[arg(long)]
    pub allow_stale_calibration: bool,
    #[command(flatten)]
    pub video: VideoArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Evaluates, prints the summary and leaves plots and JSON.
pub fn run(args: &EvalArgs) -> Result<Outcome> {
    check(args)?;
    let precision = PrecisionPolicy::load(args.engine.precision()?)?;
    let at_hand = DatasetAtHand::new(&args.dataset_path, stale(args.allow_stale_calibration));
    let calibration = at_hand.check(&precision)?;
    let loading = Instant::now();
    let parts = Parts::load(&args.checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
    // Before weights go to a device.
    rollout::check_horizon(&parts.processor, args.action_horizon)?;
    let precision = parts.precision(precision)?;
    let backend = args.engine.backend()?;
    let mut policy = parts.policy(backend.as_ref(), precision, args.denoising_steps, args.seed)?;
    let model_loading_seconds = loading.elapsed().as_secs_f64();
    let opening = Instant::now();
    let dataset = Dataset::open(&args.dataset_path)?.with_video_decoder(args.video.video_decoder);
    let dataset_loader_seconds = opening.elapsed().as_secs_f64();
    check_episodes(&dataset, &args.traj_ids)?;
    let json = args.json.clone().unwrap_or_else(|| args.out.join("report.json"));
    // What cannot be written is better known before the evaluation than after it.
    make_folder_of(&json)?;
    make_folder_of(&plot_path(args, "", 0))?;

    let progress = progress_bar(&dataset, args)?;
    let mut episodes = Vec::new();
    let mut failure = None;
    for &index in &args.traj_ids {
        progress.set_message(format!("episode {index}"));
        match evaluate(args, &mut policy, &dataset, index, &progress) {
            Ok(report) => episodes.push(report),
            // The episodes before this one are still summed up and written.
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    progress.finish_and_clear();
    if episodes.is_empty() {
        return Err(failure.context("no episode was evaluated")?);
    }
    let timings =
        Timings::new(model_loading_seconds, dataset_loader_seconds, &episodes, args.skip_timing_steps);
    let report = report(args, &policy, calibration, episodes, timings);
    report.write_json(&json)?;
    summary::write_summary(&report, &mut std::io::stdout().lock())?;
    writeln!(std::io::stdout(), "JSON: {}", json.display())?;
    failure.map_or(Ok(Outcome::Success), Err)
}

/// Options that cannot work, whatever the files hold.
fn check(args: &EvalArgs) -> Result<()> {
    ensure!(args.action_horizon > 0, "--action-horizon: expected at least 1, found 0");
    ensure!(args.denoising_steps > 0, "--denoising-steps: expected at least 1, found 0");
    ensure!(args.steps > 0, "--steps: expected at least 1, found 0");
    if let Some(extension) = args.save_plot_path.as_ref().and_then(|path| path.extension()) {
        let found = extension.to_string_lossy();
        ensure!(extension.eq_ignore_ascii_case("png"), "--save-plot-path: plots are .png, found .{found}");
    }
    Ok(())
}

fn check_episodes(dataset: &Dataset, ids: &[usize]) -> Result<()> {
    for id in ids {
        let last = dataset.len().checked_sub(1).context("the dataset has no episodes")?;
        let path = dataset.path().display();
        ensure!(*id <= last, "--traj-ids: expected 0 to {last} for {path}, found {id}");
    }
    Ok(())
}

fn progress_bar(dataset: &Dataset, args: &EvalArgs) -> Result<ProgressBar> {
    let mut inferences = 0;
    for id in &args.traj_ids {
        let steps = dataset.episode_meta(*id)?.length.min(args.steps);
        inferences += steps.div_ceil(args.action_horizon);
    }
    let style = "{msg} [{bar:40}] {pos}/{len} inferences, {eta} left";
    let bar = ProgressBar::new(inferences as u64);
    Ok(bar.with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}

fn evaluate(
    args: &EvalArgs,
    policy: &mut Policy,
    dataset: &Dataset,
    index: usize,
    progress: &ProgressBar,
) -> Result<EpisodeReport> {
    let loading = Instant::now();
    let episode = dataset.episode(index)?;
    let episode_load_seconds = loading.elapsed().as_secs_f64();
    let config = RolloutConfig {
        steps: args.steps,
        action_horizon: args.action_horizon,
        noise: args.noise.clone().map_or(NoiseSource::Seed(args.seed), NoiseSource::Recorded),
    };
    let done = &mut || progress.inc(1);
    let rollout = rollout::run(policy, &episode, &config, done)?;
    let Errors { mse, mae } =
        metrics::errors(&rollout.prediction, &rollout.ground_truth, 0..rollout.ground_truth[0].len())?;
    let path = plot_path(args, policy.engine().name(), index);
    plot(&rollout, dataset, policy.engine(), index, Errors { mse, mae }, &path)?;
    let timed = |seconds: &[f64]| seconds.iter().skip(args.skip_timing_steps).copied().collect();
    Ok(EpisodeReport {
        episode_index: index,
        mse,
        mae,
        steps: rollout.prediction.len(),
        inferences: rollout.inference_points.len(),
        instruction: rollout.instruction.clone(),
        decoded_by: episode.decoded_by().name(),
        plot: Some(path.display().to_string()),
        episode_load_seconds,
        data_preparation_seconds: timed(&rollout.data_preparation_seconds),
        inference_seconds: timed(&rollout.inference_seconds),
        groups: group_errors(&rollout)?,
    })
}

fn group_errors(rollout: &Rollout) -> Result<Vec<GroupError>> {
    let mut first = 0;
    let mut errors = Vec::new();
    for (name, dim) in &rollout.groups {
        let Errors { mse, mae } =
            metrics::errors(&rollout.prediction, &rollout.ground_truth, first..first + dim)?;
        errors.push(GroupError { name: name.clone(), mse, mae });
        first += dim;
    }
    Ok(errors)
}

/// Where an episode's plot goes.
fn plot_path(args: &EvalArgs, engine: &str, index: usize) -> PathBuf {
    let name = format!("episode{index:03}_output_{engine}.png");
    match &args.save_plot_path {
        None => args.out.join(name),
        Some(path) if path.extension().is_none() => path.join(name),
        Some(path) if args.traj_ids.len() == 1 => path.clone(),
        Some(path) => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("{stem}_episode{index:03}.png"))
        }
    }
}

fn plot(
    rollout: &Rollout,
    dataset: &Dataset,
    engine: &dyn Engine,
    index: usize,
    errors: Errors,
    path: &Path,
) -> Result<()> {
    let columns = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
        (0..rows[0].len()).map(|column| metrics::column(rows, column)).collect()
    };
    let (truth, prediction) = (columns(&rollout.ground_truth), columns(&rollout.prediction));
    let state = rollout.state.as_deref().map(columns);
    let mut panels = Vec::with_capacity(truth.len());
    for (group, dim) in &rollout.groups {
        let names = dataset.dimension_names(Kind::Action, group);
        for dimension in 0..*dim {
            let column = panels.len();
            let mse = metrics::errors(&rollout.prediction, &rollout.ground_truth, column..column + 1)?.mse;
            panels.push(Panel {
                group,
                title: names.get(dimension).cloned().unwrap_or_else(|| format!("{group}[{dimension}]")),
                state: state.as_ref().map(|state| &state[column][..]),
                ground_truth: &truth[column],
                prediction: &prediction[column],
                mse,
            });
        }
    }
    let plot = EpisodePlot {
        episode_index: index,
        instruction: &rollout.instruction,
        engine: engine.name(),
        precision: engine.precision().name(),
        mse: errors.mse,
        mae: errors.mae,
        panels,
        inference_points: &rollout.inference_points,
    };
    write_png(&plot, path)
}

fn report(
    args: &EvalArgs,
    policy: &Policy,
    calibration: Option<CalibrationUsed>,
    episodes: Vec<EpisodeReport>,
    timings: Timings,
) -> Report {
    let mean = |value: &dyn Fn(&EpisodeReport) -> f64| {
        episodes.iter().map(value).sum::<f64>() / episodes.len() as f64
    };
    Report {
        engine: policy.engine().name().to_owned(),
        precision: policy.engine().precision().name().to_owned(),
        checkpoint: args.checkpoint.display().to_string(),
        dataset: args.dataset_path.display().to_string(),
        embodiment_tag: policy.processor().embodiment_tag().to_owned(),
        seed: args.seed,
        noise: args.noise.as_ref().map(|path| path.display().to_string()),
        steps: args.steps,
        action_horizon: args.action_horizon,
        denoising_steps: args.denoising_steps,
        calibration,
        mse: mean(&|episode| episode.mse),
        mae: mean(&|episode| episode.mae),
        episodes,
        timings,
    }
}
