//! Engines that can say where their time goes.

use super::{CpuEngine, Engine, ModelInput};
use crate::Result;
use crate::ops::cpu::Intervention;
use crate::probe::Probe;
use crate::topology::{Stage, Topology};
use serde::Serialize;
use std::time::Instant;
use steadyhand_fidelity::Format;

/// What an engine knows about its own inferences.
pub trait Profile {
    /// How [`Profile::stages`] takes the time, such as `wall clock between taps`.
    fn clock(&self) -> &'static str;

    /// The time of each stage in `iterations` inferences of `inputs`, in the order that they run in. Names are
    /// those of [`Topology::stages`], behind `images` where the engine processes frames.
    ///
    /// # Errors
    /// As [`Engine::infer`].
    fn stages(&mut self, inputs: &[ModelInput], iterations: usize) -> Result<Vec<StageTimes>>;

    /// The accelerator, its measured rates and how the engine uses it; `None` for an engine on the CPU. `operands` is
    /// what the measured matrix product multiplies.
    ///
    /// # Errors
    /// The device cannot be asked or measured, or has no kernel for the operands.
    fn device(&mut self, operands: Format) -> Result<Option<DeviceReport>>;
}

/// The measurements of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageTimes {
    /// The stage, such as `vision`.
    pub name: String,
    /// One value an inference.
    pub milliseconds: Vec<f64>,
}

/// An accelerator at work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceReport {
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Such as `9.0`.
    pub compute_capability: String,
    /// The CUDA version of the driver, such as `13.0`.
    pub driver_version: String,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Memory of the device.
    pub total_memory_bytes: u64,
    /// L2 cache.
    pub l2_bytes: u64,
    /// What the engine holds of it.
    pub allocated_bytes: u64,
    /// Launched in one inference.
    pub kernels_per_inference: usize,
    /// Measured: bytes read and written in a second by a large copy.
    pub copy_bandwidth: f64,
    /// Measured: floating-point operations in a second of a large matrix product of the narrowest operands
    /// that the engine's precision has.
    pub matrix_rate: f64,
}

impl<I: Intervention> Profile for CpuEngine<'_, I> {
    fn clock(&self) -> &'static str {
        "wall clock between taps"
    }

    fn stages(&mut self, inputs: &[ModelInput], iterations: usize) -> Result<Vec<StageTimes>> {
        let ends = ends(&self.model().topology);
        let none = |stage: &Stage| StageTimes { name: stage.name.to_owned(), milliseconds: Vec::new() };
        let mut stages: Vec<StageTimes> = ends.iter().map(none).collect();
        for _ in 0..iterations {
            let mut clock =
                StageClock { last: Instant::now(), milliseconds: vec![0.0; ends.len()], ends: &ends };
            self.infer(inputs, Some(&mut clock))?;
            for (stage, milliseconds) in stages.iter_mut().zip(clock.milliseconds) {
                stage.milliseconds.push(milliseconds);
            }
        }
        Ok(stages)
    }

    fn device(&mut self, _operands: Format) -> Result<Option<DeviceReport>> {
        Ok(None)
    }
}

/// The stages that end at a tap of their own: the CPU engine computes what is constant inside the stage around it.
fn ends(topology: &Topology) -> Vec<Stage> {
    topology.stages.iter().filter(|stage| !stage.constant).copied().collect()
}

/// Gives the time since the last stage ended to the stage that ends at a tap.
#[derive(Debug)]
struct StageClock<'a> {
    last: Instant,
    milliseconds: Vec<f64>,
    ends: &'a [Stage],
}

impl Probe for StageClock<'_> {
    fn tap(&mut self, name: &str, _shape: &[usize], _values: &[f32]) {
        let path = without_step(name);
        if let Some(stage) = self.ends.iter().position(|stage| stage.end == path) {
            let now = Instant::now();
            // The tap that ends the prefix comes once a step: from the second on, nothing lies before it.
            self.milliseconds[stage] += (now - self.last).as_secs_f64() * 1e3;
            self.last = now;
        }
    }
}

/// `step.3.dit.output` as `dit.output`.
fn without_step(name: &str) -> &str {
    let step = name.strip_prefix("step.").and_then(|rest| rest.split_once('.'));
    step.map_or(name, |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::noise::gaussian;
    use crate::precision::PrecisionPolicy;
    use crate::processor::PixelValues;
    use crate::synthetic;

    #[test]
    fn every_stage_of_the_cpu_engine_takes_time() {
        let config = synthetic::tiny();
        let input = ModelInput {
            images: vec![PixelValues { height: 56, width: 56, data: vec![0.5; 3 * 56 * 56] }].into(),
            input_ids: vec![7, 500, 500, 500, 500, 9],
            state: gaussian(1, 0, 0, 1, config.max_state_dim),
            embodiment_id: 0,
            noise: gaussian(1, 1, 0, config.action_horizon, config.max_action_dim),
            rtc: None,
        };
        let model = Model::synthetic(config, 1).expect("consistent sizes");
        let policy = PrecisionPolicy::preset("bf16").expect("a preset");
        let mut engine = CpuEngine::new(model, policy, 2);
        let stages = engine.stages(&[input], 3).expect("inferences");
        assert_eq!(stages.len(), ends(&engine.model().topology).len());
        for StageTimes { name, milliseconds } in stages {
            assert!(milliseconds.len() == 3 && milliseconds.iter().all(|ms| *ms > 0.0), "{name}");
        }
    }

    #[test]
    fn steps_are_left_out_of_names() {
        assert_eq!(
            ["step.12.dit.output", "connector", "step"].map(without_step),
            ["dit.output", "connector", "step"]
        );
    }
}
