//! An episode's parquet file in the demo's dataset.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, quiet_where_guarded, read};

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(Some("demo/dataset")));

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| {
    FOLDER.put("data/chunk-000/episode_000000.parquet", data);
    FOLDER.put("data/chunk-000/episode_000003.parquet", data);
    read(FOLDER.path());
});
