//! Activation scales: the largest magnitudes that the linear layers of a model were seen to multiply.

use crate::checkpoint::Checkpoint;
use crate::ops::{Operation, Site};
use crate::probe::{Intervention, Product};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest magnitudes by site, and what they were found on. A file of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// [`Checkpoint::fingerprint`] of the weights; [`synthetic::fingerprint`](crate::synthetic::fingerprint) of
    /// random ones.
    pub checkpoint: String,
    /// The embodiment that the observations are of.
    pub embodiment_tag: String,
    /// A hash of the dataset that the observations are from.
    pub dataset: String,
    /// How many observations.
    pub frames: usize,
    /// Euler steps of each inference; all of them count.
    pub denoising_steps: usize,
    /// How many percent of a site's values lie within its bound: 100 for the largest of all.
    pub percentile: f64,
    /// The bound of the activations that the linear layer at this path multiplies, over all frames and steps.
    pub amax: BTreeMap<String, f32>,
    /// Where it was read from.
    #[serde(skip)]
    file: Option<PathBuf>,
}

impl Calibration {
    /// A calibration of the weights of this fingerprint: the bounds `amax` by path, found on `frames` observations.
    pub fn new(
        checkpoint: String,
        embodiment_tag: &str,
        dataset: &str,
        frames: usize,
        denoising_steps: usize,
        percentile: f64,
        amax: BTreeMap<String, f32>,
    ) -> Self {
        Calibration {
            checkpoint,
            embodiment_tag: embodiment_tag.to_owned(),
            dataset: dataset.to_owned(),
            frames,
            denoising_steps,
            percentile,
            amax,
            file: None,
        }
    }

    /// Reads a file that [`Calibration::save`] wrote.
    ///
    /// # Errors
    /// A file that cannot be read or has other fields; a bound that is not a finite number above or at zero.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
        let read: Calibration =
            serde_json::from_str(&text).map_err(|error| Error::file(path, error.to_string()))?;
        if let Some((site, amax)) = read.amax.iter().find(|(_, amax)| !(amax.is_finite() && **amax >= 0.0)) {
            return Err(Error::file(path, format!("amax.{site}: expected a finite number, found {amax}")));
        }
        let file = std::path::absolute(path).map_err(|source| Error::io(path, source))?;
        Ok(Calibration { file: Some(file), ..read })
    }

    /// Writes the calibration as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::file(path, error.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|source| Error::io(path, source))
    }

    /// Where it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The bound at a path.
    ///
    /// # Errors
    /// A path that was not calibrated.
    pub fn amax(&self, path: &str) -> Result<f32> {
        let found = self.amax.get(path).copied();
        found.ok_or_else(|| self.fails(&format!("amax: expected one of `{path}`, found none")))
    }

    /// Whether the calibration is of these weights and, where it is known, this embodiment.
    ///
    /// # Errors
    /// Another checkpoint or embodiment: both are named.
    pub fn expect_model(&self, checkpoint: &Checkpoint, embodiment_tag: Option<&str>) -> Result<()> {
        self.expect_weights(&checkpoint.fingerprint())?;
        embodiment_tag.map_or(Ok(()), |tag| self.expect("embodiment_tag", &self.embodiment_tag, tag))
    }

    /// Whether the calibration is of the weights of this fingerprint.
    ///
    /// # Errors
    /// Other weights: both are named.
    pub fn expect_weights(&self, fingerprint: &str) -> Result<()> {
        self.expect("checkpoint", &self.checkpoint, fingerprint)
    }

    /// Whether the calibration was found on the dataset of this hash.
    ///
    /// # Errors
    /// Another dataset: both hashes are named.
    pub fn expect_dataset(&self, hash: &str) -> Result<()> {
        self.expect("dataset", &self.dataset, hash)
    }

    fn expect(&self, field: &str, found: &str, expected: &str) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(self.fails(&format!("{field}: expected {expected}, found {found}: calibrate again")))
    }

    fn fails(&self, what: &str) -> Error {
        match &self.file {
            Some(file) => Error::file(file, what),
            None => Error::input("calibration", what),
        }
    }
}

/// What a calibration is made of: counts of the magnitudes that linear layers multiply. It changes nothing.
#[derive(Debug, Default)]
pub struct Collector {
    sites: RefCell<BTreeMap<String, Histogram>>,
}

