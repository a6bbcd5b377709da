//! The command line of `steady eval`.

use super::episode::Pace;
use crate::engines::remote::ServerArgs;
use crate::engines::{EngineSpec, Options, trace};
use crate::options::{Devices, EngineArgs, EpisodeRange, VideoArgs};
use anyhow::{Context, Result, ensure};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::path::{Path, PathBuf};

/// All GPUs of `--device`, which holds the first of them alone for what takes one.
#[derive(Debug, Clone, Default)]
pub struct Gpus(Vec<usize>);

impl FromArgMatches for Gpus {
    fn from_arg_matches(matches: &ArgMatches) -> clap::error::Result<Self> {
        let given = matches.get_many::<Devices>("device").into_iter().flatten();
        Ok(Gpus(given.flat_map(|devices| devices.0.iter().copied()).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> clap::error::Result<()> {
        *self = Gpus::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The option itself is that of [`EngineArgs`].
impl Args for Gpus {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("engine", |engine| {
    let help = format!("{}; remote: a policy server, ours or NVIDIA's; trace:DIR: what steady serve --record left", EngineSpec::running_help());
    engine.default_value("auto").value_parser(EngineSpec::evaluated).help(help)
}))]
#[command(mut_arg("device", |device| {
    device.num_args(1..).value_name("NUMBERS").value_parser(Devices::several).help("Numbers of the GPUs for cuda that share the episodes, as 0 or 0,1; the first otherwise")
}))]
#[command(after_help = "\
Exit codes: 0 all episodes were evaluated; 3 some were skipped, and are listed with their reasons; 2 bad input, or no \
episode could be evaluated; 130 or 143 Ctrl-C or SIGTERM, with what was done until then.

Examples:
  steady eval --model-path CHECKPOINT --dataset-path DATASET --traj-ids 0-9
  steady eval --model-path CHECKPOINT --dataset-path DATASET --traj-ids all --resume
  steady eval --model-path CHECKPOINT --dataset-path DATASET --traj-ids all --device 0,1
  steady eval --model-path A B --dataset-path DATASET --seeds 5 --actions actions.parquet
  steady eval --engine remote --host robot.local --port 5555 --dataset-path DATASET")]
