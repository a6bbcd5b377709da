//! How far a tensor lies from its reference.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        assert_eq!(relative_l2(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_l2(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
        assert_eq!(relative_l2(&[6.0, 8.0], &[3.0, 4.0]), 1.0);
        assert_eq!(max_abs_error(&[6.0, 8.0], &[3.0, 4.0]), 4.0);
        assert_eq!(relative_l2(&[], &[]), 0.0);
    }

    #[test]
    fn what_cannot_be_compared_is_infinitely_far() {
        assert_eq!(relative_l2(&[f32::NAN], &[f32::NAN]), f64::INFINITY);
        assert_eq!(relative_l2(&[f32::INFINITY], &[1.0]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[f32::INFINITY]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(max_abs_error(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(max_abs_error(&[1.0], &[]), f64::INFINITY);
    }

    #[test]
    fn equal_infinities_are_equal() {
        assert_eq!(relative_l2(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]), 0.0);
        assert_eq!(max_abs_error(&[f32::NEG_INFINITY], &[f32::NEG_INFINITY]), 0.0);
    }
}
