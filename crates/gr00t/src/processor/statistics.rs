//! `statistics.json`: per joint group the minima, maxima, means, … of the training data, and the
//! scaling to and from the model's range that follows from them.
//!
//! Source: the official `gr00t/data/utils.py` (`normalize_values_*`) and
//! `StateActionProcessor._compute_normalization_parameters`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::read_json;
use crate::checkpoint::files::processor_file;
use crate::{Error, Result};

/// File name inside a checkpoint folder.
pub const STATISTICS: &str = "statistics.json";

/// The statistics of one embodiment.
pub(super) struct Statistics {
    path: PathBuf,
    tag: String,
    /// modality → joint group → statistic → values
    root: Value,
}

impl Statistics {
    /// Reads the part of `statistics.json` that belongs to `tag`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] when the file or the tag is missing.
    pub fn read(checkpoint: &Path, tag: &str) -> Result<Self> {
        let path = processor_file(checkpoint, STATISTICS);
        let mut document: Value = read_json(&path)?;
        let root = match document.get_mut(tag) {
            Some(root) => root.take(),
            None => return Err(Error::file(&path, format!("{tag}: missing"))),
        };
        Ok(Statistics { path, tag: tag.to_string(), root })
    }

    /// The statistics of `tag` in place of a file's; `path` is what errors name.
    pub fn new(path: &Path, tag: &str, root: Value) -> Self {
        Statistics { path: path.to_path_buf(), tag: tag.to_string(), root }
    }

    /// Whether a joint group has statistics in a modality.
    pub fn has(&self, modality: &str, group: &str) -> bool {
        self.root.get(modality).and_then(|m| m.get(group)).is_some()
    }

    /// One statistic of a joint group.
    ///
    /// # Errors
    /// [`Error::File`] naming `tag.modality.group.statistic` when it is absent, ragged, empty or not finite.
    pub fn table(&self, modality: &str, group: &str, statistic: &str) -> Result<Table> {
        let value = self.root.get(modality).and_then(|m| m.get(group)).and_then(|g| g.get(statistic));
        let table = match value {
            Some(value) => Table::parse(value),
            None => Err("missing".to_string()),
        };
        table.map_err(|what| {
            Error::file(&self.path, format!("{}.{modality}.{group}.{statistic}: {what}", self.tag))
        })
    }

    /// The scaling of a joint group, from the statistics named `low`/`high` or from mean and std.
    ///
    /// # Errors
    /// [`Error::File`] as [`Statistics::table`], or when the two tables differ in shape, a lower bound lies above
    /// its upper one, or a standard deviation is negative.
    pub fn scaler(&self, modality: &str, group: &str, rule: Rule) -> Result<Scaler> {
        let (first, second) = match rule {
            Rule::MinMax => ("min", "max"),
            Rule::Percentiles => ("q01", "q99"),
            Rule::MeanStd => ("mean", "std"),
        };
        let a = self.table(modality, group, first)?;
        let b = self.table(modality, group, second)?;
        if (a.rows, a.cols) != (b.rows, b.cols) {
            let what = format!(
                "{}.{modality}.{group}: {first} is {} and {second} is {}",
                self.tag,
                a.shape(),
                b.shape()
            );
            return Err(Error::file(&self.path, what));
        }
        let wrong = |low: f64, high: f64| match rule {
            Rule::MeanStd => high < 0.0,
            Rule::MinMax | Rule::Percentiles => low > high,
        };
        if let Some(at) = a.data.iter().zip(&b.data).position(|(low, high)| wrong(*low, *high)) {
            let (row, column) = (at / a.cols, at % a.cols);
            let expected =
                if matches!(rule, Rule::MeanStd) { "a std from 0" } else { "a lower and an upper bound" };
            let what = format!(
                "value {column} of row {row}: expected {expected}, found {first} {} and {second} {}",
                a.data[at], b.data[at]
            );
            return Err(self.error(modality, group, what));
        }
        Ok(match rule {
            Rule::MeanStd => Scaler::MeanStd { mean: a, std: b },
            Rule::MinMax | Rule::Percentiles => Scaler::Range { low: a, high: b },
        })
    }

    /// An error about a joint group of this file.
    pub fn error(&self, modality: &str, group: &str, what: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("{}.{modality}.{group}: {what}", self.tag))
    }
}

/// `[rows, cols]` values: one row for all time steps, or one row per step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub rows: usize,
    pub cols: usize,
    data: Vec<f64>,
}

impl Table {
    /// From `[v, …]` (one row) or `[[v, …], …]`.
    fn parse(value: &Value) -> Result<Self, String> {
        let outer = value.as_array().ok_or("expected a list of numbers")?;
        let nested: Vec<&[Value]> = if outer.first().is_some_and(Value::is_array) {
            let rows: Option<_> = outer.iter().map(|row| row.as_array().map(Vec::as_slice)).collect();
            rows.ok_or("expected a list per time step")?
        } else {
            vec![outer.as_slice()]
        };
        let cols = nested[0].len();
        if cols == 0 || nested.iter().any(|row| row.len() != cols) {
            return Err("expected rows of one, nonzero length".to_string());
        }
        let data: Option<Vec<f64>> = nested.iter().flat_map(|row| row.iter()).map(Value::as_f64).collect();
        match data {
            // Actions are f32: a bound beyond them makes infinities.
            Some(data) if data.iter().all(|v| (*v as f32).is_finite()) => {
                Ok(Table { rows: nested.len(), cols, data })
            }
            _ => {
                Err("expected finite numbers of f32, found NaN, an infinity, null or something else"
                    .to_string())
            }
        }
    }

