//! Which folder was meant: people name the one above, the one below, or a repository of the hub.

use std::path::{Path, PathBuf};

/// The repository of the Hugging Face hub that `path` spells, where nothing of that name exists here:
/// `nvidia/GR00T-N1.6-3B`.
pub fn hub_id(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (owner, name) = text.split_once('/')?;
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.len() <= 96 && !part.starts_with('.') && part.chars().all(allowed)
    };
    (plain(owner) && plain(name) && !path.exists()).then_some(text)
}

/// The folder below `path` that was probably meant, which holds `file`: the newest of `snapshots/<hash>` (a
/// download cache), the `checkpoint-N` of the largest N (a training run), or the only such folder there is.
pub fn meant(path: &Path, file: &str) -> Option<PathBuf> {
    let holding = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|entry| entry.join(file).is_file()).collect()
    };
    let age = |folder: &PathBuf| std::fs::metadata(folder).and_then(|meta| meta.modified()).ok();
    if let Some(newest) = holding(&path.join("snapshots")).into_iter().max_by_key(age) {
        return Some(newest);
    }
    let found = holding(path);
    let step = |folder: &&PathBuf| -> Option<u64> {
        folder.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
    };
    let last = found.iter().filter(|folder| step(folder).is_some()).max_by_key(step);
    last.or(if found.len() == 1 { found.first() } else { None }).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(hub_id(Path::new("nvidia/GR00T-N1.6-3B")), Some("nvidia/GR00T-N1.6-3B"));
        for path in ["/nvidia/GR00T", "./nvidia", "nvidia", "a/b/c", "../a", "src/lib.rs", "a b/c"] {
            assert_eq!(hub_id(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn the_folder_meant_is_below() {
        let root = tempfile::tempdir().unwrap();
        let put = |folder: &str| {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::write(root.path().join(folder).join("config.json"), "{}").unwrap();
        };
        let meant = || meant(root.path(), "config.json").map(|found| found.file_name().unwrap().to_owned());
        assert_eq!(meant(), None);
        put("other");
        assert_eq!(meant().unwrap(), "other");
        put("checkpoint-900");
        put("checkpoint-10000");
        assert_eq!(meant().unwrap(), "checkpoint-10000");
        put("snapshots/0123abcd");
        assert_eq!(meant().unwrap(), "0123abcd");
    }
}
