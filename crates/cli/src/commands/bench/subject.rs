//! What is measured: a model, a processor, and observations of random pixels.

use super::args::{BenchArgs, WorkloadName};
use anyhow::{Result, ensure};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::Options;
use steadyhand_gr00t::synthetic::Shapes;
use steadyhand_gr00t::{Observation, Session};

/// A policy without its engine, and what it is shown.
pub struct Subject {
    pub session: Session,
    /// Fits the model.
    pub precision: PrecisionPolicy,
    /// One for each member of the batch.
    pub observations: Vec<Observation>,
}

impl Subject {
    /// Loads or makes up everything that the options ask for; the number formats are those of this name.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded, or an option that does not go with it, such as a precision.
    pub fn load(args: &BenchArgs, precision: &str) -> Result<Self> {
        let name = args.checkpoint.display().to_string();
        let synthetic = steadyhand_gr00t::synthetic::config(&name)?.is_some();
        if !synthetic {
            refuse_shapes(args, &name)?;
        }
        let workload = args.workload.unwrap_or(WorkloadName::W1);
        let named = Shapes::default();
        let options = Options {
            embodiment_tag: args.embodiment_tag.clone(),
            tokenizer: args.tokenizer.clone(),
            seed: args.seed,
            shapes: Shapes {
                views: args.views.unwrap_or(workload.views()),
                image_size: args.image_size,
                text_tokens: args.text_tokens.unwrap_or(named.text_tokens),
                frame: args.frame_size,
            },
            action_horizon: args.action_horizon,
            ..Options::default()
        };
        let session = Session::open(&args.checkpoint, &options)?;
        let precision = match synthetic && args.calibrate {
            // Calibrated on other weights, and about to be calibrated on these.
            true => session.precision(PrecisionPolicy::load(precision)?.without_calibration())?,
            false => session.precision(precision)?,
        };
        let seeds = (0..u64::from(args.batch)).map(|member| args.seed.wrapping_add(member));
        let observations = seeds.map(|seed| session.random(seed)).collect();
        Ok(Subject { session, precision, observations })
    }
}

/// Fails where a shape was given that a checkpoint folder fixes.
fn refuse_shapes(args: &BenchArgs, folder: &str) -> Result<()> {
    for (option, given) in [
        ("--workload", args.workload.is_some()),
        ("--views", args.views.is_some()),
        ("--text-tokens", args.text_tokens.is_some()),
        ("--image-size", args.image_size.is_some()),
        ("--action-horizon", args.action_horizon.is_some()),
    ] {
        ensure!(!given, "{option}: expected with a synthetic checkpoint, found with the folder {folder}");
    }
    Ok(())
}
