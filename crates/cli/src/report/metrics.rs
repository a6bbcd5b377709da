//! The two error metrics of an open-loop evaluation, and the percentile of its timings.
//!
//! Predictions are f32, sums are f64: a long episode adds tens of thousands of squares, and an f32 sum
//! would make the sixth printed decimal depend on the order of summation.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Mean squared and mean absolute error of the same values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    pub mse: f64,
    pub mae: f64,
}

/// Errors over the given columns of two series of rows, both `[steps, dimensions]`.
///
/// # Errors
/// Series of other shapes; a value that is not finite: neither a broken engine nor a damaged recording is skipped.
pub fn errors<R: AsRef<[f32]>>(
    prediction: &[R],
    ground_truth: &[R],
    columns: Range<usize>,
) -> Result<Errors> {
    ensure!(
        prediction.len() == ground_truth.len(),
        "{} predicted steps against {} of ground truth",
        prediction.len(),
        ground_truth.len()
    );
    ensure!(!prediction.is_empty() && !columns.is_empty(), "no values to compare");
    let (mut squares, mut absolutes) = (0.0, 0.0);
    for (step, (predicted, truth)) in prediction.iter().zip(ground_truth).enumerate() {
        let (predicted, truth) = (predicted.as_ref(), truth.as_ref());
        ensure!(
            predicted.len() == truth.len() && columns.end <= truth.len(),
            "step {step}: {} predicted and {} true dimensions, columns {columns:?} asked for",
            predicted.len(),
            truth.len()
        );
        for column in columns.clone() {
            for (whose, value) in [("predicted", predicted[column]), ("recorded", truth[column])] {
                ensure!(
                    value.is_finite(),
                    "step {step}, column {column}: expected a finite {whose} action, found {value}"
                );
            }
            let difference = f64::from(predicted[column]) - f64::from(truth[column]);
            squares += difference * difference;
            absolutes += difference.abs();
        }
    }
    let count = (prediction.len() * columns.len()) as f64;
    Ok(Errors { mse: squares / count, mae: absolutes / count })
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The `q`-th percentile (0 to 100) with numpy's default linear interpolation; `None` of nothing.
pub fn percentile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let position = (q / 100.0).clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    let fraction = position.fract();
    // numpy interpolates from the nearer end; the other form differs in the last bit.
    Some(if fraction >= 0.5 {
        above - (above - below) * (1.0 - fraction)
    } else {
        below + (above - below) * fraction
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: [[f32; 3]; 2] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]];
    const PREDICTION: [[f32; 3]; 2] = [[0.5, 1.0, 2.0], [3.0, 2.0, 5.0]];

    #[test]
    fn known_errors() {
        let all = Errors { mse: (0.25 + 4.0) / 6.0, mae: (0.5 + 2.0) / 6.0 };
        assert_eq!(errors(&PREDICTION, &TRUTH, 0..3).unwrap(), all);
        assert_eq!(errors(&PREDICTION, &TRUTH, 1..3).unwrap(), Errors { mse: 1.0, mae: 0.5 });
    }

    #[test]
    fn a_value_that_is_not_finite_is_an_error() {
        let error = |prediction: f32, truth: f32| {
            errors(&[[0.0], [prediction]], &[[0.0], [truth]], 0..1).unwrap_err().to_string()
        };
        assert!(
            error(f32::NAN, 0.0).contains("step 1, column 0: expected a finite predicted action, found NaN")
        );
        assert!(error(0.0, f32::INFINITY).contains("recorded action, found inf"));
    }

    #[test]
    fn shapes_must_agree() {
        let error = errors(&PREDICTION[..1], &TRUTH, 0..3).unwrap_err().to_string();
        assert_eq!(error, "1 predicted steps against 2 of ground truth");
        let short: [&[f32]; 2] = [&[0.0, 1.0, 2.0], &[3.0]];
        let full: [&[f32]; 2] = [&TRUTH[0], &TRUTH[1]];
        assert!(errors(&short, &full, 0..3).unwrap_err().to_string().starts_with("step 1: 1 predicted"));
        assert!(errors::<[f32; 3]>(&[], &[], 0..3).is_err());
    }

    #[test]
    fn percentiles_are_numpys() {
        // np.percentile([15, 20, 35, 40, 50], [0, 40, 90, 100]) and np.percentile([1, 2, 3, 4], [25, 90])
        let values = [50.0, 15.0, 40.0, 20.0, 35.0];
        for (q, expected) in [(0.0, 15.0), (40.0, 29.0), (90.0, 46.0), (100.0, 50.0)] {
            assert_eq!(percentile(&values, q), Some(expected), "percentile {q}");
        }
        assert_eq!(percentile(&[4.0, 3.0, 2.0, 1.0], 25.0), Some(1.75));
        assert_eq!(percentile(&[4.0, 3.0, 2.0, 1.0], 90.0), Some(3.7));
        assert_eq!(percentile(&[0.25], 90.0), Some(0.25));
        assert_eq!(percentile(&[], 90.0), None);
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
    }
}
