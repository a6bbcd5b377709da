//! What is measured: a model, a processor, and observations of random pixels.

use super::args::{BenchArgs, WorkloadName};
use crate::commands::eval::load_parts;
use crate::engines;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::{Processor, random_instruction};
use steadyhand_gr00t::synthetic;

/// Text tokens of the named workloads.
const TEXT_TOKENS: usize = 40;
/// Image side of the named workloads.
const IMAGE_SIZE: usize = 252;
/// By how much a camera's frame is larger than the image that becomes of it: 256 for 252.
const FRAME_MARGIN: usize = 4;
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
        match synthetic::config(&args.checkpoint)? {
            Some(config) => Subject::synthetic(args, config),
            None => Subject::checkpoint(args),
        }
    }

    fn synthetic(args: &BenchArgs, config: Config) -> Result<Self> {
        for (option, given) in
            [("--embodiment-tag", args.embodiment_tag.is_some()), ("--tokenizer", args.tokenizer.is_some())]
        {
            ensure!(!given, "{option}: expected with a checkpoint folder, found with {}", args.checkpoint);
        }
        let shapes = Shapes {
            views: args.views.unwrap_or(args.workload.unwrap_or(WorkloadName::W1).views()),
            text_tokens: args.text_tokens.unwrap_or(TEXT_TOKENS),
            image_size: args.image_size.unwrap_or(IMAGE_SIZE),
            frame: args.frame_size,
            action_horizon: args.action_horizon,
        };
        let Synthetic { model, processor, observations } =
            synthetic_policy(config, &shapes, args.seed, usize::from(args.batch))?;
        let precision = engines::fitting(&args.precision, &model)?;
        if let Some(calibration) = precision.calibration() {
            calibration.expect_weights(&synthetic::fingerprint(&args.checkpoint, args.seed))?;
        }
        Ok(Subject { model, precision, observations, processor })
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
        let observations = observations(&processor, frame, INSTRUCTION, args.seed, usize::from(args.batch));
        Ok(Subject { model, precision, observations, processor })
    }
}

/// The shapes of a made-up workload.
pub struct Shapes {
    pub views: usize,
    pub text_tokens: usize,
    pub image_size: usize,
    /// Just what becomes the image size otherwise.
    pub frame: Option<[usize; 2]>,
    /// The model's otherwise.
    pub action_horizon: Option<usize>,
}

impl Default for Shapes {
    /// Those of W1.
    fn default() -> Self {
        let (views, text_tokens, image_size) = (WorkloadName::W1.views(), TEXT_TOKENS, IMAGE_SIZE);
        Shapes { views, text_tokens, image_size, frame: None, action_horizon: None }
    }
}

/// A policy of random weights, and what it is shown.
pub struct Synthetic {
    pub model: Model,
    pub processor: Processor,
    pub observations: Vec<Observation>,
}

/// Makes up a policy of these sizes and `count` observations of one layout.
///
/// # Errors
/// Shapes that do not fit the model.
pub fn synthetic_policy(mut config: Config, shapes: &Shapes, seed: u64, count: usize) -> Result<Synthetic> {
    config.action_horizon = shapes.action_horizon.unwrap_or(config.action_horizon);
    let processor = Processor::synthetic(&config, shapes.views, shapes.image_size)?;
    let frame = shapes.frame.unwrap_or([shapes.image_size + FRAME_MARGIN; 2]);
    let words = words(&processor, frame, shapes.text_tokens, &config)?;
    let observations = observations(&processor, frame, &random_instruction(seed, words), seed, count);
    Ok(Synthetic { model: Model::synthetic(config, seed)?, processor, observations })
}

fn observations(
    processor: &Processor,
    frame: [usize; 2],
    instruction: &str,
    seed: u64,
    count: usize,
) -> Vec<Observation> {
    let seeds = (0..count as u64).map(|member| seed.wrapping_add(member));
    seeds.map(|seed| processor.random_observation(seed, frame, instruction.to_owned())).collect()
}

/// How many words of an instruction give a prompt of `text_tokens` tokens besides the image tokens.
fn words(processor: &Processor, frame: [usize; 2], text_tokens: usize, config: &Config) -> Result<usize> {
    let empty = processor.encode(&processor.random_observation(0, frame, String::new()))?;
    let image = config.eagle_config.image_token_index;
    let template = empty.input_ids.iter().filter(|id| **id != image).count();
    text_tokens.checked_sub(template).with_context(|| {
        format!("--text-tokens: expected at least {template}, the prompt's own, found {text_tokens}")
    })
}
