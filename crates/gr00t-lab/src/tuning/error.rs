//! How far the physical actions of a policy lie from those of f32.

use serde::{Deserialize, Serialize};
use steadyhand_gr00t::observation::ActionChunk;
use steadyhand_gr00t::{Error, Result};

/// The share of frames and chunk positions whose error is at most the one that is reported.
const PERCENTILE: f64 = 0.95;

/// What an error of one is: by joint group, in the group's own unit, so that radians and metres can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// What the spreads are of, such as `standard deviation of the dataset's actions`.
    pub source: String,
    /// Joint group and its spread, in the order of the chunk.
    pub groups: Vec<(String, f64)>,
}

impl Spread {
    /// The standard deviation of each group's columns over `rows`, root mean square over the columns: `rows` has a
    /// matrix `[.., dim]` of each group, row-major, with its number of columns. A group that never moves gets 1.
    pub fn of<'a>(source: &str, groups: impl IntoIterator<Item = (&'a str, &'a [f32], usize)>) -> Self {
        let spread = |(name, values, cols): (&str, &[f32], usize)| {
            let variance: f64 = (0..cols).map(|column| variance(values, cols, column)).sum();
            let deviation = (variance / cols.max(1) as f64).sqrt();
            (name.to_owned(), if deviation > 0.0 { deviation } else { 1.0 })
        };
        Spread { source: source.to_owned(), groups: groups.into_iter().map(spread).collect() }
    }
}

fn variance(values: &[f32], cols: usize, column: usize) -> f64 {
    let column = || values.iter().skip(column).step_by(cols).map(|value| f64::from(*value));
    let count = column().count().max(1) as f64;
    let mean = column().sum::<f64>() / count;
    column().map(|value| (value - mean).powi(2)).sum::<f64>() / count
}

/// The error of a policy's actions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionError {
    /// By joint group: root mean square over the group's dimensions, in spreads, the 95th percentile over frames and
    /// chunk positions. None where an action is not finite.
    pub groups: Vec<(String, Option<f64>)>,
}

impl ActionError {
    /// By how much it exceeds another policy's: the largest ratio of any joint group. Infinite where an action is not
    /// finite, or a group has an error where the other has none.
    pub fn relative_to(&self, other: &ActionError) -> f64 {
        let ratio = |own: Option<f64>, other: Option<f64>| match (own, other) {
            (Some(0.0), _) => 0.0,
            (Some(own), Some(other)) => own / other,
            _ => f64::INFINITY,
        };
        let pairs = self.groups.iter().zip(&other.groups);
        pairs.map(|((_, own), (_, other))| ratio(*own, *other)).fold(0.0, f64::max)
    }

    /// Whether every action is finite.
    pub fn is_finite(&self) -> bool {
        self.groups.iter().all(|(_, error)| error.is_some())
    }

    /// The error of actions that are not finite.
    pub fn infinite(spread: &Spread) -> Self {
        ActionError { groups: spread.groups.iter().map(|(name, _)| (name.clone(), None)).collect() }
    }

    /// The error of `found` against `expected`, a chunk a frame.
    ///
    /// # Errors
    /// Chunks of other joint groups or shapes than the spread's or each other's.
    pub fn between(found: &[ActionChunk], expected: &[ActionChunk], spread: &Spread) -> Result<Self> {
        let group = |(index, (name, scale)): (usize, &(String, f64))| {
            let mut errors = Vec::new();
            for (found, expected) in found.iter().zip(expected) {
                let (Some((_, found)), Some((_, expected))) =
                    (found.groups.get(index), expected.groups.get(index))
                else {
                    return Err(Error::input(
                        format!("action.{name}"),
                        "expected in every chunk, found none",
                    ));
                };
                if (found.rows, found.cols) != (expected.rows, expected.cols) {
                    return Err(Error::input(format!("action.{name}"), "expected chunks of one shape"));
                }
                errors.extend((0..found.rows).map(|row| rms(found.row(row), expected.row(row)) / scale));
            }
            Ok((name.clone(), percentile(errors)))
        };
        Ok(ActionError { groups: spread.groups.iter().enumerate().map(group).collect::<Result<_>>()? })
    }
}

fn rms(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    (squares.sum::<f64>() / a.len().max(1) as f64).sqrt()
}

/// The measured value that [`PERCENTILE`] of all are at most; none of values that are not finite.
fn percentile(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * PERCENTILE).ceil() as usize;
    let finite = values.iter().all(|value| value.is_finite());
    values.get(rank.max(1) - 1).copied().filter(|_| finite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::observation::Matrix;

    #[test]
    fn groups_of_different_units_are_comparable() {
        let arm: Vec<f32> = (0..10).flat_map(|i| [i as f32, -(i as f32)]).collect();
        let hand: Vec<f32> = arm.iter().map(|value| value * 0.001).collect();
        let still = vec![2.0f32; 10];
        let spread = Spread::of("test", [("arm", &arm[..], 2), ("hand", &hand, 2), ("still", &still, 1)]);
        assert!((spread.groups[0].1 - 2.872).abs() < 1e-3 && spread.groups[2].1 == 1.0, "{spread:?}");
        let chunk = |off: f32| ActionChunk {
            groups: vec![
                ("arm".to_owned(), Matrix { rows: 10, cols: 2, data: arm.iter().map(|v| v + off).collect() }),
                (
                    "hand".to_owned(),
                    Matrix { rows: 10, cols: 2, data: hand.iter().map(|v| v + off * 0.001).collect() },
                ),
                ("still".to_owned(), Matrix { rows: 10, cols: 1, data: still.clone() }),
            ],
        };
        let error = ActionError::between(&[chunk(0.1)], &[chunk(0.0)], &spread).expect("the same shapes");
        let [arm, hand, still] = [0, 1, 2].map(|index| error.groups[index].1.expect("finite"));
        assert!((arm - 0.1 / 2.872).abs() < 1e-4 && (hand / arm - 1.0).abs() < 1e-3 && still == 0.0);
        assert!(error.is_finite() && !ActionError::infinite(&spread).is_finite());
        let mut other = chunk(0.0);
        other.groups.pop();
        assert!(ActionError::between(&[other], &[chunk(0.0)], &spread).is_err());
    }

    #[test]
    fn the_worst_joint_group_counts() {
        let error =
            |arm, hand| ActionError { groups: vec![("arm".to_owned(), arm), ("hand".to_owned(), hand)] };
        let of = error(Some(0.1), Some(0.01));
        assert_eq!(error(Some(0.05), Some(0.02)).relative_to(&of), 2.0);
        assert_eq!(error(Some(0.0), Some(0.0)).relative_to(&of), 0.0);
        assert_eq!(error(Some(0.1), None).relative_to(&of), f64::INFINITY);
        assert_eq!(of.relative_to(&error(Some(0.1), Some(0.0))), f64::INFINITY);
    }

    #[test]
    fn percentiles_are_measurements() {
        assert_eq!(percentile((1..=100).map(f64::from).collect()), Some(95.0));
        assert_eq!(percentile(vec![3.0]), Some(3.0));
        assert_eq!(percentile(vec![3.0, f64::NAN]), None);
        assert_eq!(percentile(vec![]), None);
    }
}
