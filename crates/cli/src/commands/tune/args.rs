//! The options of `steady tune`.

use crate::engines::EngineSpec;
use crate::options::{DeviceArgs, SourceArgs};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use steadyhand_gr00t_lab::tuning::Budget;

#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// What the number formats are for. cuda: measured time of an inference on an NVIDIA GPU; cpu: the reference's
    /// rounding, and bytes that an inference moves, no time of any device; only what cuda has kernels for is proposed.
    #[arg(long, value_name = "ENGINE", value_parser = target)]
    pub target: EngineSpec,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// The error that the actions may have: `error<=Kx PRESET`, K times that of a preset on the same frames.
    #[arg(long, default_value = "error<=1.0x bf16", value_name = "BUDGET")]
    pub budget: Budget,
    /// Observations to measure on, spread evenly over the dataset's episodes.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub frames: u32,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub denoising_steps: u16,
    /// Seed of the noise, and of a synthetic checkpoint's weights and observations.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// When to stop measuring, such as 90s, 10m or 1h; the best until then is given.
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub time_limit: Duration,
    /// Where the number formats, the plot and the measurements go. A run into a folder with measurements of the same goes on
    /// from there.
    #[arg(long, default_value = "steady-tune", value_name = "DIR")]
    pub out: PathBuf,
}

fn target(text: &str) -> Result<EngineSpec, String> {
    EngineSpec::one_of(text, &["cuda", "cpu"])
}

/// A number of seconds, minutes or hours.
fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("expected a time above 0 such as 90s, 10m or 1h, found `{text}`");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(refuse)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let found = Duration::try_from_secs_f64(number * seconds).map_err(|_| refuse())?;
    if found.is_zero() { Err(refuse()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "10", "m", "-1s", "0s", "NaNs", "10 minutes", "1é"] {
            assert!(duration(text).expect_err(text).contains(&format!("found `{text}`")));
        }
    }
}