impl Collector {
    /// The bound of each site that `percentile` percent of its values lie within; at 100 the largest value, below it
    /// up to 3 % above the exact bound, the width of the counted intervals.
    ///
    /// # Errors
    /// A percentile outside (0, 100]; a site that multiplied a value that is not finite.
    pub fn amax(&self, percentile: f64) -> Result<BTreeMap<String, f32>> {
        if !(percentile > 0.0 && percentile <= 100.0) {
            let what = format!("expected above 0 and at most 100, found {percentile}");
            return Err(Error::input("percentile", what));
        }
        let bound = |(path, histogram): (&String, &Histogram)| {
            let amax = histogram.bound(percentile);
            match amax.is_finite() {
                true => Ok((path.clone(), amax)),
                false => Err(Error::input(path, "expected finite activations to calibrate on, found others")),
            }
        };
        self.sites.borrow().iter().map(bound).collect()
    }
}

impl Intervention for Collector {
    fn product(&self, site: &Site, product: &Product) {
        if product.operation == Operation::Linear {
            let mut sites = self.sites.borrow_mut();
            let histogram = sites.entry(site.path().to_owned()).or_default();
            product.operands.iter().for_each(|values| histogram.count(values));
        }
    }
}

/// Counts of magnitudes in intervals of 3 %.
#[derive(Debug)]
struct Histogram {
    counts: Vec<u64>,
    largest: f32,
}

/// Bits of a magnitude that an interval leaves out: 5 bits of mantissa stay.
const DROPPED: u32 = 18;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; 1 << (31 - DROPPED)], largest: 0.0 }
    }
}

impl Histogram {
    fn count(&mut self, values: &[f32]) {
        for value in values {
            let magnitude = value.abs();
            self.counts[(magnitude.to_bits() >> DROPPED) as usize] += 1;
            // A NaN stays: nothing is larger.
            if magnitude > self.largest || magnitude.is_nan() {
                self.largest = magnitude;
            }
        }
    }

    fn bound(&self, percentile: f64) -> f32 {
        if percentile == 100.0 || !self.largest.is_finite() {
            return self.largest;
        }
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * percentile / 100.0).ceil() as u64;
        let mut within = 0;
        let interval = self.counts.iter().position(|count| {
            within += count;
            within >= wanted
        });
        let edge = |index: usize| f32::from_bits((index as u32 + 1) << DROPPED);
        interval.map_or(self.largest, |index| edge(index).min(self.largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_what_they_say() {
        let collector = Collector::default();
        let count = |site: &Site, values: &[f32]| {
            let product = Product { operation: Operation::Linear, operands: &[values], weight: None };
            collector.product(site, &product);
        };
        let values: Vec<f32> = (1..=1000).map(|i| i as f32 * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        count(&Site::in_step("dit.output", 0), &values[..500]);
        count(&Site::in_step("dit.output", 3), &values[500..]);
        assert_eq!(collector.amax(100.0).expect("finite")["dit.output"], 1000.0);
        let most = collector.amax(90.0).expect("finite")["dit.output"];
        assert!((900.0..=900.0 * 1.033).contains(&most), "{most}");
        assert!(collector.amax(0.0).is_err() && collector.amax(100.1).is_err());
        count(&Site::new("euler"), &[1.0, f32::NAN, 2.0]);
        let error = collector.amax(99.0).expect_err("a NaN").to_string();
        assert!(error.starts_with("euler"), "{error}");
    }

    #[test]
    fn a_file_survives_and_a_stale_one_names_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("calibration.json");
        let calibration = Calibration {
            checkpoint: "c1".to_owned(),
            embodiment_tag: "new_embodiment".to_owned(),
            dataset: "d1".to_owned(),
            frames: 3,
            denoising_steps: 4,
            percentile: 99.9,
            amax: BTreeMap::from([("dit.block.0.fc1".to_owned(), 0.1f32)]),
            file: None,
        };
        calibration.save(&path).expect("written");
        let read = Calibration::load(&path).expect("read");
        assert_eq!(Calibration { file: None, ..read.clone() }, calibration);
        assert_eq!(read.amax("dit.block.0.fc1").expect("known"), 0.1);
        read.expect_dataset("d1").expect("the same");
        for (error, parts) in [
            (read.expect_dataset("d2"), ["calibration.json", "dataset", "d1", "d2"]),
            (read.amax("dit.output").map(drop), ["calibration.json", "amax", "`dit.output`", "none"]),
        ] {
            let error = error.expect_err("stale").to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        std::fs::write(&path, std::fs::read_to_string(&path).expect("text").replace("0.1", "-0.1"))
            .expect("written");
        assert!(Calibration::load(&path).expect_err("negative").to_string().contains("dit.block.0.fc1"));
    }
}
