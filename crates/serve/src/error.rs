//! The crate's one error type.

use std::net::SocketAddr;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a server or with one request. What a client is answered is the error's text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("{address}: cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("thread {name}: cannot be started: {source}")]
    Thread {
        /// What it is for.
        name: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// An option of the server has no such value.
    #[error("{option}: {what}")]
    Option {
        /// The option, such as `max_batch`.
        option: &'static str,
        /// What was expected and what was found.
        what: String,
    },
    /// A message that is not one whole msgpack value, or one that is larger than what is read.
    #[error("message: {0}")]
    Message(String),
    /// A field of a request does not fit.
    #[error("{field}: {what}")]
    Field {
        /// The field, such as `observation.video.ego_view`.
        field: String,
        /// What was expected and what was found.
        what: String,
    },
    /// The token is missing or another one.
    #[error("Unauthorized: the request's api_token is not this server's")]
    Unauthorized,
    /// There is no such endpoint.
    #[error("Unknown endpoint: {0}; there are get_action, get_modality_config, kill, ping and reset")]
    Endpoint(String),
    /// `kill` where it is not allowed.
    #[error("kill: this server was started without --allow-kill")]
    KillRefused,
    /// The deadline passed before an engine was free.
    #[error("deadline_ms: {allowed_ms} ms passed before an engine was free; nothing was computed")]
    Late {
        /// What the request allowed.
        allowed_ms: f64,
    },
    /// The server ends.
    #[error("the server is stopping")]
    Stopping,
    /// An engine's thread ended, which only a defect makes it do.
    #[error("the engine that had the request ended unexpectedly, or none is left")]
    EngineEnded,
    /// A server that was asked cannot be reached, left, is silent, or speaks another protocol.
    #[error("{server}: {what}")]
    Server {
        /// Host and port.
        server: String,
        /// What was expected and what was found.
        what: String,
    },
    /// A server that was asked answered with an error of its own.
    #[error("{server}: {endpoint}: the server answers: {error}")]
    Answered {
        /// Host and port.
        server: String,
        /// What it was asked for.
        endpoint: &'static str,
        /// Its words.
        error: String,
    },
    /// The reply of a server that was asked is none.
    #[error("{server}: {endpoint}: {field}: {what}")]
    Reply {
        /// Host and port.
        server: String,
        /// What it was asked for.
        endpoint: &'static str,
        /// The field, such as `action.left_arm`.
        field: String,
        /// What was expected and what was found.
        what: String,
    },
    /// A recording cannot be written or read.
    #[error(transparent)]
    Trace(#[from] steadyhand_fidelity::TraceError),
    /// The policy refused the observation, or the engine failed.
    #[error(transparent)]
    Policy(#[from] steadyhand_gr00t::Error),
}

impl Error {
    /// An [`Error::Field`] about `field`.
    pub fn field(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Field { field: field.into(), what: what.into() }
    }
}
