//! How far a tensor lies from its reference.
//!
//! Every metric computes in f64 and keeps one rule: what could not be compared (NaN anywhere, an infinity
//! that the other side does not have, different lengths) gets the worst value of the metric, never NaN.

mod channels;
mod summary;
mod ulp;

#[cfg(test)]
mod tests;

pub use channels::{ChannelErrors, channel_errors};
pub use summary::TensorError;
pub use ulp::{quantile, ulp_errors, ulp_quantiles};

/// `‖found − expected‖ / ‖expected‖` in f64.
///
/// Two empty or equal tensors are 0 apart, zero vectors included. A NaN anywhere, or slices of
/// different lengths, are infinitely far apart: a comparison must never pass because it could not be made.
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for (found, expected) in found.iter().zip(expected) {
        if found.to_bits() == expected.to_bits() && !found.is_nan() {
            norm += if expected.is_finite() { f64::from(*expected).powi(2) } else { 0.0 };
            continue;
        }
        difference += (f64::from(*found) - f64::from(*expected)).powi(2);
        norm += f64::from(*expected).powi(2);
    }
    if difference == 0.0 {
        0.0
    } else {
        let ratio = (difference / norm).sqrt();
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    }
}

/// The largest `|found − expected|`; infinite where [`relative_l2`] would be.
pub fn max_abs_error(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let mut worst = 0.0f64;
    for (found, expected) in found.iter().zip(expected) {
        let error = if found == expected { 0.0 } else { (f64::from(*found) - f64::from(*expected)).abs() };
        if error.is_nan() {
            return f64::INFINITY;
        }
        worst = worst.max(error);
    }
    worst
}

/// The cosine of the angle between the two tensors, in [-1, 1].
///
/// 1 for tensors that are equal, empty and zero ones included; 0 where only one of them is zero, which has
/// no direction; -1, the worst, for what cannot be compared. Blind to scale: never the only metric.
pub fn cosine(found: &[f32], expected: &[f32]) -> f64 {
    if relative_l2(found, expected) == 0.0 {
        return 1.0;
    }
    if found.len() != expected.len() {
        return -1.0;
    }
    let (mut dot, mut found_norm, mut expected_norm) = (0.0f64, 0.0f64, 0.0f64);
    for (found, expected) in found.iter().zip(expected) {
        if found == expected && found.is_infinite() {
            continue;
        }
        if !found.is_finite() || !expected.is_finite() {
            return -1.0;
        }
        let (found, expected) = (f64::from(*found), f64::from(*expected));
        dot += found * expected;
        found_norm += found * found;
        expected_norm += expected * expected;
    }
    if found_norm == 0.0 || expected_norm == 0.0 {
        return 0.0;
    }
    (dot / (found_norm * expected_norm).sqrt()).clamp(-1.0, 1.0)
}

/// The signal-to-noise ratio `10·log10(Σ expected² / Σ (found − expected)²)` in dB; every 20 dB is a
/// factor of ten in [`relative_l2`], of which it is the logarithm.
///
/// Infinite for equal tensors, `-∞` where [`relative_l2`] is infinite.
pub fn sqnr_db(found: &[f32], expected: &[f32]) -> f64 {
    // Adding zero turns the -0 of a ratio of one into 0.
    -20.0 * relative_l2(found, expected).log10() + 0.0
}
