//! The command line of `steady precision`.

use crate::commands::bench::WorkloadName;
use crate::engines::EngineSpec;
use crate::options::{DeviceArgs, EpisodeRange, SourceArgs, precision};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct PrecisionArgs {
    #[command(subcommand)]
    pub what: PrecisionCommand,
}

#[derive(Debug, Subcommand)]
pub enum PrecisionCommand {
    /// Print the number formats of every site.
    Show(ShowArgs),
    /// Print the sites at which two choices of number formats differ.
    Diff(DiffArgs),
    /// Find the scales of activations for fp8 on a dataset.
    Calibrate(CalibrateArgs),
    /// Put number formats side by side: what they cost in actions and, on a GPU, take in time.
    Table(Box<TableArgs>),
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A preset, or the path of a TOML file.
    #[arg(value_parser = precision)]
    pub precision: String,
    #[command(flatten)]
    pub listing: ListingArgs,
    /// The dataset that the calibration must be of.
    #[arg(long, visible_alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A preset, or the path of a TOML file.
    #[arg(value_parser = precision)]
    pub a: String,
    /// Another.
    #[arg(value_parser = precision)]
    pub b: String,
    #[command(flatten)]
    pub listing: ListingArgs,
}

/// How the sites of a model are listed.
#[derive(Debug, Args)]
pub struct ListingArgs {
    /// Checkpoint folder; the embedded demo's otherwise.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Every site on a line of its own, instead of layers that are alike on one.
    #[arg(long)]
    pub all: bool,
    /// Every site, as JSON.
    #[arg(long, conflicts_with = "all")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Episodes to observe, such as 0 2, 0-9 or 10-; all of them otherwise.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "ID")]
    pub traj_ids: Vec<EpisodeRange>,
    /// Observations to take, spread evenly over the episodes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub frames: u32,
    /// Percent of a site's values that its scale must hold; what exceeds it is cut off.
    #[arg(long, default_value_t = 100.0, value_parser = percentile)]
    pub percentile: f64,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub denoising_steps: u16,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Where the calibration goes, as JSON.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Presets, or paths of TOML files.
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "PRECISION", value_parser = precision,
          default_value = "f32,bf16,mixed,fp16,mixed-fp16,fp8")]
    pub precisions: Vec<String>,
    /// cpu emulates all number formats; cuda also runs them on an NVIDIA GPU and compares; auto does where there is one.
    #[arg(long, value_name = "ENGINE", value_parser = engine, default_value = "cpu")]
    pub engine: EngineSpec,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Fail where the emulated action error and cuda's differ by more than this factor (cuda, auto). [default: 1.5]
    #[arg(long, value_parser = factor)]
    pub max_ratio: Option<f64>,
    /// Episodes to evaluate, such as 0 2, 0-9 or all; all four of the embedded demo, the first of a dataset otherwise.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "ID")]
    pub traj_ids: Vec<EpisodeRange>,
    /// Most steps of an episode to evaluate.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Steps taken of each action chunk before the next inference.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub action_horizon: u16,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub denoising_steps: u16,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42, conflicts_with = "noise")]
    pub seed: u64,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Take fixed scales of activations although they were found on another dataset; the report says so.
    #[arg(long)]
    pub allow_stale_calibration: bool,
    /// Also measure the median inference on the GPU, of a model of random weights: synth:n1.6 for the published size.
    #[arg(long, value_name = "MODEL")]
    pub latency: Option<String>,
    /// Shapes of the measured inferences; both otherwise.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', requires = "latency")]
    pub workload: Vec<WorkloadName>,
    /// Where the JSON goes.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where a picture of the errors goes.
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
}

fn engine(text: &str) -> Result<EngineSpec, String> {
    EngineSpec::one_of(text, &["cpu", "cuda", "auto"])
}

fn percentile(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 100.0);
    number.ok_or_else(|| "expected a number above 0 and at most 100".to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 1.0);
    number.ok_or_else(|| "expected a number of at least 1".to_owned())
}
