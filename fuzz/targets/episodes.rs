//! A file of `meta/episodes` or `meta/tasks.parquet` of a v3.0 dataset: the first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, quiet_where_guarded, read};

const INFO: &[u8] = br#"{"codebase_version": "v3.0", "fps": 30, "chunks_size": 1000,
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "features": {"observation.images.a": {"dtype": "video", "shape": [48, 64, 3]},
    "observation.state": {"dtype": "float32", "shape": [2]}, "action": {"dtype": "float32", "shape": [2]},
    "task_index": {"dtype": "int64", "shape": [1]}}}"#;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| {
    let folder = Scratch::new(None);
    folder.put("meta/info.json", INFO);
    let episodes = steadyhand_fuzz::repository().join("demo/dataset/data/chunk-000/episode_000000.parquet");
    folder.put("data/chunk-000/file-000.parquet", &std::fs::read(episodes).expect("the demo"));
    folder
});

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let files = ["meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"];
    FOLDER.put(files[usize::from(*first & 1)], data);
    read(FOLDER.path());
});
