//! Every metric against exact values, and against what must never pass.

use super::*;
use crate::Format;
use proptest::prelude::*;

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

#[test]
fn cosine_and_sqnr_of_known_vectors() {
    assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
    assert_eq!(cosine(&[2.0, 2.0], &[1.0, 1.0]), 1.0);
    assert_eq!(cosine(&[-2.0, -2.0], &[1.0, 1.0]), -1.0);
    assert_eq!(cosine(&[0.0], &[0.0]), 1.0);
    assert_eq!(cosine(&[0.0], &[1.0]), 0.0);
    assert_eq!(cosine(&[], &[]), 1.0);
    // Squares of subnormals and of the largest values exist in f64.
    assert!((cosine(&[1e-45, 1e-45], &[1e-45, 0.0]) - 0.5f64.sqrt()).abs() < 1e-15);
    assert!((cosine(&[f32::MAX, 0.0], &[f32::MAX, f32::MAX]) - 0.5f64.sqrt()).abs() < 1e-15);
    assert!((sqnr_db(&[1.1, 0.0], &[1.0, 0.0]) - 20.0).abs() < 1e-5);
    assert_eq!(sqnr_db(&[0.0], &[5.0]), 0.0);
    assert_eq!(sqnr_db(&[5.0], &[5.0]), f64::INFINITY);
    assert_eq!(sqnr_db(&[5.0], &[0.0]), f64::NEG_INFINITY);
}

#[test]
fn what_cannot_be_compared_gets_the_worst_of_every_metric() {
    for (found, expected) in [
        (&[f32::NAN, 1.0][..], &[f32::NAN, 1.0][..]),
        (&[f32::NAN, 1.0], &[1.0, 1.0]),
        (&[f32::INFINITY, 1.0], &[1.0, 1.0]),
        (&[1.0, 1.0], &[f32::INFINITY, 1.0]),
        (&[f32::INFINITY, 1.0], &[f32::NEG_INFINITY, 1.0]),
        (&[1.0], &[1.0, 1.0]),
    ] {
        assert_eq!(cosine(found, expected), -1.0);
        assert_eq!(sqnr_db(found, expected), f64::NEG_INFINITY);
        assert_eq!(ulp_quantiles(found, expected, Format::Bf16, &[1.0]), [f64::INFINITY]);
        let channels = channel_errors(found, expected, &[expected.len(), 1]);
        assert_eq!(channels.worst_error, f64::INFINITY);
        let error = TensorError::measure(found, expected, &[2], Format::Bf16);
        assert_eq!(error.relative_l2, f64::INFINITY);
        assert!(!error.is_comparable());
    }
}

