//! An engine on a GPU: asked what it is, and run.

use super::TensorRt;
use super::build::binding;
use super::ffi::{Engine, Execution, Product};
use crate::bindings::{Binding, Bindings, Runner, Tensor};
use crate::chain::{Link, join};
use std::path::Path;
use steadyhand_cuda_driver::Device;
use steadyhand_gr00t::{Error, Result};

/// Compute capabilities that TensorRT-RTX's engines can be built for, as its interface lists them; also of an engine
/// that is built for all.
const SUPPORTED: &str = "7.5, 8.0, 8.6, 8.9, 12.0 and 12.1";

/// An engine that a GPU has taken, or several that are one.
pub struct TensorRtEngine {
    /// The file and the GPU, for errors.
    name: String,
    execution: Execution,
    bindings: Bindings,
}

impl TensorRt {
    /// Opens an engine's bytes on the GPU of this number. `path` is where they were found.
    ///
    /// # Errors
    /// As of [`TensorRt::open_engines`].
    pub fn open_engine(&self, path: &Path, bytes: &[u8], device: usize) -> Result<TensorRtEngine> {
        self.open_engines(&[(path, bytes)], device)
    }

    /// Opens the bytes of an engine, or of several that are one ([`join`]), on the GPU of this number, with the paths where
    /// they were found.
    ///
    /// # Errors
    /// No NVIDIA driver or no such GPU; the runtime's reasons, with the GPU's name and compute capability and those that
    /// the runtime supports; engines that are not one.
    pub fn open_engines(&self, files: &[(&Path, &[u8])], device: usize) -> Result<TensorRtEngine> {
        let device = Device::open(device).map_err(Error::engine)?;
        let properties = device.properties().clone();
        let (major, minor) = properties.compute_capability;
        let gpu = format!("{} (compute capability {major}.{minor})", properties.name);
        let refuse = |path: &Path, what: String| {
            let supported = match self.located().product {
                Product::TensorRtRtx => format!("; it supports {SUPPORTED}"),
                Product::TensorRt => String::new(),
            };
            Error::file(path, format!("{} does not take it on {gpu}: {what}{supported}", self.name()))
        };
        let mut engines = Vec::with_capacity(files.len());
        let mut own = Vec::with_capacity(files.len());
        for (path, bytes) in files {
            let engine = Engine::deserialize(&self.library, bytes).map_err(|what| refuse(path, what))?;
            let ports = engine.ports().map_err(|what| refuse(path, what))?;
            let bindings =
                ports.into_iter().map(|(port, direction, profile)| binding(port, direction, profile));
            own.push((path.display().to_string(), Bindings::new(bindings.collect())));
            engines.push(engine);
        }
        let links: Vec<Link<'_>> = own.iter().map(|(name, bindings)| Link { name, bindings }).collect();
        let bindings = join(&links)?;
        let names: Vec<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
        let name = format!("{} on {gpu}", names.join(", "));
        let execution = Execution::new(device, engines).map_err(|what| Error::input(&name, what))?;
        Ok(TensorRtEngine { name, bindings, execution })
    }
}

impl TensorRtEngine {
    /// What each engine says of its layers, as JSON.
    ///
    /// # Errors
    /// The library's reasons.
    pub fn information(&self) -> Result<Vec<String>> {
        let of_all = self.execution.engines().map(|engine| engine.information());
        of_all.map(|said| said.map_err(|what| Error::input(&self.name, what))).collect()
    }
}

/// How long runs of an engine took, in milliseconds.
#[derive(Debug, Clone)]
pub struct Times {
    /// Queued by the library.
    pub queued: Vec<f32>,
    /// Replayed as one CUDA graph of the same work; none where it cannot be captured.
    pub replayed: Option<Vec<f32>>,
}

impl TensorRtEngine {
    /// Runs it `repeats` times on inputs that lie on the GPU.
    ///
    /// # Errors
    /// As of [`Runner::run`].
    pub fn time(&mut self, inputs: Vec<(String, Tensor)>, repeats: usize) -> Result<Times> {
        let bound = self.bindings.bind(inputs)?;
        let times = self.execution.time(&bound, repeats);
        let (queued, replayed) = times.map_err(|what| Error::input(&self.name, what))?;
        Ok(Times { queued, replayed })
    }
}

impl Runner for TensorRtEngine {
    fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        let bound = self.bindings.bind(inputs)?;
        let outputs: Vec<&Binding> = self.bindings.outputs().collect();
        let results = self.execution.run(&bound, &outputs);
        let results = results.map_err(|what| Error::input(&self.name, what))?;
        Ok(outputs.iter().map(|output| output.name.clone()).zip(results).collect())
    }
}
