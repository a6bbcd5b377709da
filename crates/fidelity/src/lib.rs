#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! Number formats, error metrics, traces and fault matchers for comparing inference engines.
//!
//! This crate knows no model: it rounds numbers as a format does, measures how far two tensors lie apart,
//! keeps tensors on disk, and finds what simple fault turns one tensor into another.

pub mod format;
pub mod matchers;
pub mod metrics;
pub mod trace;

pub use format::Format;
pub use matchers::{Match, MatchContext, MatchKind, explain};
pub use metrics::{TensorError, max_abs_error, relative_l2};
pub use trace::{Trace, TraceError, TraceWriter};

/// Number of values of a shape; none where it overflows.
fn value_count(shape: &[usize]) -> Option<usize> {
    // A zero dimension makes any shape empty, however large the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |count, dimension| count.checked_mul(*dimension))
}

/// Infinities as strings: `serde_json` would write null, which reads as "not measured".
fn serialize_f64<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
}