    /// The row that applies to a time step.
    fn row(&self, step: usize) -> &[f64] {
        let row = if self.rows == 1 { 0 } else { step };
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    fn shape(&self) -> String {
        format!("[{}, {}]", self.rows, self.cols)
    }
}

/// Which statistics scale a joint group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    MinMax,
    Percentiles,
    MeanStd,
}

/// Scaling between physical units and the model's range.
///
/// The official code keeps values in f32 arrays and statistics in f64; the intermediate
/// roundings below are those of its numpy expressions.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scaler {
    /// `low..high` ↔ `-1..1`
    Range { low: Table, high: Table },
    /// Mean 0, standard deviation 1.
    MeanStd { mean: Table, std: Table },
}

impl Scaler {
    /// Number of dimensions.
    pub fn cols(&self) -> usize {
        match self {
            Scaler::Range { low, .. } => low.cols,
            Scaler::MeanStd { mean, .. } => mean.cols,
        }
    }

    /// Number of time steps with their own statistics; 1 when all share them.
    pub fn rows(&self) -> usize {
        match self {
            Scaler::Range { low, .. } => low.rows,
            Scaler::MeanStd { mean, .. } => mean.rows,
        }
    }

    /// Physical values of one time step to the model's range, not clipped.
    /// A constant dimension gives 0 (range) or passes unchanged (std = 0).
    pub fn normalize(&self, step: usize, values: &[f32]) -> Vec<f32> {
        match self {
            Scaler::Range { low, high } => {
                let bounds = low.row(step).iter().zip(high.row(step));
                let scale = |(&x, (&low, &high)): (&f32, (&f64, &f64))| {
                    if is_close(high, low) {
                        return 0.0;
                    }
                    let unit = ((f64::from(x) - low) / (high - low)) as f32;
                    2.0 * unit - 1.0
                };
                values.iter().zip(bounds).map(scale).collect()
            }
            Scaler::MeanStd { mean, std } => {
                let parameters = mean.row(step).iter().zip(std.row(step));
                let scale = |(&x, (&mean, &std)): (&f32, (&f64, &f64))| {
                    if std == 0.0 { x } else { ((f64::from(x) - mean) / std) as f32 }
                };
                values.iter().zip(parameters).map(scale).collect()
            }
        }
    }

    /// Normalized values of one time step to physical units, behind those in `physical`; a range clips them to `[-1, 1]`
    /// first.
    pub fn unnormalize(&self, step: usize, values: &[f32], physical: &mut Vec<f64>) {
        match self {
            Scaler::Range { low, high } => {
                let bounds = low.row(step).iter().zip(high.row(step));
                let scale = |(&x, (&low, &high)): (&f32, (&f64, &f64))| {
                    let unit = (x.clamp(-1.0, 1.0) + 1.0) / 2.0;
                    f64::from(unit) * (high - low) + low
                };
                physical.extend(values.iter().zip(bounds).map(scale));
            }
            Scaler::MeanStd { mean, std } => {
                let parameters = mean.row(step).iter().zip(std.row(step));
                let scale = |(&x, (&mean, &std)): (&f32, (&f64, &f64))| {
                    if std == 0.0 { f64::from(x) } else { f64::from((f64::from(x) * std + mean) as f32) }
                };
                physical.extend(values.iter().zip(parameters).map(scale));
            }
        }
    }
}

/// `numpy.isclose(a, b)` at its default tolerances.
fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-8 + 1e-5 * b.abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(value: Value) -> Table {
        Table::parse(&value).expect("valid table")
    }

    fn unnormalized(scaler: &Scaler, step: usize, values: &[f32]) -> Vec<f64> {
        let mut physical = Vec::new();
        scaler.unnormalize(step, values, &mut physical);
        physical
    }

    #[test]
    fn range_scales_and_gives_zero_for_constant_dimensions() {
        // The third dimension differs by less than numpy.isclose's tolerance.
        let scaler =
            Scaler::Range { low: table(json!([0, -2.0, 5.0])), high: table(json!([4, 2.0, 5.00004])) };
        assert_eq!(scaler.normalize(0, &[1.0, 3.0, 7.0]), [-0.5, 1.5, 0.0]);
        assert_eq!(unnormalized(&scaler, 0, &[-0.5, 9.0, -1.0]), [1.0, 2.0, 5.0]);
    }

    #[test]
    fn mean_std_passes_dimensions_without_spread() {
        let scaler = Scaler::MeanStd { mean: table(json!([1.0, 3.0])), std: table(json!([2.0, 0.0])) };
        assert_eq!(scaler.normalize(0, &[5.0, 9.0]), [2.0, 9.0]);
        assert_eq!(unnormalized(&scaler, 0, &[2.0, 9.0]), [5.0, 9.0]);
    }

    #[test]
    fn statistics_per_step_follow_the_step() {
        let scaler = Scaler::Range { low: table(json!([[0.0], [0.0]])), high: table(json!([[1.0], [10.0]])) };
        assert_eq!((scaler.rows(), scaler.cols()), (2, 1));
        assert_eq!(unnormalized(&scaler, 0, &[1.0]), [1.0]);
        assert_eq!(unnormalized(&scaler, 1, &[1.0]), [10.0]);
    }

    #[test]
    fn malformed_tables_are_refused() {
        for bad in [
            json!([]),
            json!([[]]),
            json!([[1.0], [1.0, 2.0]]),
            json!("x"),
            json!([1.0, null]),
            json!([1e39]),
        ] {
            assert!(Table::parse(&bad).is_err(), "{bad}");
        }
    }
}
