#![doc = include_str!("../README.md")]
//!
//! # The way of one inference
//!
//! [`policy`] has it, from an observation to an action chunk.

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
pub mod rtc;
pub mod session;
pub mod synthetic;
pub mod topology;
pub mod version;
pub mod workload;

pub use error::{Error, Result};
pub use observation::{ActionChunk, Image, Matrix, Observation};
pub use policy::{Policy, PolicyBuilder};
pub use session::Session;
pub use version::Version;

/// The program on the repository's first page: compiled as it is written there.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FirstPage;
