//! The part of an inference before the engine.

use crate::Result;
use crate::engine::{Engine, ModelImages, ModelInput};
use crate::observation::{ActionChunk, Matrix, Observation};
use crate::processor::{Encoded, Processor};
use crate::rtc::{Rtc, RtcOptions};
use std::sync::Arc;

/// What a policy does before its engine runs: observations become inputs in the form that the engine takes best. It can be
/// shared with threads that look ahead.
#[derive(Clone)]
pub struct Preparation {
    processor: Arc<Processor>,
    /// Whether the engine processes frames.
    raw: bool,
}

impl Preparation {
    /// For this engine.
    pub fn new(processor: &Arc<Processor>, engine: &dyn Engine) -> Self {
        Preparation { processor: Arc::clone(processor), raw: engine.takes_raw_images() }
    }

    /// Observations to model input and back.
    pub fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// The part of [`Policy::act_with_noise`](super::Policy::act_with_noise) before the engine.
    ///
    /// # Errors
    /// The observation does not fit the processor.
    pub fn prepare(&self, observation: &Observation, noise: Matrix) -> Result<ModelInput> {
        let mut input = ModelInput::default();
        self.prepare_into(observation, noise, &mut input)?;
        Ok(input)
    }

    /// [`Preparation::prepare`] into the memory of an earlier input, which a control loop keeps. After an error `input`
    /// holds anything.
    ///
    /// # Errors
    /// As [`Preparation::prepare`].
    pub fn prepare_into(
        &self,
        observation: &Observation,
        noise: Matrix,
        input: &mut ModelInput,
    ) -> Result<()> {
        let mut encoded = Encoded { input_ids: std::mem::take(&mut input.input_ids), ..Encoded::default() };
        input.images = if self.raw {
            ModelImages::Raw(self.processor.encode_raw(observation, &mut encoded)?)
        } else {
            encoded.pixel_values = std::mem::take(&mut input.images).into_pixels();
            self.processor.encode_into(observation, &mut encoded)?;
            ModelImages::Pixels(encoded.pixel_values)
        };
        input.input_ids = encoded.input_ids;
        input.state = encoded.state;
        input.embodiment_id = encoded.embodiment_id;
        input.noise = noise;
        input.rtc = None;
        Ok(())
    }
}

/// An input that every engine and every fault can read: the processor makes the pixels.
///
/// # Errors
/// The observation does not fit the processor.
pub fn prepare(processor: &Processor, observation: &Observation, noise: Matrix) -> Result<ModelInput> {
    let Encoded { pixel_values, input_ids, state, embodiment_id, .. } = processor.encode(observation)?;
    Ok(ModelInput { images: pixel_values.into(), input_ids, state, embodiment_id, noise, rtc: None })
}

/// What the model goes on from where the chunk before, in physical units, is `previous`; none where nothing of it overlaps.
/// It is normalized as the steps of the new chunk that it becomes.
///
/// # Errors
/// Steps that do not fit each other or the chunk before; a chunk that does not fit the processor.
pub fn continuation(
    processor: &Processor,
    observation: &Observation,
    previous: &ActionChunk,
    options: &RtcOptions,
) -> Result<Option<Rtc>> {
    let rows = previous.groups.iter().map(|(_, actions)| actions.rows).min().unwrap_or_default();
    options.check(rows)?;
    let RtcOptions { action_horizon, overlap_steps, .. } = *options;
    if overlap_steps == 0 {
        return Ok(None);
    }
    let overlap = |actions: &Matrix| Matrix {
        rows: overlap_steps,
        cols: actions.cols,
        data: actions.data[(action_horizon - overlap_steps) * actions.cols..action_horizon * actions.cols]
            .to_vec(),
    };
    let groups = previous.groups.iter().map(|(group, actions)| (group.clone(), overlap(actions)));
    let previous = processor.encode_actions(&ActionChunk { groups: groups.collect() }, observation)?;
    Ok(Some(Rtc { previous, options: RtcOptions { action_horizon: overlap_steps, ..*options } }))
}
