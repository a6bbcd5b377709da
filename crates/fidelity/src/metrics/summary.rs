//! All metrics of one tensor together.

use super::ulp::of_sorted;
use super::{ChannelErrors, channel_errors, cosine, max_abs_error, relative_l2, sqnr_db, ulp_errors};
use crate::Format;
use serde::Serialize;

/// How far one tensor lies from its reference, by every metric. No field is ever NaN; an infinite one
/// serializes as the string `inf` or `-inf`, which JSON numbers do not have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorError {
    /// Values of the reference.
    pub values: usize,
    /// Values found.
    pub found_values: usize,
    /// NaNs and infinities found.
    pub found_not_finite: usize,
    /// NaNs and infinities of the reference.
    pub expected_not_finite: usize,
    /// [`relative_l2`].
    #[serde(serialize_with = "crate::serialize_f64")]
    pub relative_l2: f64,
    /// [`max_abs_error`].
    #[serde(serialize_with = "crate::serialize_f64")]
    pub max_abs_error: f64,
    /// [`cosine`].
    #[serde(serialize_with = "crate::serialize_f64")]
    pub cosine: f64,
    /// [`sqnr_db`].
    #[serde(serialize_with = "crate::serialize_f64")]
    pub sqnr_db: f64,
    /// The format whose steps the following errors are counted in.
    pub ulp_format: Format,
    /// Half of the values are at most this many steps off.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub ulp_median: f64,
    /// 99 % of the values are at most this many steps off.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub ulp_p99: f64,
    /// No value is more steps off.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub ulp_max: f64,
    /// [`channel_errors`].
    pub channels: ChannelErrors,
}

impl TensorError {
    /// Measures `found` against `expected`, both of `shape`: [..., channels], counting steps of `format`.
    pub fn measure(found: &[f32], expected: &[f32], shape: &[usize], format: Format) -> Self {
        let not_finite = |values: &[f32]| values.iter().filter(|value| !value.is_finite()).count();
        let mut steps = ulp_errors(found, expected, format);
        steps.sort_unstable_by(f64::total_cmp);
        TensorError {
            values: expected.len(),
            found_values: found.len(),
            found_not_finite: not_finite(found),
            expected_not_finite: not_finite(expected),
            relative_l2: relative_l2(found, expected),
            max_abs_error: max_abs_error(found, expected),
            cosine: cosine(found, expected),
            sqnr_db: sqnr_db(found, expected),
            ulp_format: format,
            ulp_median: of_sorted(&steps, 0.5),
            ulp_p99: of_sorted(&steps, 0.99),
            ulp_max: of_sorted(&steps, 1.0),
            channels: channel_errors(found, expected, shape),
        }
    }

    /// Whether the two could be compared at all: lengths that fit the shape, no NaN, no infinity on one
    /// side alone. A reference of zeros compares: [`max_abs_error`] is finite.
    pub fn is_comparable(&self) -> bool {
        let fits = self.channels.worst.is_some() || self.channels.worst_error == 0.0;
        fits && self.max_abs_error.is_finite()
    }
}
