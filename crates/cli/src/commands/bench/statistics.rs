//! Repeated measurements in five numbers.

use serde::Serialize;

/// Milliseconds over all repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub mean: f64,
}

impl Statistics {
    /// Of at least one measurement; `None` of none. A percentile is the smallest measurement that at least so
    /// many percent of all do not exceed.
    pub fn of(milliseconds: &[f64]) -> Option<Self> {
        let mut sorted = milliseconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let percentile =
            |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Statistics {
            min: *sorted.first()?,
            p50: percentile(50)?,
            p90: percentile(90)?,
            p99: percentile(99)?,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let expected = Statistics { min: 1.0, p50: 50.0, p90: 90.0, p99: 99.0, mean: 50.5 };
        assert_eq!(Statistics::of(&hundred), Some(expected));
        let three = Statistics { min: 1.0, p50: 2.0, p90: 6.0, p99: 6.0, mean: 3.0 };
        assert_eq!(Statistics::of(&[6.0, 1.0, 2.0]), Some(three));
        assert_eq!(Statistics::of(&[]), None);
    }
}
