//! The crate's error type.

use std::path::{Path, PathBuf};
use steadyhand_fidelity::TraceError;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while an engine is judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model, an engine or an input.
    #[error(transparent)]
    Model(#[from] steadyhand_gr00t::Error),
    /// A recording of an engine's tensors.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Tensors of a running engine cannot be kept on disk.
    #[error("{path}: tensors of a running engine cannot be kept: {what}", path = path.display())]
    Scratch {
        /// The folder.
        path: PathBuf,
        /// How much was kept before, and why no more can be.
        what: String,
    },
    /// What was to be judged does not fit what it was shown.
    #[error("{field}: {what}")]
    Input {
        /// What was given.
        field: String,
        /// What was expected and what was found.
        what: String,
    },
}

impl Error {
    /// An [`Error::Input`] about `field`.
    pub fn input(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Input { field: field.into(), what: what.into() }
    }

    /// An [`Error::Scratch`] of the folder `path`.
    pub(crate) fn scratch(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::Scratch { path: path.as_ref().to_path_buf(), what: what.into() }
    }
}
