//! The part of an inference before the engine.

use crate::Result;
use crate::engine::ModelInput;
use crate::observation::{ActionChunk, Matrix, Observation};
use crate::processor::{Encoded, Processor};
use crate::rtc::{Rtc, RtcOptions};

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
