//! Folders for temporary files that a program can remove when a signal ends it, before anything is dropped.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// Folders of this process that are there now.
static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn folders() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut folders = folders();
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        folders.insert(folder.path().to_path_buf());
        Ok(Scratch { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        folders().remove(self.folder.path());
    }
}

/// Tries to remove a folder that another thread writes into meanwhile. Once it is gone, nothing more is written.
const TRIALS: usize = 100;

/// Removes every such folder of this process, for a program that is about to end. What cannot be removed stays.
pub fn remove_all() {
    for folder in folders().iter() {
        for _ in 0..TRIALS {
            let removed = std::fs::remove_dir_all(folder);
            if removed.is_ok() || !folder.exists() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_when_they_are_dropped_or_all_at_once() {
        let parent = tempfile::tempdir().expect("a folder");
        let count = || std::fs::read_dir(parent.path()).expect("a folder").count();
        let made = || Scratch::new("scratch-", parent.path()).expect("a folder");
        let (dropped, kept) = (made(), made());
        std::fs::write(kept.path().join("file"), "contents").expect("written");
        drop(dropped);
        assert_eq!(count(), 1);
        remove_all();
        assert_eq!(count(), 0);
    }
}
