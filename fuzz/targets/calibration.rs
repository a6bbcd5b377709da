//! A calibration's JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::precision::Calibration;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(|data: &[u8]| {
    let path = FOLDER.put("calibration.json", data);
    if let Ok(calibration) = Calibration::load(&path) {
        let _ = calibration.expect_dataset("0123456789abcdef");
    }
});
