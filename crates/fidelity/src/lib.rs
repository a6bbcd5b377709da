//! Number formats and error metrics for comparing inference engines.
//!
//! This crate knows no model: it rounds numbers as a format does, and measures how far two tensors lie apart.

pub mod format;
pub mod metrics;

pub use format::Format;
pub use metrics::{max_abs_error, relative_l2};
