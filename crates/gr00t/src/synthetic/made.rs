//! A policy without files: weights that are formulas of a seed, observations of random pixels.

use crate::config::Config;
use crate::model::Model;
use crate::policy::Parts;
use crate::processor::{Processor, frame_side, random_instruction};
use crate::{Error, Observation, Result};

/// Side of the square frames that published checkpoints resize to.
const USUAL_SIDE: usize = 256;

/// The longest made-up instruction.
const MAX_TEXT_TOKENS: usize = 1 << 12;
/// The longest side of a camera's frame.
const MAX_FRAME_SIDE: usize = 1 << 13;

/// What a synthetic policy is shown.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// Cameras.
    pub views: usize,
    /// Side in pixels of the square images that the model is given; what becomes of 256 pixels otherwise, as published
    /// checkpoints resize to.
    pub image_size: Option<usize>,
    /// Tokens of the prompt besides the image tokens.
    pub text_tokens: usize,
    /// Height and width of the cameras' frames; just what becomes the image size otherwise.
    pub frame: Option<[usize; 2]>,
}

impl Shapes {
    /// Whether memory may be taken for what is shown.
    ///
    /// # Errors
    /// A prompt or a frame that is far larger than any robot's.
    pub(crate) fn check(&self) -> Result<()> {
        let side = self.frame.map_or(0, |[height, width]| height.max(width));
        for (option, most, found) in
            [("text_tokens", MAX_TEXT_TOKENS, self.text_tokens), ("frame_size", MAX_FRAME_SIDE, side)]
        {
            if found > most {
                return Err(Error::option(option, format!("expected at most {most}, found {found}")));
            }
        }
        Ok(())
    }
}

impl Default for Shapes {
    /// The workload W1.
    fn default() -> Self {
        Shapes { views: 1, image_size: None, text_tokens: 40, frame: None }
    }
}

/// A policy without its engine, made from a seed, and what it is shown.
#[derive(Clone)]
pub struct Synthetic {
    /// Model and processor.
    pub parts: Parts,
    /// Height and width of the cameras' frames.
    pub(crate) frame: [usize; 2],
    pub(crate) instruction: String,
}

impl Synthetic {
    /// Makes up a policy of these sizes; `name` is theirs, such as `synth:n1.6`.
    ///
    /// # Errors
    /// Sizes that do not fit each other.
    pub fn make(name: &str, config: Config, seed: u64, shapes: &Shapes) -> Result<Self> {
        shapes.check()?;
        let token = config.image_token_side();
        let side = shapes.image_size.unwrap_or(USUAL_SIDE / token * token);
        let processor = Processor::synthetic(&config, shapes.views, side)?;
        let frame = shapes.frame.unwrap_or([frame_side(config.version, side); 2]);
        let words = words(&processor, frame, shapes.text_tokens, &config)?;
        let instruction = random_instruction(seed, words);
        let model = Model::synthetic(config, seed)?;
        Ok(Synthetic { parts: Parts::synthetic(name, seed, model, processor), frame, instruction })
    }

    /// An observation of random pixels and joint positions.
    pub fn observation(&self, seed: u64) -> Observation {
        self.parts.processor.random_observation(seed, self.frame, self.instruction.clone())
    }
}

/// How many words of an instruction give a prompt of `text_tokens` tokens besides the image tokens.
fn words(processor: &Processor, frame: [usize; 2], text_tokens: usize, config: &Config) -> Result<usize> {
    let empty = processor.encode(&processor.random_observation(0, frame, String::new()))?;
    let image = config.image_token();
    let template = empty.input_ids.iter().filter(|id| **id != image).count();
    text_tokens.checked_sub(template).ok_or_else(|| {
        let what = format!("expected at least {template}, the prompt's own, found {text_tokens}");
        Error::option("text_tokens", what)
    })
}
