//! The crate's one error type.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a policy runs on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver, its compiler or the device.
    #[error(transparent)]
    Driver(#[from] steadyhand_cuda_driver::Error),
    /// The model, its inputs, or a precision policy that no kernel executes.
    #[error(transparent)]
    Model(#[from] steadyhand_gr00t::Error),
    /// The engine was asked for what it cannot do.
    #[error("{operation}: {what}")]
    Engine {
        /// The operation, such as `load weights`.
        operation: &'static str,
        /// What was expected and what was found.
        what: String,
    },
}

impl Error {
    /// An [`Error::Engine`] of `operation`.
    pub(crate) fn engine(operation: &'static str, what: impl Into<String>) -> Self {
        Error::Engine { operation, what: what.into() }
    }
}

impl From<Error> for steadyhand_gr00t::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Model(error) => error,
            other => steadyhand_gr00t::Error::engine(other),
        }
    }
}
