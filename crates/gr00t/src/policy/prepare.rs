//! The part of an inference before the engine.

use crate::Result;
use crate::engine::ModelInput;
use crate::observation::{Matrix, Observation};
use crate::processor::{Encoded, Processor};

/// The part of [`Policy::act_with_noise`](super::Policy::act_with_noise) before the engine.
///
/// # Errors
/// The observation does not fit the processor.
pub fn prepare(processor: &Processor, observation: &Observation, noise: Matrix) -> Result<ModelInput> {
    let mut input = ModelInput::default();
    prepare_into(processor, observation, noise, &mut input)?;
    Ok(input)
}

/// [`prepare`] into the memory of an earlier input, which a control loop keeps. After an error `input` holds
/// anything.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_into(
    processor: &Processor,
    observation: &Observation,
    noise: Matrix,
    input: &mut ModelInput,
) -> Result<()> {
    let mut encoded = Encoded {
        pixel_values: std::mem::take(&mut input.images),
        input_ids: std::mem::take(&mut input.input_ids),
        ..Encoded::default()
    };
    processor.encode_into(observation, &mut encoded)?;
    *input = ModelInput {
        images: encoded.pixel_values,
        input_ids: encoded.input_ids,
        state: encoded.state,
        embodiment_id: encoded.embodiment_id,
        noise,
        rtc: None,
    };
    Ok(())
}
