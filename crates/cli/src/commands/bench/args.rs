//! The options of `steady bench`.

use super::sweep::Sweep;
use crate::engines::EngineSpec;
use crate::options::{DeviceArgs, image_size, precision};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Shapes that measurements are reported for. Both: images of 252x252 (N1.7: 256x256), 40 text tokens, the published action
/// steps and widths of states and actions, 4 Euler steps, one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WorkloadName {
    /// One view: 121 tokens (N1.7: 104).
    #[value(name = "W1", alias = "w1")]
    W1,
    /// Two views: 202 tokens (N1.7: 168).
    #[value(name = "W2", alias = "w2")]
    W2,
}

impl WorkloadName {
    /// Cameras.
    pub fn views(self) -> usize {
        match self {
            WorkloadName::W1 => 1,
            WorkloadName::W2 => 2,
        }
    }
}

/// Observations of one inference where no option says another number.
pub const BATCH: u16 = 1;
/// Euler steps where no option says another number.
pub const DENOISING_STEPS: u16 = 4;

#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Checkpoint folder; synth:n1.6 or synth:n1.7 for random weights of the published sizes, synth:tiny or
    /// synth:tiny-n1.7 for a very small model.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: PathBuf,
    #[arg(long, default_value = "auto", value_name = "ENGINE", value_parser = EngineSpec::running,
          help = EngineSpec::running_help())]
    pub engine: EngineSpec,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Number formats: f32, bf16 (as the official code rounds), fp16, mixed, mixed-fp16, fp8, or the path of a TOML
    /// file. [default: bf16]
    #[arg(long, value_parser = precision)]
    pub precision: Option<String>,
    /// Scale fp8 activations by the largest that the f32 reference has on the same observations, in place of a
    /// calibration of their own or of scales from each tensor at hand: one inference on the CPU first.
    #[arg(long)]
    pub calibrate: bool,
    /// Shapes with a name; the options below change single ones. W1 for synthetic checkpoints otherwise.
    #[arg(long, value_enum)]
    pub workload: Option<WorkloadName>,
    /// Cameras (synthetic checkpoints only, like the three options below).
    #[arg(long)]
    pub views: Option<usize>,
    /// Tokens of the prompt besides the image tokens. [default: 40]
    #[arg(long)]
    pub text_tokens: Option<usize>,
    /// Side in pixels of the square images that the model is given. [default: 252, or 256 of N1.7]
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Steps of an action chunk. [default: 50, or 40 of N1.7]
    #[arg(long)]
    pub action_horizon: Option<usize>,
    /// Size of the camera's frames; by default just what becomes the image size, or 480x640 for a checkpoint.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size)]
    pub frame_size: Option<[usize; 2]>,
    /// Embodiment tag of a checkpoint; may be left out where it has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = DENOISING_STEPS, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub denoising_steps: u16,
    /// Observations of one inference.
    #[arg(long, default_value_t = BATCH, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Inferences before the measured ones. [default: 10, on a CPU as many as fit]
    #[arg(long, value_name = "COUNT")]
    pub warmup: Option<u32>,
    /// Measured inferences. [default: 100, on a CPU as many as fit a minute]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
    /// Measure once for each value of one dimension, batch, views, text-tokens, image-size, action-horizon or
    /// denoising-steps, everything else as the other options say. May be given several times.
    #[arg(long, value_name = "DIMENSION=VALUE,...")]
    pub sweep: Vec<Sweep>,
    /// A picture of the sweeps: medians, beside the floor where the device's rates are measured.
    #[arg(long, value_name = "FILE.png", requires = "sweep")]
    pub plot: Option<PathBuf>,
    /// Seed of weights, observations and noise.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// A text that the JSON repeats, such as the commit that was built.
    #[arg(long, value_name = "TEXT", requires = "json")]
    pub label: Option<String>,
    /// Where the JSON goes.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
