//! TensorRT and TensorRT-RTX: engines built from exported graphs, audited against a precision policy, and run.
//!
//! TensorRT-RTX builds without a GPU; TensorRT needs the one that it builds for. Reading an engine's bytes needs an
//! NVIDIA driver and a GPU that the runtime supports, so a [`BuildRecord`] is kept beside each engine.

mod audit;
mod backend;
mod build;
mod engine;
mod ffi;
mod flags;
mod library;
mod profile;
mod record;
mod target;
mod translate;

pub use audit::{Check, audit_bindings, audit_operations};
pub use backend::{EngineFiles, TensorRtBackend};
pub use build::{BuildOptions, Built};
pub use engine::{TensorRtEngine, Times};
pub use ffi::{Product, Version};
pub use flags::BuilderFlag;
pub use library::{Located, locate};
pub use profile::Range;
pub use record::{BuildRecord, Operation, OperationKind};
pub use target::Target;

use std::io::Write;
use std::path::Path;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::export::DEFAULT_OPSET;
use steadyhand_gr00t::ops::onnx::OPSETS;

/// TensorRT or TensorRT-RTX, loaded.
pub struct TensorRt {
    library: ffi::Library,
    located: Located,
}

impl TensorRt {
    /// Loads the libraries as [`locate`] finds them.
    ///
    /// # Errors
    /// As there.
    pub fn open(given: Option<&Path>, target: Option<Target>) -> Result<Self> {
        let (library, located) = library::load(given, target)?;
        Ok(TensorRt { library, located })
    }

    /// What was loaded.
    pub fn located(&self) -> &Located {
        &self.located
    }

    /// The opset of graphs that are exported for it: the first one where networks are made layer by layer.
    pub fn opset(&self) -> i64 {
        if self.library.has_parser() { DEFAULT_OPSET } else { *OPSETS.start() }
    }

    /// Writes all that the libraries say from now on to a file, each line with the seconds since then: in this process they
    /// have one logger.
    pub fn log_to(file: impl Write + Send + 'static) {
        ffi::log_to(Box::new(file));
    }

    /// Such as `TensorRT-RTX 1.7.1`.
    pub fn name(&self) -> String {
        format!("{} {}", self.located.product, self.located.version)
    }
}
