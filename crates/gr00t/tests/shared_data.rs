//! The real tokenizer, which is not in the repository: each test is ignored where it is absent.

mod cases;

use std::path::Path;
use std::process::ExitCode;

use cases::{CASES, Tensors, golden, observation};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use steadyhand_gr00t::processor::{Processor, Tokenizer};

/// A test that is ignored, by name, where the real tokenizer is absent from the folder of shared data.
fn trial(name: &str, test: fn(&Path)) -> Trial {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/tokenizer/eagle");
    let absent = !path.join("vocab.json").exists();
    let run = move || {
        assert!(!absent, "{} is absent", path.display());
        test(&path);
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(absent)
}

fn main() -> ExitCode {
    let tests = vec![
        trial("official_cases_have_the_official_token_ids", official_cases_have_the_official_token_ids),
        trial("the_real_vocabulary_gives_the_real_ids", the_real_vocabulary_gives_the_real_ids),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn official_cases_have_the_official_token_ids(tokenizer: &Path) {
    for case in CASES {
        let tensors = Tensors::read(&golden(case).join("case.safetensors"));
        let processor = Processor::load(&golden(case), "new_embodiment", Some(tokenizer)).expect(case);
        let encoded = processor.encode(&observation(case, &tensors)).expect(case);
        let ids: Vec<i64> = encoded.input_ids.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, tensors.integers("out.input_ids"), "{case}");
        let mask: Vec<i64> = encoded.attention_mask.iter().map(|&m| i64::from(m)).collect();
        assert_eq!(mask, tensors.integers("out.attention_mask"), "{case}");
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

fn the_real_vocabulary_gives_the_real_ids(path: &Path) {
    let tokenizer = Tokenizer::from_path(path).expect("the real tokenizer");
    for (token, id) in read(&path.join("added_tokens.json")).as_object().expect("tokens") {
        assert_eq!(tokenizer.token_id(token).map(u64::from), id.as_u64(), "{token}");
        assert_eq!(tokenizer.encode(token).expect("a token").len(), 1, "{token}");
    }
    // Hugging Face tokenizers 0.23 in Python, over contractions, digits, spaces, line ends,
    // composed and decomposed accents, and other scripts.
    for (text, ids) in REAL_IDS {
        assert_eq!(tokenizer.encode(text).expect("text"), *ids, "{text:?}");
    }
}

const REAL_IDS: &[(&str, &[u32])] = &[
    ("don't pick UP 12 cups", &[15007, 944, 3735, 11982, 220, 16, 17, 25374]),
    ("a  b \n\n\tc...!?", &[64, 220, 293, 4710, 1444, 1112, 57390]),
    ("caf\u{e9} cafe\u{301}", &[924, 58858, 51950]),
    ("\u{673a}\u{5668}\u{4eba} \u{1f916}", &[104354, 11162, 97, 244]),
    (
        "<image 1><img><IMG_CONTEXT></img><|im_end|>\n",
        &[27, 1805, 220, 16, 29, 151670, 151669, 151671, 151645, 198],
    ),
    ("", &[]),
];
