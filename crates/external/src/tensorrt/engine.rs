//! An engine on a GPU: asked what it is, and run.

use super::TensorRt;
use super::build::binding;
use super::ffi::{Engine, Execution, Port};
use crate::bindings::{Bindings, Direction, Runner, Tensor};
use std::path::Path;
use steadyhand_cuda_driver::Device;
use steadyhand_gr00t::{Error, Result};

/// Compute capabilities that engines can be built for, as the library's interface lists them; also of an engine that
/// is built for all.
const SUPPORTED: &str = "7.5, 8.0, 8.6, 8.9, 12.0 and 12.1";

/// An engine that a GPU has taken.
pub struct TensorRtEngine {
    /// The file and the GPU, for errors.
    name: String,
    execution: Execution,
    bindings: Bindings,
    outputs: Vec<Port>,
}

impl TensorRt {
    /// Opens an engine's bytes on the GPU of this number. `path` is where they were found.
    ///
    /// # Errors
    /// No NVIDIA driver or no such GPU; the runtime's reasons, with the GPU's name and compute capability and those that
    /// the runtime supports.
    pub fn open_engine(&self, path: &Path, bytes: &[u8], device: usize) -> Result<TensorRtEngine> {
        let device = Device::open(device).map_err(Error::engine)?;
        let properties = device.properties().clone();
        let (major, minor) = properties.compute_capability;
        let gpu = format!("{} (compute capability {major}.{minor})", properties.name);
        let refuse = |what: String| {
            let what = format!("{} does not take it on {gpu}: {what}; it supports {SUPPORTED}", self.name());
            Error::file(path, what)
        };
        let engine = Engine::deserialize(&self.library, bytes).map_err(refuse)?;
        let ports = engine.ports().map_err(refuse)?;
        let output = |(port, direction, _): &(Port, Direction, _)| {
            (*direction == Direction::Output).then(|| port.clone())
        };
        let outputs = ports.iter().filter_map(output).collect();
        let bindings = ports.into_iter().map(|(port, direction, profile)| binding(port, direction, profile));
        Ok(TensorRtEngine {
            name: format!("{} on {gpu}", path.display()),
            bindings: Bindings::new(bindings.collect()),
            outputs,
            execution: Execution::new(device, engine).map_err(refuse)?,
        })
    }
}

impl TensorRtEngine {
    /// What the engine says of its layers, as JSON.
    ///
    /// # Errors
    /// The library's reasons.
    pub fn information(&self) -> Result<String> {
        self.execution.engine().information().map_err(|what| Error::input(&self.name, what))
    }
}

impl Runner for TensorRtEngine {
    fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        let bound = self.bindings.bind(inputs)?;
        let results = self.execution.run(&bound, &self.outputs);
        let results = results.map_err(|what| Error::input(&self.name, what))?;
        Ok(self.outputs.iter().map(|output| output.name.clone()).zip(results).collect())
    }
}
