//! Activation scales: the largest magnitudes that the linear layers of a model were seen to multiply.

use crate::checkpoint::{Checkpoint, files};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use steadyhand_files::whole;

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
        let read: Calibration = files::read_json(path)?;
        if let Some((site, amax)) = read.amax.iter().find(|(_, amax)| !(amax.is_finite() && **amax >= 0.0)) {
            return Err(Error::file(path, format!("amax.{site}: expected a finite number, found {amax}")));
        }
        let file = std::path::absolute(path).map_err(|source| Error::io(path, source))?;
        Ok(Calibration { file: Some(file), ..read })
    }

    /// Writes the calibration as JSON, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::file(path, error.to_string()))?;
        let write = |file: &mut File| file.write_all((text + "\n").as_bytes());
        whole::write(path, write).map_err(|source| Error::io(path, source))
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

#[cfg(test)]
mod tests {
    use super::*;

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
