//! A policy without files: weights that are formulas of a seed, observations of random pixels.

use crate::engines;
use anyhow::{Context, Result};
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::{Processor, random_instruction};
use steadyhand_gr00t::synthetic::fingerprint;

/// By how much a camera's frame is larger than the image that becomes of it: 256 for 252.
const FRAME_MARGIN: usize = 4;

/// What a synthetic policy is shown.
pub struct Shapes {
    /// Cameras.
    pub views: usize,
    /// Side in pixels of the square images that the model is given.
    pub image_size: usize,
    /// Tokens of the prompt besides the image tokens.
    pub text_tokens: usize,
    /// Height and width of the cameras' frames; just what becomes the image size otherwise.
    pub frame: Option<[usize; 2]>,
}

impl Default for Shapes {
    /// The workload W1.
    fn default() -> Self {
        Shapes { views: 1, image_size: 252, text_tokens: 40, frame: None }
    }
}

/// A model and its processor, made from a seed.
pub struct Synthetic {
    pub model: Model,
    pub processor: Processor,
    frame: [usize; 2],
    instruction: String,
}

impl Synthetic {
    /// Makes up a policy of these sizes.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn make(config: Config, seed: u64, shapes: &Shapes) -> Result<Self> {
        let processor = Processor::synthetic(&config, shapes.views, shapes.image_size)?;
        let frame = shapes.frame.unwrap_or([shapes.image_size + FRAME_MARGIN; 2]);
        let words = words(&processor, frame, shapes.text_tokens, &config)?;
        let instruction = random_instruction(seed, words);
        Ok(Synthetic { model: Model::synthetic(config, seed)?, processor, frame, instruction })
    }

    /// An observation of random pixels and joint positions.
    pub fn observation(&self, seed: u64) -> Observation {
        self.processor.random_observation(seed, self.frame, self.instruction.clone())
    }
}

/// The policy of this name for the model that `checkpoint`, such as `synth:n1.6`, and a seed make.
///
/// # Errors
/// As [`engines::fitting`]; a policy with a calibration of other weights.
pub fn policy(name: &str, model: &Model, checkpoint: &str, seed: u64) -> Result<PrecisionPolicy> {
    let precision = engines::fitting(name, model)?;
    if let Some(calibration) = precision.calibration() {
        calibration.expect_weights(&fingerprint(checkpoint, seed))?;
    }
    Ok(precision)
}

/// How many words of an instruction give a prompt of `text_tokens` tokens besides the image tokens.
fn words(processor: &Processor, frame: [usize; 2], text_tokens: usize, config: &Config) -> Result<usize> {
    let empty = processor.encode(&processor.random_observation(0, frame, String::new()))?;
    let image = config.image_token();
    let template = empty.input_ids.iter().filter(|id| **id != image).count();
    text_tokens.checked_sub(template).with_context(|| {
        format!("--text-tokens: expected at least {template}, the prompt's own, found {text_tokens}")
    })
}
