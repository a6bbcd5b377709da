//! Compiled kernels on disk, to be shared by processes.
//!
//! An entry carries all that it was compiled from, so a file is either exactly what was asked for or nothing. Its
//! name is a short hash of that; two that share a name take turns. The folder may be deleted at any time.

use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The first bytes of an entry. The digit changes with the layout.
const MAGIC: &[u8; 16] = b"steady kernel 2\n";
/// Bytes before the key: the magic, then three little-endian u64: the key's length, the code's, the checksum.
const HEADER: usize = 16 + 3 * 8;

/// A folder of entries, or none: then nothing is found and nothing is kept.
#[derive(Debug, Clone)]
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    /// In `folder`, made when something is kept.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Cache(folder)
    }

    /// The folder of this user: `steadyhand/kernels` in `XDG_CACHE_HOME` or `~/.cache`.
    pub(super) fn user_folder() -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        Some(caches?.join("steadyhand/kernels"))
    }

    /// The code kept for `key`. An entry that is damaged or another's is none.
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut entry = std::fs::read(self.path(key)?).ok()?;
        let (header, body) = entry.split_at_checked(HEADER)?;
        let (magic, numbers) = header.split_at(MAGIC.len());
        let (numbers, _) = numbers.as_chunks::<8>();
        let [key_bytes, code_bytes, sum] = numbers else { return None };
        let length = |word: &[u8; 8]| usize::try_from(u64::from_le_bytes(*word)).ok();
        let (key_bytes, code_bytes) = (length(key_bytes)?, length(code_bytes)?);
        let whole =
            magic == MAGIC && key_bytes == key.len() && key_bytes.checked_add(code_bytes)? == body.len();
        let intact = whole && body.starts_with(key) && u64::from_le_bytes(*sum) == hash(body);
        intact.then(|| entry.split_off(HEADER + key_bytes))
    }

    /// Keeps `code` for `key`. A folder that cannot be written is no error: the kernel is compiled again next time.
    pub(super) fn put(&self, key: &[u8], code: &[u8]) {
        if let Some(path) = self.path(key) {
            let _ = write(&path, key, code);
        }
    }

    fn path(&self, key: &[u8]) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{:016x}.kernel", hash(key))))
    }
}

/// Writes beside the entry and renames, so that another process finds a whole entry or none.
fn write(path: &Path, key: &[u8], code: &[u8]) -> std::io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("{}-{number}.part", std::process::id()));
    let body = [key, code].concat();
    let numbers = [key.len() as u64, code.len() as u64, hash(&body)].map(u64::to_le_bytes);
    let written = std::fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(&[MAGIC, numbers.as_flattened(), &body].concat())?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Std's hash with its fixed keys. Another version of Rust may have another: an entry of before is then none.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_folder() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(folder.path().join("kernels")));
        (folder, cache)
    }

    #[test]
    fn code_comes_back_for_its_key_alone() {
        let (_folder, cache) = in_folder();
        assert_eq!(cache.get(b"source"), None);
        cache.put(b"source", b"code");
        assert_eq!(cache.get(b"source").as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.get(b"source "), None);
        cache.put(b"source", b"");
        assert_eq!(cache.get(b"source").as_deref(), Some(&b""[..]));
    }

    #[test]
    fn another_key_under_the_same_name_is_none() {
        let (_folder, cache) = in_folder();
        cache.put(b"one", b"code");
        std::fs::rename(cache.path(b"one").unwrap(), cache.path(b"two").unwrap()).unwrap();
        assert_eq!(cache.get(b"two"), None);
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_seen_and_mended() {
        let (_folder, cache) = in_folder();
        cache.put(b"source", b"some code");
        let path = cache.path(b"source").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 0x20;
            std::fs::write(&path, changed).unwrap();
            assert_eq!(cache.get(b"source"), None, "byte {index} changed");
            std::fs::write(&path, &whole[..index]).unwrap();
            assert_eq!(cache.get(b"source"), None, "cut at byte {index}");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert_eq!(cache.get(b"source"), None, "a byte more");
        cache.put(b"source", b"some code");
        assert_eq!(cache.get(b"source").as_deref(), Some(&b"some code"[..]));
    }

    #[test]
    fn threads_share_an_entry() {
        let (folder, cache) = in_folder();
        let code = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        cache.put(b"source", &code);
                        assert_eq!(cache.get(b"source").as_ref(), Some(&code));
                    }
                });
            }
        });
        let left = std::fs::read_dir(folder.path().join("kernels")).unwrap().count();
        assert_eq!(left, 1, "no parts stay behind");
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = Cache::new(Some(file.path().join("kernels")));
        cache.put(b"source", b"code");
        assert_eq!(cache.get(b"source"), None);
        Cache::new(None).put(b"source", b"code");
    }
}
