//! What an inference is given: a batch of observations of one layout, and the shapes that make the layout.

use crate::config::Config;
use crate::ops::{ImageBatch, Tokens};
use crate::processor::RawImage;
use crate::{Error, Result};
use std::borrow::Cow;

/// Pixels of an image's longer side, tokens of all prompts of a batch, state rows and Euler steps beyond these are a
/// mistake: the published model has 252, some 200, 1 and 4.
const MAX_SIDE: usize = 1 << 13;
const MAX_TOKENS: usize = 1 << 20;
const MAX_STATES: usize = 1 << 10;
const MAX_EULER_STEPS: usize = 1000;

/// One inference of one or more observations of the same layout.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// The images of every observation, in the order of the prompt.
    pub images: Vec<ImageBatch<'a>>,
    /// By image and observation what the images are to be made of, where the engine does it: `images` have sizes alone then.
    pub raw: Vec<Vec<&'a RawImage>>,
    /// Token ids, all rows of one length and with image tokens at the same places.
    pub input_ids: Vec<Vec<u32>>,
    /// `[batch, state_horizon, max_state_dim]`.
    pub state: Vec<f32>,
    /// State rows of one observation.
    pub state_horizon: usize,
    /// The embodiment slot of each observation.
    pub embodiment_ids: Vec<usize>,
    /// The initial actions, `[batch, action_horizon, max_action_dim]`.
    pub noise: Vec<f32>,
    /// By how much each action step follows the velocity, `[action_horizon]`; wholly where there is none.
    pub strength: Option<Vec<f32>>,
    /// Euler steps.
    pub denoising_steps: usize,
}

/// The parts of a batch's prompts.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The tokens that stand for image features.
    pub images: Tokens,
    /// All other tokens.
    pub text: Tokens,
}

/// The shapes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Observations in the batch.
    pub batch: usize,
    /// Height and width in pixels of each image of one observation.
    pub images: Vec<[usize; 2]>,
    /// Tokens of one prompt that stand for image features.
    pub image_tokens: usize,
    /// All other tokens of one prompt.
    pub text_tokens: usize,
    /// State rows of one observation.
    pub state_horizon: usize,
    /// Euler steps.
    pub denoising_steps: usize,
}

impl Layout {
    /// One observation of images of these heights and widths, with one text token.
    pub fn example(
        config: &Config,
        images: &[[usize; 2]],
        state_horizon: usize,
        denoising_steps: usize,
    ) -> Self {
        let (images, image_tokens) = (images.to_vec(), config.image_tokens(images));
        Layout { batch: 1, images, image_tokens, text_tokens: 1, state_horizon, denoising_steps }
    }

    /// One observation of one image that becomes one token, in one Euler step.
    pub fn smallest(config: &Config) -> Self {
        Layout::example(config, &[[config.image_token_side(); 2]], config.state_rows().unwrap_or(1), 1)
    }

    /// Tokens of one prompt.
    pub fn tokens(&self) -> usize {
        self.image_tokens.saturating_add(self.text_tokens)
    }

    /// Whether a machine may hold it: what nobody asks for on purpose is refused before memory is taken.
    fn check(&self) -> Result<()> {
        let sides = self.images.iter().flatten().copied();
        let tokens = self.tokens().saturating_mul(self.batch);
        for (name, most, found) in [
            ("image", MAX_SIDE, sides.max().unwrap_or(0)),
            ("tokens", MAX_TOKENS, tokens),
            ("state_horizon", MAX_STATES, self.state_horizon),
            ("denoising_steps", MAX_EULER_STEPS, self.denoising_steps),
        ] {
            if found > most {
                return Err(Error::input(name, format!("expected at most {most}, found {found}")));
            }
        }
        Ok(())
    }
}

impl Batch<'static> {
    /// A batch of this layout without values: for implementations of [`Ops`](crate::ops::Ops) that ask for shapes and
    /// for the parts of the prompt only. Image tokens come first.
    pub fn of_layout(config: &Config, layout: &Layout) -> Result<Self> {
        layout.check()?;
        let image_token = config.image_token();
        let text_token = u32::from(image_token == 0);
        let mut ids = vec![image_token; layout.image_tokens];
        ids.resize(layout.tokens(), text_token);
        let image = |[height, width]: &[usize; 2]| ImageBatch {
            height: *height,
            width: *width,
            frames: 1,
            pixels: Cow::Borrowed(&[]),
        };
        Ok(Batch {
            images: layout.images.iter().map(image).collect(),
            raw: Vec::new(),
            input_ids: vec![ids; layout.batch],
            state: Vec::new(),
            state_horizon: layout.state_horizon,
            embodiment_ids: vec![0; layout.batch],
            noise: Vec::new(),
            strength: None,
            denoising_steps: layout.denoising_steps,
        })
    }
}

impl Batch<'_> {
    /// Number of observations.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no observation.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }
}
