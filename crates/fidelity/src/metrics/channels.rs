//! Errors channel by channel, where a massive channel cannot hide the others.

use super::ulp::of_sorted;
use serde::Serialize;

/// The relative L2 error of each channel, summarised over channels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChannelErrors {
    /// Number of channels: the last dimension.
    pub count: usize,
    /// The channel that is farthest off; none where every channel is exact or nothing could be compared.
    pub worst: Option<usize>,
    /// The error of that channel.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub worst_error: f64,
    /// Half of the channels have at most this error.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub median: f64,
    /// 99 % of the channels have at most this error.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub p99: f64,
    /// Channels whose reference is zero throughout.
    pub zero: usize,
    /// Those of them in which something else was found.
    pub zero_violated: usize,
}

/// Compares `found` with `expected` channel by channel. shape: [..., channels], the shape of both.
///
/// A channel whose reference is zero has no relative error; what was found there is measured against the
/// median norm of the other channels, and is infinitely far off if all of them are zero. A NaN, or an
/// infinity that the reference does not have, makes its channel infinitely far off. Lengths that do not fit
/// the shape make everything infinitely far off. A scalar is one channel.
pub fn channel_errors(found: &[f32], expected: &[f32], shape: &[usize]) -> ChannelErrors {
    let count = shape.last().copied().unwrap_or(1);
    let fits = crate::value_count(shape).is_some_and(|len| len == expected.len() && len == found.len());
    if !fits {
        let far = f64::INFINITY;
        return ChannelErrors {
            count,
            worst: None,
            worst_error: far,
            median: far,
            p99: far,
            zero: 0,
            zero_violated: 0,
        };
    }
    if expected.is_empty() {
        return ChannelErrors {
            count,
            worst: None,
            worst_error: 0.0,
            median: 0.0,
            p99: 0.0,
            zero: 0,
            zero_violated: 0,
        };
    }
    let (differences, norms) = squares(found, expected, count);
    let mut positive: Vec<f64> = norms.iter().copied().filter(|norm| *norm > 0.0).collect();
    positive.sort_unstable_by(f64::total_cmp);
    let typical = of_sorted(&positive, 0.5);
    let error = |(difference, norm): (&f64, &f64)| {
        if *difference == 0.0 {
            return 0.0;
        }
        let ratio = (difference / if *norm > 0.0 { *norm } else { typical }).sqrt();
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    };
    let mut errors: Vec<f64> = differences.iter().zip(&norms).map(error).collect();
    let (worst, worst_error) = errors
        .iter()
        .copied()
        .enumerate()
        .fold((0, 0.0), |worst, next| if next.1 > worst.1 { next } else { worst });
    let zero = norms.iter().filter(|norm| **norm == 0.0).count();
    let violated = differences.iter().zip(&norms).filter(|(error, norm)| **norm == 0.0 && **error != 0.0);
    let zero_violated = violated.count();
    errors.sort_unstable_by(f64::total_cmp);
    ChannelErrors {
        count,
        worst: (worst_error > 0.0).then_some(worst),
        worst_error,
        median: of_sorted(&errors, 0.5),
        p99: of_sorted(&errors, 0.99),
        zero,
        zero_violated,
    }
}

/// `Σ (found − expected)²` and `Σ expected²` of every channel. Equal infinities count in neither.
fn squares(found: &[f32], expected: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut differences, mut norms) = (vec![0.0f64; channels], vec![0.0f64; channels]);
    for (found, expected) in found.chunks_exact(channels).zip(expected.chunks_exact(channels)) {
        let sums = differences.iter_mut().zip(&mut norms);
        for ((found, expected), (difference, norm)) in found.iter().zip(expected).zip(sums) {
            if found == expected && expected.is_infinite() {
                continue;
            }
            *difference += (f64::from(*found) - f64::from(*expected)).powi(2);
            *norm += f64::from(*expected).powi(2);
        }
    }
    (differences, norms)
}
