//! The crate's one error type: every variant names the file, field or operation it is about.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint folder and an action chunk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file was read but its contents are not what the format requires.
    #[error("{path}: {what}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Field, what was expected, what was found.
        what: String,
    },
    /// An input to the policy does not fit the checkpoint.
    #[error("{field}: {what}")]
    Input {
        /// The observation's or request's field, such as `state.left_arm`.
        field: String,
        /// What was expected and what was found.
        what: String,
    },
    /// An option of a policy or a session that must be set, or does not fit what it is for.
    #[error("{option}: {what}")]
    Option {
        /// The option, such as `embodiment_tag`.
        option: &'static str,
        /// What was expected and what was found.
        what: String,
    },
    /// A dataset, an episode or a video could not be read.
    #[error(transparent)]
    Dataset(#[from] steadyhand_lerobot::Error),
    /// Something went wrong at one place of many.
    #[error("{place}: {source}")]
    At {
        /// The place, such as `episode 3, step 16`.
        place: String,
        /// What went wrong there.
        source: Box<Error>,
    },
    /// An operation of the model was given shapes it cannot combine.
    #[error("{site}: {operation}: {what}")]
    Shape {
        /// Where in the model, such as `dit.block.7.attention`.
        site: String,
        /// The operation, such as `linear`.
        operation: &'static str,
        /// The shapes.
        what: String,
    },
    /// An engine failed, or the device or a library that it needs is missing.
    #[error(transparent)]
    Engine(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An [`Error::File`] about `path`.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Option`] of this option.
    pub fn option(option: &'static str, what: impl Into<String>) -> Self {
        Error::Option { option, what: what.into() }
    }

    /// This error with the place where it happened.
    #[must_use]
    pub fn at(self, place: impl Into<String>) -> Self {
        Error::At { place: place.into(), source: Box::new(self) }
    }

    /// An [`Error::Engine`] for `reason`, the engine's own error.
    pub fn engine(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Engine(reason.into())
    }

    /// An [`Error::Input`] about `field`.
    pub fn input(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Input { field: field.into(), what: what.into() }
    }
}
