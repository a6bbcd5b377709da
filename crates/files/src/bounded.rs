//! Files of text that are read whole, up to a size that no honest one reaches.

use std::{fs::File, io, io::Read, path::Path};

/// The most bytes of a text file that are read: a million episodes' metadata.
pub const MAX_TEXT: u64 = 1 << 28;
/// The most bytes of one JSON value, which takes up to twenty times as much when it is read: five times the largest
/// tokenizer.
pub const MAX_VALUE: u64 = 1 << 26;

/// Opens a file for reading. What is no file of a disk is refused: a pipe that nobody writes to is never opened.
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    // A folder says itself that it cannot be read.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a file, found a pipe or a device"));
    }
    File::open(path)
}

/// All bytes of a file that has at most [`MAX_TEXT`].
///
/// # Errors
/// It cannot be read, or has more.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, MAX_TEXT)
}

/// All bytes of a file that has at most `limit`.
///
/// # Errors
/// It cannot be read, or has more.
pub fn read_up_to(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_large = |found: &str| {
        let what = format!("expected at most {limit} bytes, found {found}");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
    };
    // A file may also have more than it says, as those of /proc do.
    let length = file.metadata()?.len();
    if length > limit {
        return too_large(&length.to_string());
    }
    let mut bytes = Vec::new();
    let capacity = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(capacity).map_err(|_| io::ErrorKind::OutOfMemory)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => too_large("more"),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "four").unwrap();
        assert_eq!(read_up_to(file.path(), 4).unwrap(), b"four");
        assert!(read_up_to(file.path(), 3).unwrap_err().to_string().contains("at most 3"));
        // A hole larger than the memory that there is.
        file.as_file().set_len(1 << 40).unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("at most"));
        if cfg!(target_os = "linux") {
            assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("a device"));
            // Its length is said to be 0.
            assert!(read_up_to(Path::new("/proc/self/maps"), 9).unwrap_err().to_string().contains("more"));
        }
    }
}
