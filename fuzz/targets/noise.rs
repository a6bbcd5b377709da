//! Tensors that are read whole: recorded noise and fixtures.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::session::{NoiseSource, Tensors};

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(|data: &[u8]| {
    let path = FOLDER.put("episode_000000.safetensors", data);
    let _ = Tensors::read(&path);
    if let Ok(noise) = NoiseSource::Recorded(FOLDER.path().to_path_buf()).open(0, 1, 2, 3) {
        noise.get(0);
    }
});
