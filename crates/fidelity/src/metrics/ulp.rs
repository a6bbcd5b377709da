//! Errors in units in the last place of a number format.

use crate::Format;

/// `|found − expected|` of every value in steps of `format` around the expected one (subnormal steps near
/// zero, the largest steps beyond the format's range).
///
/// Equal values, infinities included, are 0 apart; NaN and unequal infinities are infinitely far apart, and
/// so are all of `expected` where the lengths differ.
pub fn ulp_errors(found: &[f32], expected: &[f32], format: Format) -> Vec<f64> {
    if found.len() != expected.len() {
        return vec![f64::INFINITY; found.len().max(expected.len())];
    }
    let error = |(found, expected): (&f32, &f32)| {
        if found == expected {
            return 0.0;
        }
        let distance = (f64::from(*found) - f64::from(*expected)).abs();
        if distance.is_nan() { f64::INFINITY } else { distance / format.ulp(*expected) }
    };
    found.iter().zip(expected).map(error).collect()
}

/// The quantiles of [`ulp_errors`], each as [`quantile`] defines it. All 0 for empty tensors.
pub fn ulp_quantiles(found: &[f32], expected: &[f32], format: Format, quantiles: &[f64]) -> Vec<f64> {
    let mut errors = ulp_errors(found, expected, format);
    errors.sort_unstable_by(f64::total_cmp);
    quantiles.iter().map(|at| of_sorted(&errors, *at)).collect()
}

/// The smallest of `values` that at least the share `at` of them does not exceed, so always one of the
/// values; 1 gives the largest. Sorts `values`. 0 for none; a share that is NaN counts as 1.
pub fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    of_sorted(values, at)
}

/// [`quantile`] of values in ascending order.
pub(super) fn of_sorted(values: &[f64], at: f64) -> f64 {
    let share = if at.is_nan() { 1.0 } else { at.clamp(0.0, 1.0) };
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0.0)
}
