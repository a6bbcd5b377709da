//! ONNX Runtime as a backend of policies.

use super::provider::tf32_is_off;
use super::{OnnxRuntimeEngine, RuntimeOptions, from_file};
use std::path::PathBuf;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::{ModelSite, onnx};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// Opens [`OnnxRuntimeEngine`]s.
#[derive(Debug, Clone, Default)]
pub struct OnnxRuntime {
    /// How the library is loaded and what computes.
    pub options: RuntimeOptions,
    /// A policy, an action head or a part of one that was exported before; a policy is exported to a temporary folder
    /// otherwise.
    pub graph: Option<PathBuf>,
}

impl Backend for OnnxRuntime {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn device(&self) -> Result<String> {
        Ok(format!("ONNX Runtime, {}", self.options.provider))
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        onnx::check(policy, sites)?;
        self.options.provider.check(policy, sites, tf32_is_off())
    }

    /// Graphs carry the fingerprint of their checkpoint: weights that a seed makes have none and are refused.
    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>> {
        let Some(fingerprint) = model.checkpoint().map(Checkpoint::fingerprint) else {
            return Err(Error::input("onnxruntime", "expected a checkpoint folder, found synthetic weights"));
        };
        let options = &self.options;
        match &self.graph {
            Some(file) => from_file(model, &fingerprint, policy, denoising_steps, options, file),
            None => Ok(Box::new(OnnxRuntimeEngine::exporting(
                model,
                &fingerprint,
                policy,
                denoising_steps,
                options,
            )?)),
        }
    }
}
