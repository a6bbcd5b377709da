//! `meta/stats.json` and `meta/relative_stats.json`: arrays of numbers by feature (or group) and statistic.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::{
    Result,
    json::{self, Maybe},
};

/// One statistic: an array of any shape.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StatArray {
    /// The array's shape: `[dim]` for columns, `[horizon, dim]` for relative actions, `[]` for a number.
    pub shape: Vec<usize>,
    /// The values, row-major; NaN where the file has `NaN`, an infinity or `null`.
    pub data: Vec<f64>,
}

/// The statistics of a dataset: `mean`, `std`, `min`, `max`, `q01`, `q99`, … of each feature.
///
/// `stats.json` is by feature (`observation.state`); `relative_stats.json` is by action group (`left_arm`),
/// with a row for each step of the action horizon. What is no array of numbers is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    features: BTreeMap<String, BTreeMap<String, StatArray>>,
}

impl Stats {
    /// Reads a statistics file; absent is None.
    pub(crate) fn read(path: &Path) -> Result<Option<Stats>> {
        type Raw = BTreeMap<String, Maybe<BTreeMap<String, Maybe<StatArray>>>>;
        let Some(raw) = json::read_optional::<Raw>(path)? else { return Ok(None) };
        let arrays = |raw: BTreeMap<String, Maybe<StatArray>>| {
            raw.into_iter().filter_map(|(name, array)| Some((name, array.get()?))).collect()
        };
        let features = raw.into_iter().filter_map(|(name, raw)| Some((name, arrays(raw.get()?)))).collect();
        Ok(Some(Stats { features }))
    }

    /// The features (or groups) that have statistics, in alphabetical order.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.features.keys().map(String::as_str)
    }

    /// The statistics of a feature (or group) by name.
    pub fn feature(&self, name: &str) -> Option<&BTreeMap<String, StatArray>> {
        self.features.get(name)
    }

    /// One statistic (such as `q01`) of a feature (or group).
    pub fn get(&self, feature: &str, statistic: &str) -> Option<&StatArray> {
        self.features.get(feature)?.get(statistic)
    }
}

impl<'de> Deserialize<'de> for StatArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let mut shape = Vec::new();
        let mut level = &value;
        while let Value::Array(items) = level {
            shape.push(items.len());
            match items.first() {
                Some(first) => level = first,
                None => break,
            }
        }
        let mut data = Vec::new();
        match fill(&value, &shape, &mut data) {
            true => Ok(StatArray { shape, data }),
            false => Err(D::Error::custom("expected numbers in a rectangular array")),
        }
    }
}

/// Appends the numbers of an array that has exactly this shape.
fn fill(value: &Value, shape: &[usize], data: &mut Vec<f64>) -> bool {
    match (value, shape) {
        (Value::Array(items), [len, inner @ ..]) => {
            items.len() == *len && items.iter().all(|item| fill(item, inner, data))
        }
        (Value::Number(number), []) => match number.as_f64() {
            Some(number) => {
                data.push(number);
                true
            }
            None => false,
        },
        (Value::Bool(flag), []) => {
            data.push(f64::from(u8::from(*flag)));
            true
        }
        (Value::Null, []) => {
            data.push(f64::NAN);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let read = |text: &str| serde_json::from_str::<StatArray>(text);
        let array = read("[[1, 2.5, 3], [4, 5, 6]]").unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.data, [1.0, 2.5, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(read("7").unwrap().shape, [0usize; 0]);
        assert_eq!(read("[]").unwrap().shape, [0]);
        assert!(read("[1, null]").unwrap().data[1].is_nan());
        assert!(read("[[1, 2], [3]]").is_err());
        assert!(read(r#"[1, "x"]"#).is_err());
    }

    #[test]
    fn what_is_no_statistic_is_left_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = r#"{"a": {"mean": [NaN, 1.0], "note": "x"}, "b": null, "c": {"min": [-Infinity]}}"#;
        std::fs::write(file.path(), text).unwrap();
        let stats = Stats::read(file.path()).unwrap().unwrap();
        assert_eq!(stats.features().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(stats.get("a", "mean").unwrap().data[1], 1.0);
        assert!(stats.get("a", "note").is_none() && stats.get("c", "min").unwrap().data[0].is_nan());
    }
}
