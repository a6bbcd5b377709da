//! An mp4 file, decoded by the decoders built in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, decode, quiet_where_guarded};

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| decode(&FOLDER.put("a.mp4", data)));