#[test]
fn ulp_errors_of_known_values() {
    let expected = [1.0, 2.0, -4.0, 0.0, f32::INFINITY];
    let found = [1.0 + 1.0 / 128.0, 2.0, -4.0 - 3.0 / 32.0, 1e-45, f32::INFINITY];
    let smallest = 2f64.powi(-149) / 2f64.powi(-133);
    assert_eq!(ulp_errors(&found, &expected, Format::Bf16), [1.0, 0.0, 3.0, smallest, 0.0]);
    assert_eq!(
        ulp_quantiles(&found, &expected, Format::Bf16, &[0.0, 0.5, 0.8, 1.0]),
        [0.0, smallest, 1.0, 3.0]
    );
    assert_eq!(ulp_quantiles(&[], &[], Format::Fp16, &[0.5, 1.0]), [0.0, 0.0]);
    assert_eq!(ulp_quantiles(&[1.0], &[], Format::Fp16, &[0.5, 1.0]), [f64::INFINITY; 2]);
    // Beyond the largest value, the step is that of the largest.
    assert_eq!(ulp_errors(&[65536.0 + 64.0], &[65536.0], Format::Fp16), [2.0]);
    assert_eq!(quantile(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
    assert_eq!(quantile(&mut [3.0, 1.0, 2.0], f64::NAN), 3.0);
}

#[test]
fn a_massive_channel_hides_nothing() {
    // Channel 0 is huge and right; channel 1 is small and entirely wrong.
    let expected = [1e6, 1.0, 2e6, 1.0];
    let found = [1e6, -1.0, 2e6, -1.0];
    assert!(relative_l2(&found, &expected) < 1e-5);
    let channels = channel_errors(&found, &expected, &[2, 2]);
    assert_eq!((channels.count, channels.worst, channels.worst_error), (2, Some(1), 2.0));
    assert_eq!((channels.median, channels.p99), (0.0, 2.0));
}

#[test]
fn channels_with_a_zero_reference_are_measured_against_the_median_channel() {
    // Norms of the reference: 0, 1, 5, 100 and 0.
    let expected = [0.0, 1.0, 5.0, 100.0, 0.0];
    let channels = channel_errors(&[10.0, 1.0, 5.0, 100.0, 0.0], &expected, &[1, 5]);
    assert_eq!((channels.zero, channels.zero_violated), (2, 1));
    assert_eq!((channels.worst, channels.worst_error), (Some(0), 2.0));
    let all_zero = channel_errors(&[0.0, 1e-30], &[0.0, 0.0], &[2]);
    assert_eq!((all_zero.worst, all_zero.worst_error), (Some(1), f64::INFINITY));
    assert_eq!(channel_errors(&[0.0; 2], &[0.0; 2], &[2]).worst_error, 0.0);
}

#[test]
fn shapes_that_do_not_fit_are_not_compared() {
    assert_eq!(channel_errors(&[1.0; 4], &[1.0; 4], &[3]).worst_error, f64::INFINITY);
    assert_eq!(channel_errors(&[1.0; 4], &[1.0; 4], &[usize::MAX, 4]).worst_error, f64::INFINITY);
    assert_eq!(channel_errors(&[], &[], &[0, 7]).worst_error, 0.0);
    assert_eq!(channel_errors(&[], &[], &[7, 0]).worst_error, 0.0);
    assert_eq!(channel_errors(&[2.0], &[1.0], &[]).worst_error, 1.0);
}

#[test]
fn a_summary_bundles_the_metrics_and_serializes_infinities() {
    let (found, expected) = ([1.0, 2.0, f32::NAN, 4.0], [1.0, 2.0, 3.0, 4.5]);
    let error = TensorError::measure(&found, &expected, &[2, 2], Format::Bf16);
    assert_eq!((error.values, error.found_not_finite, error.expected_not_finite), (4, 1, 0));
    let json = serde_json::to_value(&error).expect("plain data");
    assert_eq!(json["relative_l2"], "inf");
    assert_eq!(json["sqnr_db"], "-inf");
    assert_eq!(json["cosine"], -1.0);
    assert_eq!(json["ulp_format"], "bf16");
    let equal = TensorError::measure(&expected, &expected, &[2, 2], Format::Bf16);
    assert!(equal.is_comparable());
    assert_eq!((equal.relative_l2, equal.max_abs_error, equal.ulp_max), (0.0, 0.0, 0.0));
    let lengths = TensorError::measure(&found[..3], &expected, &[2, 2], Format::Bf16);
    assert_eq!((lengths.found_values, lengths.values), (3, 4));
    assert!(!TensorError::measure(&expected, &expected, &[5], Format::F32).is_comparable());
}

proptest! {
    #[test]
    fn no_metric_is_ever_nan(
        found in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..20),
        expected in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..20),
        width in 0usize..5,
    ) {
        let shape = [expected.len() / width.max(1), width];
        let error = TensorError::measure(&found, &expected, &shape, Format::Fp16);
        for value in [
            error.relative_l2, error.max_abs_error, error.cosine, error.sqnr_db, error.ulp_median,
            error.ulp_p99, error.ulp_max, error.channels.median, error.channels.p99,
            error.channels.worst_error,
        ] {
            prop_assert!(!value.is_nan());
        }
    }

    #[test]
    fn rounding_stays_within_half_a_unit(values in prop::collection::vec(-400f32..400.0, 1..50)) {
        for format in Format::ALL {
            let mut rounded = values.clone();
            format.round_slice(&mut rounded);
            prop_assert!(ulp_quantiles(&rounded, &values, format, &[1.0])[0] <= 0.5);
        }
    }
}
