//! An engine's file as a backend of policies: the component that it is there, the rest on the reference.

use super::{BuildRecord, Target, TensorRt, TensorRtEngine};
use crate::composed::ComposedEngine;
use std::path::{Path, PathBuf};
use steadyhand_cuda_driver::Device;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// An engine of TensorRT or TensorRT-RTX in a file, with the record of how it was built where there is one.
#[derive(Debug, Clone)]
pub struct EngineFile {
    path: PathBuf,
    bytes: Vec<u8>,
    record: Option<BuildRecord>,
}

impl EngineFile {
    /// Reads the engine and its record.
    ///
    /// # Errors
    /// A file that cannot be read; a record that is not this engine's.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let record = BuildRecord::read(path, &bytes)?;
        Ok(EngineFile { path: path.to_path_buf(), bytes, record })
    }

    /// The precision that its graph was exported at; none where no record says it.
    ///
    /// # Errors
    /// The record's precision is none.
    pub fn precision(&self) -> Result<Option<PrecisionPolicy>> {
        let Some(said) = self.said("precision") else { return Ok(None) };
        PrecisionPolicy::from_identity(said, &BuildRecord::path_of(&self.path)).map(Some)
    }

    /// Opens it on the GPU of this number, by the library of what built it; `library` is that or its folder where it is not
    /// to be looked for.
    ///
    /// # Errors
    /// As [`TensorRt::open`] and [`TensorRt::open_engine`].
    pub fn open(&self, library: Option<&Path>, device: usize) -> Result<TensorRtEngine> {
        let target = self.record.as_ref().and_then(|record| Target::of_builder(&record.builder));
        TensorRt::open(library, target)?.open_engine(&self.path, &self.bytes, device)
    }

    /// What the record says of the graph.
    fn said(&self, key: &str) -> Option<&str> {
        self.record.as_ref()?.source.get(key).map(String::as_str)
    }

    /// Whether the record says what is expected, where it says something.
    fn check_record(&self, key: &str, expected: &str) -> Result<()> {
        match self.said(key) {
            Some(found) if found != expected => {
                let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
                let what = format!("{key}: expected {}, found {}", line(expected), line(found));
                Err(Error::file(BuildRecord::path_of(&self.path), what))
            }
            _ => Ok(()),
        }
    }
}

/// Opens [`ComposedEngine`]s around an [`EngineFile`].
#[derive(Debug, Clone)]
pub struct TensorRtBackend {
    /// The engine.
    pub engine: EngineFile,
    /// TensorRT's library or its folder, where it is not to be looked for.
    pub library: Option<PathBuf>,
    /// Number of the GPU.
    pub device: usize,
}

impl Backend for TensorRtBackend {
    fn name(&self) -> &'static str {
        "tensorrt"
    }

    fn device(&self) -> Result<String> {
        let device = Device::open(self.device).map_err(Error::engine)?;
        Ok(format!("{}, the rest of the policy emulated on the CPU", device.properties().name))
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        policy.check(sites)?;
        self.engine.check_record("precision", &policy.identity())
    }

    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>> {
        self.check(&policy, &model.sites()?)?;
        // Weights that a seed makes have no folder, and are told apart by none.
        if let Some(fingerprint) = model.checkpoint().map(Checkpoint::fingerprint) {
            self.engine.check_record("checkpoint", &fingerprint)?;
        }
        self.engine.check_record("denoising_steps", &denoising_steps.to_string())?;
        let runner = self.engine.open(self.library.as_deref(), self.device)?;
        let engine = ComposedEngine::new(self.name(), model, policy, denoising_steps, Box::new(runner))?;
        Ok(Box::new(engine))
    }
}
