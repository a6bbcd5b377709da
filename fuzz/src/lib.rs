//! What the targets share: folders as the readers expect them, in which one file is the fuzzer's.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use steadyhand_lerobot::{Dataset, Kind, Video, VideoDecoder};
use tempfile::TempDir;

/// A copy of a folder, in memory where the system has such a place.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    /// A copy of `folder` of the repository; an empty folder without one.
    pub fn new(folder: Option<&str>) -> Scratch {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let scratch = Scratch { folder: tempfile::tempdir_in(parent).expect("a folder") };
        if let Some(folder) = folder {
            copy(&repository().join(folder), scratch.folder.path());
        }
        scratch
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts `contents` in place of the file `name`.
    pub fn put(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(&path, contents).expect("written");
        path
    }

    /// Removes the file `name`.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("removed");
    }
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir_all(&to).expect("a folder");
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("copied");
        }
    }
}

/// Keeps libFuzzer's panic hook, which ends the process, from panics of other crates that the readers catch.
pub fn quiet_where_guarded() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !steadyhand_files::is_guarded() {
            report(panic);
        }
    }));
}

/// Frames of a video that are decoded: a stream's errors are in its first pictures, and time is short.
const FRAMES: usize = 4;

/// Opens a video and decodes its first frames, its last one and the one before.
pub fn decode(path: &Path) {
    let Ok(mut video) = Video::open_with(path, VideoDecoder::Native) else { return };
    let count = video.frame_count();
    for index in (0..count.min(FRAMES)).chain(count.checked_sub(1)).chain(count.checked_sub(2)) {
        let _ = video.frame(index);
    }
}

/// Reads all that an evaluation reads of a dataset; of its videos the tables, no picture.
pub fn read(folder: &Path) {
    let Ok(dataset) = Dataset::open(folder) else { return };
    let _ = (dataset.stats(), dataset.relative_stats(), dataset.tasks());
    let modality = dataset.modality();
    for index in [0, 1, dataset.len().saturating_sub(1)] {
        let Ok(episode) = dataset.episode(index) else { continue };
        for kind in [Kind::State, Kind::Action] {
            for group in modality.groups(kind) {
                let _ = episode.group(kind, &group.name);
                let _ = dataset.group_stats(kind, &group.name, "mean");
                let _ = dataset.dimension_names(kind, &group.name);
            }
        }
        let annotations = modality.annotation.iter().map(|annotation| format!("annotation.{}", annotation.name));
        for key in annotations.chain(["task".to_owned(), "sub_task".to_owned()]) {
            let _ = episode.instruction(&key, 0, 16);
        }
        for view in &modality.video {
            let _ = episode.video(&view.name);
        }
    }
}

/// The fixture `name` with `data` in place of the first bytes of its pictures.
pub fn with_pictures(name: &str, data: &[u8]) -> Vec<u8> {
    static CLIP: OnceLock<Vec<u8>> = OnceLock::new();
    let path = || repository().join("tests/fixtures/video_hashes/clips").join(format!("{name}.mp4"));
    let mut clip = CLIP.get_or_init(|| fs::read(path()).expect("a fixture")).clone();
    let start = clip.windows(4).position(|window| window == b"mdat").expect("pictures") + 4;
    let length = data.len().min(clip.len() - start);
    clip[start..start + length].copy_from_slice(&data[..length]);
    clip
}
