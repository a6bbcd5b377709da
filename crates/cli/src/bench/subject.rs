//! What is measured: a model, a processor, and observations of random pixels.

use super::args::{BenchArgs, WorkloadName};
use crate::commands::eval::load_parts;
use crate::engines;
use crate::synthetic::{self, Shapes, Synthetic};
use anyhow::{Result, ensure};
use std::path::Path;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;

/// Frames of a real checkpoint's cameras, unless told otherwise.
const CHECKPOINT_FRAME: [usize; 2] = [480, 640];
/// What a real checkpoint is told to do.
const INSTRUCTION: &str = "pick up the squash from the counter and place it in the cabinet";

/// A policy without its engine, and what it is shown.
pub struct Subject {
    pub model: Model,
    /// Fits the model.
    pub precision: PrecisionPolicy,
    pub processor: Processor,
    /// One for each member of the batch.
    pub observations: Vec<Observation>,
}

impl Subject {
    /// Loads or makes up everything that the options ask for.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded, or an option that does not go with it, such as a precision.
    pub fn load(args: &BenchArgs) -> Result<Self> {
        match steadyhand_gr00t::synthetic::config(&args.checkpoint)? {
            Some(config) => Subject::synthetic(args, config),
            None => Subject::checkpoint(args),
        }
    }

    fn synthetic(args: &BenchArgs, mut config: Config) -> Result<Self> {
        for (option, given) in
            [("--embodiment-tag", args.embodiment_tag.is_some()), ("--tokenizer", args.tokenizer.is_some())]
        {
            ensure!(!given, "{option}: expected with a checkpoint folder, found with {}", args.checkpoint);
        }
        let workload = args.workload.unwrap_or(WorkloadName::W1);
        let named = Shapes::default();
        let shapes = Shapes {
            views: args.views.unwrap_or(workload.views()),
            image_size: args.image_size.unwrap_or(named.image_size),
            text_tokens: args.text_tokens.unwrap_or(named.text_tokens),
            frame: args.frame_size,
        };
        config.action_horizon = args.action_horizon.unwrap_or(config.action_horizon);
        let made = Synthetic::make(config, args.seed, &shapes)?;
        let precision = match args.calibrate {
            true => engines::uncalibrated(&args.precision, &made.model)?,
            false => synthetic::policy(&args.precision, &made.model, &args.checkpoint, args.seed)?,
        };
        let observations = seeds(args).map(|seed| made.observation(seed)).collect();
        Ok(Subject { model: made.model, precision, processor: made.processor, observations })
    }

    fn checkpoint(args: &BenchArgs) -> Result<Self> {
        for (option, given) in [
            ("--workload", args.workload.is_some()),
            ("--views", args.views.is_some()),
            ("--text-tokens", args.text_tokens.is_some()),
            ("--image-size", args.image_size.is_some()),
            ("--action-horizon", args.action_horizon.is_some()),
        ] {
            let folder = &args.checkpoint;
            ensure!(!given, "{option}: expected with a synthetic checkpoint, found with the folder {folder}");
        }
        let folder = Path::new(&args.checkpoint);
        let (processor, model) =
            load_parts(folder, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let tag = Some(processor.embodiment_tag());
        let precision = engines::policy(&args.precision, folder, &model, tag)?;
        let frame = args.frame_size.unwrap_or(CHECKPOINT_FRAME);
        let observation = |seed| processor.random_observation(seed, frame, INSTRUCTION.to_owned());
        let observations = seeds(args).map(observation).collect();
        Ok(Subject { model, precision, observations, processor })
    }
}

/// The seed of each member of the batch's observation.
fn seeds(args: &BenchArgs) -> impl Iterator<Item = u64> {
    let first = args.seed;
    (0..u64::from(args.batch)).map(move |member| first.wrapping_add(member))
}
