//! A read-only file in memory. The one place of this crate that needs `unsafe`.

use crate::{Error, Result};
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// A whole file, mapped.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = steadyhand_files::open(path).map_err(|source| Error::io(path, source))?;
        // SAFETY: the map is only read, and every access is bounds-checked against the length mapped
        // here. What remains is the operating system's rule that a mapped file must not be truncated
        // while in use, which is the usual contract of checkpoint files and is stated in the README.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
