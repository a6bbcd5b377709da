//! What the engine can say of where its time goes, behind [`Profile`].

use super::engine::CudaEngine;
use super::measure::{copy_bandwidth, matrix_rate};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{DeviceReport, ModelInput, Profile, StageTimes};

impl Profile for CudaEngine {
    fn clock(&self) -> &'static str {
        "CUDA events between the stages' graphs"
    }

    fn stages(&mut self, inputs: &[ModelInput], iterations: usize) -> Result<Vec<StageTimes>> {
        let stages = self.stage_times(inputs, iterations)?.into_iter().map(|stage| StageTimes {
            name: stage.name,
            milliseconds: stage.milliseconds.into_iter().map(f64::from).collect(),
        });
        Ok(stages.collect())
    }

    fn device(&mut self, operands: Format) -> Result<Option<DeviceReport>> {
        let device = CudaEngine::device(self);
        let allocated_bytes = device.allocated_bytes() as u64;
        let properties = device.properties();
        let ((major, minor), driver) = (properties.compute_capability, properties.driver_version);
        Ok(Some(DeviceReport {
            name: properties.name.clone(),
            compute_capability: format!("{major}.{minor}"),
            driver_version: format!("{}.{}", driver / 1000, driver % 1000 / 10),
            multiprocessors: properties.multiprocessors as usize,
            total_memory_bytes: properties.total_memory as u64,
            l2_bytes: properties.l2_bytes as u64,
            allocated_bytes,
            kernels_per_inference: self.kernels_per_inference(),
            copy_bandwidth: copy_bandwidth(device)?,
            matrix_rate: matrix_rate(device, self.kernels(), operands)?,
        }))
    }
}
