//! Temporary files and folders that a program can remove when a signal ends it, before anything is dropped.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// Those of this process that are there now.
static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder for temporary files, which is gone when this is dropped, or when [`remove_all`] is called.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// A new folder in `parent`, its name beginning with `prefix`.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn new(prefix: &str, parent: &Path) -> io::Result<Self> {
        // Held while the folder is made, so that none is made unseen beside `remove_all`.
        let mut paths = paths();
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        paths.insert(folder.path().to_path_buf());
        Ok(Scratch { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        paths().remove(self.folder.path());
    }
}

/// A file that is not whole yet. It is gone when this is dropped, or when [`remove_all`] is called, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Part {
    path: PathBuf,
}

impl Part {
    /// Takes account of a file that is about to be written.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        // A link that somebody left there is not written through.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        paths().insert(path.clone());
        Ok(Part { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name: it is whole.
    pub(crate) fn rename(self, name: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there where it was renamed or never came to be.
        let _ = std::fs::remove_file(&self.path);
        paths().remove(&self.path);
    }
}

/// Tries to remove a folder that another thread writes into meanwhile. Once it is gone, nothing more is written.
const TRIALS: usize = 100;

/// Keeps every thread from making another temporary file or folder, as long as it lives.
#[must_use = "what another thread makes after this is dropped stays behind"]
pub struct Removed {
    _paths: MutexGuard<'static, BTreeSet<PathBuf>>,
}

/// Removes every such file and folder of this process, for a program that is about to end. What cannot be removed stays.
pub fn remove_all() -> Removed {
    let paths = paths();
    for path in paths.iter() {
        for _ in 0..TRIALS {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            if removed.is_ok() || !path.exists() {
                break;
            }
        }
    }
    Removed { _paths: paths }
}
