//! `model.safetensors` and its index: the first byte says which of the two the rest is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::checkpoint::Checkpoint;

/// A folder of one file, and one of shards, of which one is whole.
static FOLDERS: LazyLock<[Scratch; 2]> = LazyLock::new(|| {
    let folders = [Scratch::new(None), Scratch::new(None)];
    folders.iter().for_each(|folder| drop(folder.put("config.json", br#"{"model_type": "Gr00tN1d6"}"#)));
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes(), &header[..], &[0; 4]].concat();
    folders[1].put("x.safetensors", &whole);
    folders
});

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let which = usize::from(*first & 1);
    FOLDERS[which].put(["model.safetensors", "model.safetensors.index.json"][which], data);
    if let Ok(checkpoint) = Checkpoint::open(FOLDERS[which].path()) {
        let _ = checkpoint.check_finite();
        checkpoint.fingerprint();
    }
});
