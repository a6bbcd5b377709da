//! TensorRT-RTX: engines built from exported graphs, audited against a precision policy, and run.
//!
//! Building needs no GPU. Reading an engine's bytes needs an NVIDIA driver and a GPU that the runtime supports, so a
//! [`BuildRecord`] is kept beside each engine.

mod audit;
mod build;
mod engine;
mod ffi;
mod flags;
mod library;
mod profile;
mod record;

pub use audit::{Check, audit_bindings, audit_operations};
pub use build::{BuildOptions, Built};
pub use engine::TensorRtEngine;
pub use ffi::Version;
pub use flags::BuilderFlag;
pub use library::{Located, locate};
pub use profile::Range;
pub use record::{BuildRecord, Operation, OperationKind};

use std::path::Path;
use steadyhand_gr00t::Result;

/// TensorRT-RTX, loaded.
pub struct TensorRt {
    library: ffi::Library,
    located: Located,
}

impl TensorRt {
    /// Loads the libraries as [`locate`] finds them.
    ///
    /// # Errors
    /// As there.
    pub fn open(given: Option<&Path>) -> Result<Self> {
        let (library, located) = library::load(given)?;
        Ok(TensorRt { library, located })
    }

    /// What was loaded.
    pub fn located(&self) -> &Located {
        &self.located
    }

    /// Such as `TensorRT-RTX 1.7.1`.
    pub fn name(&self) -> String {
        format!("TensorRT-RTX {}", self.located.version)
    }
}
