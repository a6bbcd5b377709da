//! What can be wrong with a trace.

use std::path::{Path, PathBuf};

/// A trace that cannot be read or written. Names the file, the field, and both sides of a disagreement.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A header or manifest is not the JSON it has to be.
    #[error("{}: {field}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The part of the file: `header` or `manifest`.
        field: &'static str,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A value in a file, or one to be written to it, is not what it has to be.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file or folder.
        path: PathBuf,
        /// The field, such as ``tensor `x`, data_offsets``.
        field: String,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The trace has no tensor of this name.
    #[error("{}: expected a tensor `{name}`, found none among {count}", path.display())]
    Missing {
        /// The trace.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// How many tensors the trace has.
        count: usize,
    },
}

impl TraceError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        TraceError::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        TraceError::Field { path: path.to_path_buf(), field: field.into(), expected, found }
    }
}
