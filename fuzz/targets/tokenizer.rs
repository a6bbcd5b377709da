//! `tokenizer.json`. A tokenizer that is made encodes a prompt and a text of odd characters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::{Scratch, quiet_where_guarded};
use steadyhand_gr00t::processor::Tokenizer;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(init: quiet_where_guarded(), |data: &[u8]| {
    let path = FOLDER.put("tokenizer.json", data);
    let Ok(tokenizer) = Tokenizer::from_path(&path) else { return };
    let _ = tokenizer.encode("<|im_start|>user\nPick up the bottle, 12 times<image 1><img><IMG_CONTEXT></img><|im_end|>\n");
    let _ = tokenizer.encode("e\u{301} \u{1f600}\u{200d}  \r\n\u{fdfa} \u{0}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    tokenizer.token_id("<IMG_CONTEXT>");
});
