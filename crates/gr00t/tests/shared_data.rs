//! What is not in the repository, the real tokenizers and the larger cases of N1.7: each test is ignored where it is
//! absent.

mod cases;

use std::path::Path;
use std::process::ExitCode;

use cases::{CASES, CASES_N1_7, Tensors, check_n1_7, golden, goldens_n1_7, observation};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use steadyhand_gr00t::processor::{PixelValues, Processor, Tokenizer};
use steadyhand_gr00t::{Error, Matrix, Observation};

/// A test that is ignored, by name, where one of its paths is absent from the folder of shared data, which it is given.
fn trial(name: &str, data: &'static [&str], test: fn(&Path)) -> Trial {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let absent = data.iter().map(|data| shared.join(data)).find(|path| !path.exists());
    let ignored = absent.is_some();
    let run = move || {
        assert!(absent.is_none(), "{} is absent", absent.unwrap_or_default().display());
        test(&shared);
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}

/// The tokenizers of N1.6 and N1.7, the cases of N1.7, and its demo.
const EAGLE: &str = "tokenizer/eagle";
const QWEN: &str = "tokenizer/qwen3vl";
const GOLDENS: &str = "golden_processor_n1d7";
const DEMO: &str = "demo_n1d7";

fn main() -> ExitCode {
    let tests = vec![
        trial(
            "official_cases_have_the_official_token_ids",
            &[EAGLE],
            official_cases_have_the_official_token_ids,
        ),
        trial("the_real_vocabulary_gives_the_real_ids", &[EAGLE], the_real_vocabulary_gives_the_real_ids),
        trial(
            "official_cases_of_n1_7_are_reproduced",
            &[QWEN, GOLDENS],
            official_cases_of_n1_7_are_reproduced,
        ),
        trial(
            "cases_in_the_repository_are_the_shared_ones",
            &[GOLDENS],
            cases_in_the_repository_are_the_shared_ones,
        ),
        trial("the_demo_of_n1_7_is_reproduced", &[DEMO], the_demo_of_n1_7_is_reproduced),
        trial(
            "a_tokenizer_of_another_version_is_refused",
            &[EAGLE, QWEN],
            a_tokenizer_of_another_version_is_refused,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn official_cases_have_the_official_token_ids(shared: &Path) {
    let tokenizer = &shared.join(EAGLE);
    for case in CASES {
        let tensors = Tensors::read(&golden(case).join("case.safetensors"));
        let processor = Processor::load(&golden(case), "new_embodiment", Some(tokenizer)).expect(case);
        let encoded = processor.encode(&observation(&golden(case), &tensors)).expect(case);
        let ids: Vec<i64> = encoded.input_ids.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, tensors.integers("out.input_ids"), "{case}");
        let mask: Vec<i64> = encoded.attention_mask.iter().map(|&m| i64::from(m)).collect();
        assert_eq!(mask, tensors.integers("out.attention_mask"), "{case}");
    }
}

fn official_cases_of_n1_7_are_reproduced(shared: &Path) {
    let folders = std::fs::read_dir(shared.join(GOLDENS)).expect("a folder");
    let mut cases = 0;
    for folder in folders.map(|entry| entry.expect("an entry").path()) {
        let encoded = check_n1_7(&folder, &shared.join(QWEN));
        let tensors = Tensors::read(&folder.join("case.safetensors"));
        let ids: Vec<i64> = encoded.input_ids.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, tensors.integers("out.input_ids"), "{}", folder.display());
        let mask: Vec<i64> = encoded.attention_mask.iter().map(|&m| i64::from(m)).collect();
        assert_eq!(mask, tensors.integers("out.attention_mask"), "{}", folder.display());
        // All images where there is one, else the first.
        let name = if encoded.pixel_values.len() == 1 { "out.pixel_values" } else { "out.pixel_values.0" };
        let (_, expected) = tensors.floats(name);
        assert_eq!(patches(&encoded.pixel_values[0]), expected, "{}", folder.display());
        cases += 1;
    }
    assert!(cases >= 10, "{cases} cases");
}

/// An image as rows of patches: blocks of 2 x 2 patches of 16 x 16 pixels row by row, in each row channel, frame (the
/// same twice), y, x.
fn patches(image: &PixelValues) -> Vec<f32> {
    const PATCH: usize = 16;
    const FRAMES: usize = 2;
    let (rows, cols) = (image.height / PATCH, image.width / PATCH);
    let mut out = Vec::with_capacity(image.data.len() * FRAMES);
    let blocks = (0..rows).step_by(2).flat_map(|y| (0..cols).step_by(2).map(move |x| (y, x)));
    for (row, col) in blocks.flat_map(|(y, x)| [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)]) {
        for plane in image.data.chunks_exact(image.height * image.width) {
            for _ in 0..FRAMES {
                for y in row * PATCH..(row + 1) * PATCH {
                    out.extend_from_slice(&plane[y * image.width + col * PATCH..][..PATCH]);
                }
            }
        }
    }
    out
}

fn cases_in_the_repository_are_the_shared_ones(shared: &Path) {
    for case in CASES_N1_7 {
        let [ours, theirs] = [goldens_n1_7(), shared.join(GOLDENS)].map(|folder| folder.join(case));
        let [a, b] = [&ours, &theirs].map(|folder| Tensors::read(&folder.join("case.safetensors")));
        for name in a.open().names() {
            assert_eq!(
                a.open().tensor(name).expect(name),
                b.open().tensor(name).expect(name),
                "{case}: {name}"
            );
        }
        for file in ["processor_config.json", "statistics.json", "prompt.json"] {
            assert_eq!(read(&ours.join(file)), read(&theirs.join(file)), "{case}: {file}");
        }
    }
}

fn the_demo_of_n1_7_is_reproduced(shared: &Path) {
    let demo = shared.join(DEMO);
    let tensors = Tensors::read(&demo.join("expected/episode_000000.safetensors"));
    let processor = Processor::load(&demo.join("checkpoint"), "NEW_EMBODIMENT", None).expect("the demo");
    let mut observation = Observation::new("Pick up the yellow bottle on the table.")
        .with_image("ego_view", tensors.image("frame0_rgb"));
    for (key, cols) in [("left_arm", 7), ("right_arm", 7), ("left_hand", 6), ("right_hand", 6)] {
        observation = observation.with_state(key, vec![0.0; cols]);
    }
    let encoded = processor.encode(&observation).expect("a frame");
    assert_eq!(patches(&encoded.pixel_values[0]), tensors.floats("pixel_values.step0").1);
    let ids: Vec<i64> = encoded.input_ids.iter().map(|&id| i64::from(id)).collect();
    assert_eq!(ids, tensors.integers("input_ids"));

    let (shape, normalized) = tensors.floats("normalized_actions.f32");
    let [_, rows, cols] = shape[..] else { panic!("{shape:?}") };
    let mut found = Vec::new();
    for inference in normalized.chunks_exact(rows * cols) {
        let chunk = processor.decode(&Matrix { rows, cols, data: inference.to_vec() }, &observation);
        let chunk = chunk.expect("actions");
        for step in 0..rows {
            found.extend(chunk.groups.iter().flat_map(|(_, group)| group.row(step)).copied());
        }
    }
    // The measured difference is 0, and so is the tolerance.
    assert_eq!(found, tensors.floats("actions.f32").1);
}

/// N1.6's tokenizer has all special tokens of N1.7, and is told by its own.
fn a_tokenizer_of_another_version_is_refused(shared: &Path) {
    let refused = |folder: &Path, tokenizer: &str| {
        let error = Processor::load(folder, "new_embodiment", Some(&shared.join(tokenizer))).err();
        error.as_ref().map(Error::to_string).expect("refused")
    };
    let error = refused(&goldens_n1_7().join("torchvision_letterbox"), EAGLE);
    assert!(
        error.contains("expected the tokenizer of GR00T N1.7, that of Qwen3-VL, found that of GR00T N1.6"),
        "{error}"
    );
    let error = refused(&golden("raw_language"), QWEN);
    assert!(error.contains("expected the tokenizer of GR00T N1.6, that of Eagle"), "{error}");
    assert!(error.contains("found that of GR00T N1.7"), "{error}");
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

fn the_real_vocabulary_gives_the_real_ids(shared: &Path) {
    let path = &shared.join(EAGLE);
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
