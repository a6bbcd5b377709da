//! A trace: a safetensors file or a manifest beside a whole one; the first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fidelity::Trace;
use steadyhand_fuzz::Scratch;

static FOLDERS: LazyLock<[Scratch; 2]> = LazyLock::new(|| {
    let folders = [Scratch::new(None), Scratch::new(None)];
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    folders[1].put("x.safetensors", &[&(header.len() as u64).to_le_bytes(), &header[..], &[0; 4]].concat());
    folders
});

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let which = usize::from(*first & 1);
    FOLDERS[which].put(["x.safetensors", "manifest.json"][which], data);
    let Ok(trace) = Trace::open(FOLDERS[which].path()) else { return };
    for name in trace.names() {
        let _ = (trace.read(name), trace.read_bytes(name));
    }
});
