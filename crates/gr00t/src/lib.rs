//! GR00T N1.6 policies: checkpoint, processor, model and engines.

pub mod error;
pub mod observation;
pub mod processor;

pub use error::{Error, Result};
pub use observation::{ActionChunk, Image, Matrix, Observation};
