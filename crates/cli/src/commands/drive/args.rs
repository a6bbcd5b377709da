//! The command line of `steady drive`.

use crate::engines::remote::ServerArgs;
use crate::options::VideoArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
Example, on the embedded demo's episode, with a server in another terminal (steady serve):
  steady drive --delay-ms 100 --execution-horizon 4 --ramp-rate 1")]
pub struct DriveArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// LeRobot dataset folder (v2.0, v2.1 or v3.0); the embedded demo's otherwise.
    #[arg(long, visible_alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
    /// Episode to play.
    #[arg(long, default_value_t = 0, value_name = "ID")]
    pub traj_id: usize,
    /// Most steps of it.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Steps of a chunk that are executed before the next one is asked for.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub execution_horizon: u16,
    /// How much later than it comes every reply is executed.
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub delay_ms: u16,
    /// With real-time chunking: how quickly the steps of a new chunk follow the policy that stand for what the old one still
    /// has behind those that pass meanwhile; 6 is the official code's.
    #[arg(long, default_value_t = 6.0, value_name = "RATE")]
    pub ramp_rate: f32,
    /// Ask as fast as replies come, and count for each of them the delay alone: the same numbers on any machine.
    /// Otherwise steps pass at the dataset's frame rate, and a reply is as late as it is.
    #[arg(long)]
    pub without_clock: bool,
    /// Seed of the noise that is asked for.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub video: VideoArgs,
    /// Where drive.json and drive.png go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
}
