//! The way of one inference: an observation of the robot in, physical actions out.
//!
//! ```text
//! Observation → Processor::encode → ModelInput → Engine::infer → Processor::decode → ActionChunk
//! ```

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::{Engine, ModelInput};
use crate::model::Model;
use crate::observation::{ActionChunk, Matrix, Observation};
use crate::processor::{Encoded, Processor};
use crate::{Error, Result};
use std::path::Path;

/// A processor and an engine of the same checkpoint.
pub struct Policy<'a> {
    /// Observation to model input, normalized to physical actions.
    pub processor: &'a Processor,
    /// Model input to normalized actions.
    pub engine: &'a mut dyn Engine,
}

impl Policy<'_> {
    /// Actions for an observation, starting from `noise: [action_horizon, max_action_dim]`.
    ///
    /// # Errors
    /// The observation or the noise does not fit the checkpoint.
    pub fn act(&mut self, observation: &Observation, noise: Matrix) -> Result<ActionChunk> {
        let input = prepare(self.processor, observation, noise)?;
        self.infer(observation, input)
    }

    /// The part of [`Policy::act`] after [`prepare`]: callers that look ahead prepare in another thread.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn infer(&mut self, observation: &Observation, input: ModelInput) -> Result<ActionChunk> {
        let actions = self.engine.infer(&[input], None)?;
        self.processor.decode(&actions[0], observation)
    }
}

/// The part of [`Policy::act`] before the engine.
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
    };
    Ok(())
}

/// Opens a checkpoint folder and finds the model in it.
///
/// # Errors
/// The folder is not a GR00T N1.6 checkpoint: named by file and field.
pub fn load_model(folder: &Path) -> Result<Model> {
    let config = Config::load(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    Model::load(&checkpoint, config)
}

/// Whether a processor's action horizon fits the model's.
///
/// # Errors
/// The processor asks for more action steps than the model predicts.
pub fn check_horizon(processor: &Processor, model: &Model) -> Result<()> {
    let (asked, predicted) = (processor.action_horizon(), model.config.action_horizon);
    if asked <= predicted {
        return Ok(());
    }
    let field = format!("processor_config.json: modality_configs.{}.action", processor.embodiment_tag());
    Err(Error::input(field, format!("expected at most {predicted} delta_indices, found {asked}")))
}

/// Whether the model has the slot of a processor's embodiment, and the processor's padded widths.
///
/// # Errors
/// One of them differs.
pub fn check_processor(processor: &Processor, model: &Model) -> Result<()> {
    let (slot, slots) = (processor.embodiment_id(), model.config.max_num_embodiments);
    if slot >= slots {
        let field = format!("embodiment_id.json: {}", processor.embodiment_tag());
        let what = format!("expected below max_num_embodiments = {slots} of config.json, found {slot}");
        return Err(Error::input(field, what));
    }
    for (name, model, processor) in [
        ("max_state_dim", model.config.max_state_dim, processor.max_state_dim()),
        ("max_action_dim", model.config.max_action_dim, processor.max_action_dim()),
    ] {
        if model != processor {
            let what = format!("expected {model} as in config.json, found {processor}");
            return Err(Error::input(format!("processor_config.json: {name}"), what));
        }
    }
    Ok(())
}
