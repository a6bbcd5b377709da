//! `processor_config.json` beside the demo's other files. A processor that is made encodes and decodes an observation.
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
    FOLDER.put("processor_config.json", data);
    let Ok(processor) = Processor::load(FOLDER.path(), "new_embodiment", None) else { return };
    let (rows, cols) = (processor.action_horizon(), processor.max_action_dim());
    let frames = processor.modalities().video.delta_indices.len() * processor.modalities().video.modality_keys.len();
    // What is refused for its memory elsewhere takes too long here.
    if frames > 8 || rows * cols > 1 << 20 {
        return;
    }
    let observation = processor.random_observation(1, [48, 64], "go".to_owned());
    let _ = processor.encode(&observation);
    let _ = processor.decode(&Matrix { rows, cols, data: vec![0.5; rows * cols] }, &observation);
});
