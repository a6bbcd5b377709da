//! The embedded demo: a small policy and four held-out episodes of a Unitree G1.

use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use steadyhand_files::whole;

macro_rules! assets {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../../demo/", $path)).as_slice())),*]
    };
}

/// Path below the demo's folder, and contents.
const ASSETS: &[(&str, &[u8])] = assets![
    "checkpoint/config.json",
    "checkpoint/embodiment_id.json",
    "checkpoint/model.safetensors",
    "checkpoint/processor_config.json",
    "checkpoint/statistics.json",
    "checkpoint/tokenizer.json",
    "dataset/LICENSE",
    "dataset/data/chunk-000/episode_000000.parquet",
    "dataset/data/chunk-000/episode_000001.parquet",
    "dataset/data/chunk-000/episode_000002.parquet",
    "dataset/data/chunk-000/episode_000003.parquet",
    "dataset/meta/episodes.jsonl",
    "dataset/meta/info.json",
    "dataset/meta/modality.json",
    "dataset/meta/stats.json",
    "dataset/meta/tasks.jsonl",
    "dataset/videos/chunk-000/observation.images.ego_view/episode_000000.mp4",
    "dataset/videos/chunk-000/observation.images.ego_view/episode_000001.mp4",
    "dataset/videos/chunk-000/observation.images.ego_view/episode_000002.mp4",
    "dataset/videos/chunk-000/observation.images.ego_view/episode_000003.mp4",
];

/// The demo as ordinary folders.
#[derive(Debug)]
pub struct Demo {
    /// The checkpoint folder.
    pub checkpoint: PathBuf,
    /// The dataset folder.
    pub dataset: PathBuf,
}

/// The folders that were given, or else the demo in a folder of this user.
///
/// # Errors
/// Only one of the two was given; the demo cannot be written.
pub fn unless_given(checkpoint: Option<&Path>, dataset: Option<&Path>) -> Result<Demo> {
    match (checkpoint, dataset) {
        (Some(checkpoint), Some(dataset)) => {
            Ok(Demo { checkpoint: checkpoint.to_path_buf(), dataset: dataset.to_path_buf() })
        }
        (None, None) => of_user(),
        _ => bail!(
            "--checkpoint (--model-path) and --dataset-path: expected both or, for the embedded demo, neither"
        ),
    }
}

/// The demo in a folder of this user, where its files stay: `steadyhand/demo` in `XDG_CACHE_HOME` or `~/.cache`, or else
/// `steadyhand-demo` in the temporary folder.
///
/// # Errors
/// A file cannot be written; the folder is one that others write to.
pub fn of_user() -> Result<Demo> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    // A service's user may have no home, or one that cannot be written.
    let kept = caches.map(|caches| caches.join("steadyhand/demo")).filter(|kept| private(kept).is_ok());
    let folder = kept.unwrap_or_else(|| std::env::temp_dir().join("steadyhand-demo"));
    private(&folder).with_context(|| {
        format!("{}: expected a folder of this user's own (TMPDIR names another)", folder.display())
    })?;
    unpack(&folder)
}

/// Makes `folder`, which nobody else may write to: in a folder that all share, another user may have made it first, or a
/// link that leads to other files.
fn private(folder: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).context("cannot be made")?;
    let found = std::fs::symlink_metadata(folder).context("cannot be read")?;
    ensure!(found.is_dir(), "found a link");
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        // The owner of a new file is who we are.
        let probe = folder.join(format!(".{}", std::process::id()));
        let own = std::fs::File::create(&probe).and_then(|file| file.metadata());
        let _ = std::fs::remove_file(&probe);
        let own = own.context("cannot be written")?;
        ensure!(found.uid() == own.uid(), "found one of user {}", found.uid());
        ensure!(
            found.mode() & 0o022 == 0,
            "found one that others may write to, mode {:o}",
            found.mode() & 0o777
        );
    }
    Ok(())
}

/// Writes the demo's files below `folder`, where every other command can use them too.
///
/// # Errors
/// A file cannot be written.
pub fn unpack(folder: &Path) -> Result<Demo> {
    for (name, contents) in ASSETS {
        let path = folder.join(name);
        // A file that is already there may be mapped by a running process: it is left alone if it is right,
        // and never cut short.
        if std::fs::read(&path).is_ok_and(|found| found == *contents) {
            continue;
        }
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
            whole::write(&path, |file| file.write_all(contents))
        };
        write().with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(Demo { checkpoint: folder.join("checkpoint"), dataset: folder.join("dataset") })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_folder_that_others_reach_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let refused = |name: &str| private(&root.path().join(name)).unwrap_err().to_string();
        private(&root.path().join("new/own")).unwrap();
        private(&root.path().join("new/own")).unwrap();
        let mode = std::fs::metadata(root.path().join("new/own")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        symlink(root.path().join("new"), root.path().join("link")).unwrap();
        assert!(refused("link").contains("link"));
        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused("open").contains("others"));
    }
}
