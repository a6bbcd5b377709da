//! What one inference has to read and compute, stage by stage.
//!
//! The numbers are those of the mathematics under `model/`, found by running it over shapes alone
//! ([`Model::visits`]), not of an engine: every matrix of a stage is read once a pass. Activations and caches are left
//! out of the bytes, so a time that follows from them is a lower bound.

use crate::Result;
use crate::config::Config;
use crate::engine::ModelInput;
use crate::model::{Layout, Model};
use crate::topology;
use std::collections::BTreeSet;

/// The layout of inputs that share one; none of them gives an empty batch.
pub fn layout(config: &Config, inputs: &[ModelInput], denoising_steps: usize) -> Layout {
    let first = inputs.first();
    let images: Vec<[usize; 2]> =
        first.map_or(Vec::new(), |input| input.images.sizes().into_iter().map(|[_, h, w]| [h, w]).collect());
    let image_tokens = config.image_tokens(&images);
    let tokens = first.map_or(0, |input| input.input_ids.len());
    Layout {
        batch: inputs.len(),
        images,
        image_tokens,
        text_tokens: tokens.saturating_sub(image_tokens),
        state_horizon: first.map_or(0, |input| input.state.rows),
        denoising_steps,
    }
}

/// What one stage of an inference reads and computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// The stage.
    pub of: topology::Stage,
    /// Parameters that the checkpoint holds for it.
    pub parameters: u64,
    /// Parameters read in one pass.
    pub read: u64,
    /// Passes in one inference: the Euler steps, or 1.
    pub passes: u64,
    /// Floating-point operations of all passes, for the whole batch.
    pub flops: u64,
}

impl Stage {
    /// Bytes of weights read by all passes, at this many bytes a parameter.
    pub fn bytes(&self, parameter_bytes: u64) -> u64 {
        self.read * self.passes * parameter_bytes
    }

    /// The least seconds it can take on a device that reads `bandwidth` bytes and computes `rate` operations a
    /// second; 0 for a stage that needs no time in an inference.
    pub fn floor(&self, parameter_bytes: u64, bandwidth: f64, rate: f64) -> f64 {
        if self.of.constant {
            return 0.0;
        }
        (self.bytes(parameter_bytes) as f64 / bandwidth).max(self.flops as f64 / rate)
    }
}

/// The stages of an inference of `layout`, in their order.
///
/// # Errors
/// A layout that does not fit the model.
pub fn stages(model: &Model, layout: &Layout) -> Result<Vec<Stage>> {
    let steps = layout.denoising_steps as u64;
    let none = |of: &topology::Stage| {
        let passes = if of.in_steps { steps } else { 1 };
        Stage { of: *of, parameters: 0, read: 0, passes, flops: 0 }
    };
    let mut stages: Vec<Stage> = model.topology.stages.iter().map(none).collect();
    let mut known = BTreeSet::new();
    for visit in model.visits(layout)? {
        let Some(of) = model.topology.stage_of(&visit.site) else { continue };
        let Some(stage) = stages.iter_mut().find(|stage| stage.of == *of) else { continue };
        stage.flops += visit.work.flops;
        // The passes of a stage read the same weights.
        if known.insert(visit.site.path().to_owned()) {
            stage.parameters += visit.work.parameters;
            stage.read += visit.work.read;
        }
    }
    Ok(stages)
}

#[cfg(test)]
mod tests;
