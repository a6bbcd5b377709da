//! Files that are written whole or not at all.

use crate::scratch;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Writes what `fill` writes to the file at `path`. Whatever happens, the path holds the old contents or all of the new
/// ones: they are written to a file beside it, which then takes its name. A link stays one; a pipe or a device is written
/// to as it is.
///
/// # Errors
/// The file cannot be written, as on a full disk.
pub fn write(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fill(&mut File::options().write(true).open(path)?);
    }
    let part = scratch::Part::create(part_of(path))?;
    let mut file = File::create(part.path())?;
    fill(&mut file)?;
    file.sync_data()?;
    // What is dropped without this is removed: a part takes the room that ran out.
    part.rename(path)
}

/// Whether a file can be written, found by leaving and removing an empty one beside it.
///
/// # Errors
/// It cannot.
pub fn try_to_write(path: &Path) -> io::Result<()> {
    let part = scratch::Part::create(part_of(path))?;
    File::create(part.path()).map(drop)
}

/// Where a file is written until it is whole.
fn part_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};

    #[test]
    fn a_file_is_whole_or_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.txt");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let broken = |file: &mut File| {
            file.write_all(b"half")?;
            Err(io::Error::from(ErrorKind::StorageFull))
        };
        assert_eq!(write(&path, broken).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |file| file.write_all(b"new")).unwrap();
        try_to_write(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a part is left");
    }
}
