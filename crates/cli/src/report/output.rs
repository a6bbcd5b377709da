//! Files that commands leave: whole or not at all, and never in the place of a file that is not ours.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use steadyhand_files::whole;

/// What files of this program say of themselves, in text, PNG and HTML.
pub const WRITTEN_BY: &str = concat!("steady ", env!("CARGO_PKG_VERSION"));

/// Any of these near the start or the end of a file tells that it is ours: JSON, text in PNG and HTML, Parquet, the
/// header of CSV, NPZ, a calibration, an ONNX graph.
const MARKS: [&[u8]; 7] = [
    b"\"written_by\": \"steady ",
    b"written by steady ",
    b"created by steady ",
    b"episode,step,inference,",
    b"written_by.npy",
    b"\"amax\": {",
    b"\x12\x0asteadyhand",
];
/// How much of either end of a file is looked at.
const LOOKED_AT: u64 = 4096;

/// Checks before any work that a file can be written: its folder takes files, and what stands there is ours.
///
/// # Errors
/// A folder that cannot be made or written to; a folder in the file's place; a file that another program wrote.
pub fn claim(path: &Path) -> Result<()> {
    make_folder_of(path)?;
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => bail!("{}: expected a file, found a folder", path.display()),
        // A pipe or a device.
        Ok(found) if !found.is_file() => Ok(()),
        Ok(_) => {
            let ours = is_ours(path).with_context(|| path.display().to_string())?;
            ensure!(
                ours,
                "{}: exists and is no output of steady; name another file, or remove it first",
                path.display()
            );
            try_to_write(path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => try_to_write(path),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn try_to_write(path: &Path) -> Result<()> {
    whole::try_to_write(path).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Whether a file says that this program wrote it, or says nothing at all.
fn is_ours(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut ends = Vec::new();
    Read::by_ref(&mut file).take(LOOKED_AT).read_to_end(&mut ends)?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_AT)))?;
    file.take(LOOKED_AT).read_to_end(&mut ends)?;
    let holds = |mark: &&[u8]| ends.windows(mark.len()).any(|window| window == *mark);
    Ok(length == 0 || MARKS.iter().any(holds))
}

/// Writes a file and the folders above it; an error names the path. Whatever happens, the path holds the old contents or
/// all of the new ones.
///
/// # Errors
/// The folder cannot be made; the file cannot be written, as on a full disk.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes a value as indented JSON with a line's end.
///
/// # Errors
/// As [`write_file`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_string_pretty(value).with_context(|| path.display().to_string())?;
    json.push('\n');
    write_file(path, json.as_bytes())
}

/// [`write_file`] of what `fill` writes.
///
/// # Errors
/// As there.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    make_folder_of(path)?;
    whole::write(path, fill).with_context(|| format!("writing {}", path.display()))
}

/// Makes the folder that a file will be written to.
///
/// # Errors
/// It cannot be made.
fn make_folder_of(path: &Path) -> Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => fs::create_dir_all(folder)
            .with_context(|| format!("{}: the folder cannot be made", folder.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        write_file(&path, b"old").unwrap();
        let broken = |file: &mut File| {
            file.write_all(b"half")?;
            Err(std::io::Error::from(ErrorKind::StorageFull))
        };
        let error = write_with(&path, broken).unwrap_err();
        assert!(format!("{error:#}").contains("b.txt"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1, "a part is left");
    }

    #[test]
    fn only_what_is_ours_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let claims = |contents: &[u8]| {
            fs::write(&path, contents).unwrap();
            claim(&path)
        };
        claims(b"").unwrap();
        claims(format!("{{\n  \"written_by\": \"{WRITTEN_BY}\",").as_bytes()).unwrap();
        claims(&[&[0; 9000][..], format!("created by {WRITTEN_BY}").as_bytes()].concat()).unwrap();
        for foreign in [&b"{\"model_type\": \"Gr00tN1d6\"}"[..], b"steady", &[0; 9000]] {
            let error = claims(foreign).unwrap_err().to_string();
            assert!(error.contains("no output of steady"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), foreign);
        }
        assert!(claim(folder.path()).unwrap_err().to_string().contains("found a folder"));
    }
}
