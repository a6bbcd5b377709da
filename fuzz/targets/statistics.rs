//! `statistics.json` beside the demo's other files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::processor::Processor;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| {
    let folder = Scratch::new(Some("demo/checkpoint"));
    folder.remove("model.safetensors");
    folder
});

fuzz_target!(|data: &[u8]| {
    FOLDER.put("statistics.json", data);
    let Ok(processor) = Processor::load(FOLDER.path(), "new_embodiment", None) else { return };
    let (rows, cols) = (processor.action_horizon(), processor.max_action_dim());
    let observation = processor.random_observation(1, [48, 64], "go".to_owned());
    let _ = processor.encode(&observation);
    let _ = processor.decode(&Matrix { rows, cols, data: vec![0.5; rows * cols] }, &observation);
});
