//! An engine's file as a backend of policies: the component that it is there, the rest on the reference.

use super::{BuildRecord, Target, TensorRt, TensorRtEngine};
use crate::chain::{Link, check_sources, join};
use crate::composed::ComposedEngine;
use std::path::{Path, PathBuf};
use steadyhand_cuda_driver::Device;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// An engine of TensorRT or TensorRT-RTX in a file, or several that are one ([`crate::chain`]), with the records of how they
/// were built where there are any.
#[derive(Debug, Clone)]
pub struct EngineFiles(Vec<EngineFile>);

#[derive(Debug, Clone)]
struct EngineFile {
    path: PathBuf,
    bytes: Vec<u8>,
    record: Option<BuildRecord>,
}

impl EngineFiles {
    /// Reads engines in their order, and their records.
    ///
    /// # Errors
    /// A file that cannot be read; a record that is not its engine's; records of engines that are not one; no file.
    pub fn read(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let files = paths.iter().map(|path| {
            let path = path.as_ref();
            let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
            let record = BuildRecord::read(path, &bytes)?;
            Ok(EngineFile { path: path.to_path_buf(), bytes, record })
        });
        let files: Vec<EngineFile> = files.collect::<Result<_>>()?;
        let names: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
        let recorded = || {
            let named = files.iter().zip(&names);
            named.filter_map(|(file, name)| Some((name.as_str(), file.record.as_ref()?)))
        };
        check_sources(recorded().map(|(name, record)| (name, &record.source)))?;
        let links: Vec<Link<'_>> =
            recorded().map(|(name, record)| Link { name, bindings: &record.bindings }).collect();
        // Where all have one it is known before a library is looked for.
        if links.len() == files.len() {
            join(&links)?;
        }
        Ok(EngineFiles(files))
    }

    /// The precision that its graph was exported at; none where no record says it.
    ///
    /// # Errors
    /// The record's precision is none.
    pub fn precision(&self) -> Result<Option<PrecisionPolicy>> {
        let Some((path, said)) = self.said("precision") else { return Ok(None) };
        PrecisionPolicy::from_identity(said, &BuildRecord::path_of(path)).map(Some)
    }

    /// Opens it on the GPU of this number, by the library of what built it; `library` is that or its folder where it is not
    /// to be looked for.
    ///
    /// # Errors
    /// As [`TensorRt::open`] and [`TensorRt::open_engines`].
    pub fn open(&self, library: Option<&Path>, device: usize) -> Result<TensorRtEngine> {
        let mut records = self.0.iter().filter_map(|file| file.record.as_ref());
        let target = records.find_map(|record| Target::of_builder(&record.builder));
        let files: Vec<(&Path, &[u8])> =
            self.0.iter().map(|file| (file.path.as_path(), file.bytes.as_slice())).collect();
        TensorRt::open(library, target)?.open_engines(&files, device)
    }

    /// What a record says of the graph, and whose it is.
    fn said(&self, key: &str) -> Option<(&Path, &str)> {
        self.0.iter().find_map(|file| {
            let said = file.record.as_ref()?.source.get(key)?;
            Some((file.path.as_path(), said.as_str()))
        })
    }

    /// Whether the record says what is expected, where it says something.
    fn check_record(&self, key: &str, expected: &str) -> Result<()> {
        match self.said(key) {
            Some((path, found)) if found != expected => {
                let line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
                let what = format!("{key}: expected {}, found {}", line(expected), line(found));
                Err(Error::file(BuildRecord::path_of(path), what))
            }
            _ => Ok(()),
        }
    }
}

/// Opens [`ComposedEngine`]s around [`EngineFiles`].
#[derive(Debug, Clone)]
pub struct TensorRtBackend {
    /// The engine.
    pub engine: EngineFiles,
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
