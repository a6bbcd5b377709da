//! The embedded demo: a small policy and four held-out episodes of a Unitree G1.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

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

/// The folders that were given, or else the demo in the temporary folder.
///
/// # Errors
/// Only one of the two was given; the demo cannot be written.
pub fn unless_given(checkpoint: Option<&Path>, dataset: Option<&Path>) -> Result<Demo> {
    match (checkpoint, dataset) {
        (Some(checkpoint), Some(dataset)) => {
            Ok(Demo { checkpoint: checkpoint.to_path_buf(), dataset: dataset.to_path_buf() })
        }
        (None, None) => temporary(),
        _ => bail!(
            "--checkpoint (--model-path) and --dataset-path: expected both or, for the embedded demo, neither"
        ),
    }
}

/// The demo in the temporary folder, where its files stay.
///
/// # Errors
/// A file cannot be written.
pub fn temporary() -> Result<Demo> {
    unpack(&std::env::temp_dir().join("steadyhand-demo"))
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
            let whole = path.with_extension(format!("{}.part", std::process::id()));
            std::fs::write(&whole, contents)?;
            std::fs::rename(&whole, &path)
        };
        write().with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(Demo { checkpoint: folder.join("checkpoint"), dataset: folder.join("dataset") })
}
