//! AV1 pictures in a whole mp4 file: the fuzzer's bytes stand where the pictures' begin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, decode, quiet_where_guarded, with_pictures};

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| decode(&FOLDER.put("a.mp4", &with_pictures("av1_64x47", data))));
