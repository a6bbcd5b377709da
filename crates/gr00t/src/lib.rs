//! GR00T N1.6 policies: checkpoint, processor, model and engines.
//!
//! The way of one inference is in [`policy`].

pub mod calibration;
pub mod checkpoint;
pub mod config;
pub mod engine;
pub mod error;
pub mod exchange;
pub mod export;
pub mod model;
pub mod noise;
pub mod observation;
pub mod ops;
pub mod policy;
pub mod precision;
pub mod probe;
pub mod processor;
pub mod session;
pub mod synthetic;
pub mod topology;
pub mod workload;

pub use error::{Error, Result};
pub use observation::{ActionChunk, Image, Matrix, Observation};
pub use policy::{Policy, PolicyBuilder};
pub use session::Session;