pub struct EvalArgs {
    /// Checkpoint folders; several are put side by side. With remote none, or the one that the server must agree with.
    #[arg(long, visible_alias = "model-path", value_name = "DIR", num_args = 1..)]
    pub checkpoint: Vec<PathBuf>,
    /// LeRobot dataset folders (v2.0, v2.1 or v3.0); every checkpoint is evaluated on each.
    #[arg(long, visible_alias = "dataset", value_name = "DIR", num_args = 1.., required = true)]
    pub dataset_path: Vec<PathBuf>,
    /// Embodiment tag; may be left out where the checkpoint has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// Episodes to evaluate: 0 2 5, 0,2,5, 0-9, 10- or all. One that is named twice is evaluated once.
    #[arg(long, num_args = 1.., value_delimiter = ',', default_value = "0", value_name = "ID")]
    pub traj_ids: Vec<EpisodeRange>,
    /// Most steps of an episode to evaluate.
    #[arg(long, default_value_t = 200)]
    pub steps: usize,
    /// Steps taken of each action chunk before the next inference.
    #[arg(long, default_value_t = 16)]
    pub action_horizon: usize,
    /// Euler steps of an inference. [default: 4]
    #[arg(long)]
    pub denoising_steps: Option<usize>,
    /// Inferences at the start of each episode that the timings leave out.
    #[arg(long, default_value_t = 1)]
    pub skip_timing_steps: usize,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42, conflicts_with = "noise")]
    pub seed: u64,
    /// Evaluate with this many seeds, from --seed on; the mean and the spread are given.
    #[arg(long, default_value_t = 1, value_name = "COUNT", conflicts_with = "noise",
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: u64,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Go on with the evaluation that was interrupted in --out: episodes that are done are not evaluated again.
    #[arg(long)]
    pub resume: bool,
    /// Stop at the first episode that cannot be evaluated, instead of listing it and going on.
    #[arg(long)]
    pub strict: bool,
    /// Where the plots go: a folder, or a .png file (several episodes add their number to its name).
    #[arg(long, value_name = "PATH")]
    pub save_plot_path: Option<PathBuf>,
    /// Where the JSON goes; report.json in the folder of --out otherwise.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where predicted and recorded actions go, by name and step: a .parquet, .csv or .npz file.
    #[arg(long, value_name = "FILE")]
    pub actions: Option<PathBuf>,
    /// Measure how chunks follow each other, by joint group: jumps between them, jitter within, errors of their first and
    /// last rows.
    #[arg(long)]
    pub chunking: bool,
    /// Where the page goes; report.html in the folder of --out otherwise.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Episodes that the page draws, those with the largest errors first; 0 writes no page.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub html_episodes: usize,
    /// Where plots, JSON, page and what --resume goes on from go unless told otherwise.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Take fixed scales of activations although they were found on another dataset; the report says so.
    #[arg(long)]
    pub allow_stale_calibration: bool,
    /// Policies that evaluate at the same time, each on episodes of its own: their actions are those of a single one.
    /// [default: one for each GPU of --device]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: Option<u8>,
    #[command(flatten)]
    pub gpus: Gpus,
    #[command(flatten)]
    pub video: VideoArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl EvalArgs {
    /// Whether the options can work, whatever the files hold.
    ///
    /// # Errors
    /// The option that cannot.
    pub fn check(&self) -> Result<()> {
        ensure!(self.action_horizon > 0, "--action-horizon: expected at least 1, found 0");
        ensure!(self.denoising_steps != Some(0), "--denoising-steps: expected at least 1, found 0");
        ensure!(self.steps > 0, "--steps: expected at least 1, found 0");
        ensure!(
            self.html.is_none() || self.html_episodes > 0,
            "--html-episodes: expected at least 1 with --html, found 0"
        );
        if let Some(extension) = self.save_plot_path.as_ref().and_then(|path| path.extension()) {
            let found = extension.to_string_lossy();
            ensure!(
                extension.eq_ignore_ascii_case("png"),
                "--save-plot-path: plots are .png, found .{found}"
            );
        }
        if self.is_elsewhere() {
            self.check_elsewhere()?;
        } else {
            let engine = &self.engine.engine;
            ensure!(!self.checkpoint.is_empty(), "--checkpoint: expected a folder with {engine}, found none");
        }
        self.workers_options()?;
        self.seed
            .checked_add(self.seeds - 1)
            .with_context(|| format!("--seeds: no {} seeds from {} on", self.seeds, self.seed))?;
        Ok(())
    }

    /// What a server decides or decided for itself cannot be asked for.
    fn check_elsewhere(&self) -> Result<()> {
        let name = self.engine.engine.name();
        let of_checkpoint = self.embodiment_tag.is_some() && self.checkpoint.is_empty();
        for (option, given) in [
            ("--denoising-steps", self.denoising_steps.is_some()),
            ("--precision", self.engine.precision.is_some()),
            ("--noise", self.noise.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--allow-stale-calibration", self.allow_stale_calibration),
            ("--workers", self.workers.is_some()),
        ] {
            ensure!(!given, "{option}: expected with an engine that runs here, found with {name}");
        }
        ensure!(!of_checkpoint, "--embodiment-tag: expected with --checkpoint, found with {name} alone");
        let found = self.checkpoint.len();
        ensure!(found <= 1, "--checkpoint: expected one with {name}, found {found}");
        Ok(())
    }

    /// Whether nothing is computed here.
    fn is_elsewhere(&self) -> bool {
        self.is_remote() || self.engine.engine.name() == trace::KIND.name
    }

    /// Whether a server is evaluated.
    pub fn is_remote(&self) -> bool {
        self.engine.engine.name() == crate::engines::remote::KIND.name
    }

    /// The options of engines.
    ///
    /// # Errors
    /// One that the engine does not read.
    pub fn options(&self) -> Result<Options> {
        let options = Options { server: self.server.options(), ..self.engine.options.engines() };
        options.check(&[&self.engine.engine])?;
        Ok(options)
    }

    /// The engine's options of each policy that evaluates: the GPUs in turn.
    ///
    /// # Errors
    /// As [`EvalArgs::options`]; a GPU that is named twice, or that no policy is left for.
    pub fn workers_options(&self) -> Result<Vec<Options>> {
        let (options, devices) = (self.options()?, &self.gpus.0);
        for (place, device) in devices.iter().enumerate() {
            let named = devices[..place].contains(device);
            ensure!(!named, "--device: expected each GPU once, found {device} twice");
        }
        let count = self.workers.map_or(devices.len().max(1), usize::from);
        let gpus = devices.len();
        ensure!(count >= gpus, "--workers: expected at least {gpus}, the GPUs of --device, found {count}");
        let of = |worker: usize| match devices.get(worker % gpus.max(1)) {
            Some(device) => Options { device: Some(*device), ..options.clone() },
            None => options.clone(),
        };
        Ok((0..count).map(of).collect())
    }

    /// What is evaluated, by name: checkpoint folders, or a server.
    ///
    /// # Errors
    /// A server that is named twice.
    pub fn subjects(&self) -> Result<Vec<PathBuf>> {
        match self.is_elsewhere() {
            false => Ok(self.checkpoint.clone()),
            true if !self.is_remote() => Ok(vec![self.engine.engine.to_string().into()]),
            true => {
                let address = self.server.options().address(self.engine.engine.argument())?;
                Ok(vec![format!("remote:{address}").into()])
            }
        }
    }

    /// Euler steps of an inference that runs here.
    pub fn denoising_steps(&self) -> usize {
        self.denoising_steps.unwrap_or(4)
    }

    /// How episodes are run and timed.
    pub fn pace(&self) -> Pace {
        Pace {
            steps: self.steps,
            action_horizon: self.action_horizon,
            skip_timing_steps: self.skip_timing_steps,
        }
    }

    /// Where the JSON goes.
    pub fn json(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| self.out.join("report.json"))
    }

    /// Where the page goes, if anywhere.
    pub fn page(&self) -> Option<PathBuf> {
        (self.html_episodes > 0).then(|| self.html.clone().unwrap_or_else(|| self.out.join("report.html")))
    }

    /// Where an episode's plot goes; `label` tells several runs apart.
    pub fn plot(&self, label: Option<&str>, engine: &str, index: usize, only: bool) -> PathBuf {
        let name = format!("episode{index:03}_output_{engine}.png");
        let below = |folder: &Path| folder.join(label.unwrap_or_default()).join(&name);
        match &self.save_plot_path {
            None => below(&self.out),
            Some(path) if path.extension().is_none() => below(path),
            Some(path) if only && label.is_none() => path.clone(),
            Some(path) => with_suffix(path, label, Some(&format!("episode{index:03}"))),
        }
    }
}

/// `name_label_more.ext` of `name.ext`.
pub fn with_suffix(path: &Path, label: Option<&str>, more: Option<&str>) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    for part in [label, more].into_iter().flatten() {
        name = format!("{name}_{part}");
    }
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
}
