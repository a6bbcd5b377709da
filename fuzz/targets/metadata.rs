//! The text files of a dataset's `meta` in the demo's dataset: the first byte says which one the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, quiet_where_guarded, read};

const FILES: [&str; 6] =
    ["info.json", "modality.json", "episodes.jsonl", "tasks.jsonl", "stats.json", "relative_stats.json"];

/// A dataset for each file, in which only that is the fuzzer's.
static FOLDERS: LazyLock<Vec<Scratch>> =
    LazyLock::new(|| FILES.iter().map(|_| Scratch::new(Some("demo/dataset"))).collect());

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let which = usize::from(*first) % FILES.len();
    FOLDERS[which].put(&format!("meta/{}", FILES[which]), data);
    read(FOLDERS[which].path());
});
