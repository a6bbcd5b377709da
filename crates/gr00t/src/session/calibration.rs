//! Whether a policy's calibration is of the dataset that the policy runs on.

use crate::checkpoint::try_fingerprint;
use crate::precision::PrecisionPolicy;
use crate::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What to do where a calibration was found on another dataset than the one at hand.
#[derive(Debug, Clone, Copy, Default)]
pub enum Stale {
    /// It is an error.
    #[default]
    Refuse,
    /// It is used; the function is told once of each.
    Allow(fn(&str)),
}

/// A dataset that policies run on. Its hash is taken when a calibrated policy first asks for it.
#[derive(Debug)]
pub struct DatasetAtHand {
    folder: PathBuf,
    stale: Stale,
    hash: OnceLock<String>,
    /// What was said of stale calibrations.
    told: Mutex<Vec<String>>,
}

/// Where the scales of a policy come from, for reports.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationUsed {
    /// The calibration's file.
    pub file: Option<String>,
    /// The hash of the dataset that it was found on.
    pub dataset: String,
    /// How many observations it was found on.
    pub frames: usize,
    /// Percent of a site's values that lie within its bound.
    pub percentile: f64,
    /// Whether that is another dataset than the one at hand.
    pub stale: bool,
}

impl DatasetAtHand {
    /// The dataset in `folder`; calibrations of another are `stale`.
    pub fn new(folder: &Path, stale: Stale) -> Self {
        DatasetAtHand { folder: folder.to_path_buf(), stale, hash: OnceLock::new(), told: Mutex::default() }
    }

    /// Where the scales of `policy` come from; `None` where it has no calibration. A stale one that is allowed is told
    /// of once.
    ///
    /// # Errors
    /// A stale calibration that is not allowed, a dataset that cannot be read.
    pub fn check(&self, policy: &PrecisionPolicy) -> Result<Option<CalibrationUsed>> {
        let Some(calibration) = policy.calibration() else { return Ok(None) };
        let mismatch = calibration.expect_dataset(self.hash()?).err();
        let stale = mismatch.is_some();
        match (mismatch, self.stale) {
            (Some(error), Stale::Allow(tell)) => self.tell(error.to_string(), tell),
            (Some(error), Stale::Refuse) => return Err(error),
            (None, _) => {}
        }
        Ok(Some(CalibrationUsed {
            file: calibration.file().map(|file| file.display().to_string()),
            dataset: calibration.dataset.clone(),
            frames: calibration.frames,
            percentile: calibration.percentile,
            stale,
        }))
    }

    /// Says once of each calibration what is wrong with it.
    fn tell(&self, what: String, tell: fn(&str)) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(&what) {
            tell(&what);
            told.push(what);
        }
    }

    /// [`dataset_hash`] of the folder.
    ///
    /// # Errors
    /// As there.
    pub fn hash(&self) -> Result<&str> {
        let hash = match self.hash.get() {
            Some(known) => known.clone(),
            None => dataset_hash(&self.folder)?,
        };
        Ok(self.hash.get_or_init(|| hash))
    }
}

/// A hash of a dataset: the paths of its files and the contents of all but its videos, of which the lengths count. One
/// file is in memory at a time.
///
/// # Errors
/// A file that cannot be read.
pub fn dataset_hash(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    list(folder, "", &mut names)?;
    names.sort();
    try_fingerprint(names.into_iter().map(|name| {
        let path = folder.join(&name);
        let read = || match path.extension().is_some_and(|extension| extension == "mp4") {
            true => Ok(std::fs::metadata(&path)?.len().to_le_bytes().to_vec()),
            false => std::fs::read(&path),
        };
        let contents = read().map_err(|source| Error::io(&path, source))?;
        Ok((name, contents))
    }))
}

/// Files below a folder as `a/b`; hidden ones are what tools left there.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let entry = entry.map_err(|source| Error::io(folder, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{prefix}{name}/"), names)?;
        } else {
            names.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
