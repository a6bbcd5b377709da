//! What the tests of the processor share: the recorded cases.
#![allow(dead_code)] // Each test file uses a part.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use steadyhand_gr00t::processor::{Encoded, Processor};
use steadyhand_gr00t::{Image, Matrix, Observation, Version};

/// The configurations with inputs and outputs recorded from the official code.
pub const CASES: [&str; 7] = [
    "minmax_absolute",
    "percentile_relative",
    "raw_language",
    "relative_eef_rot6d",
    "relative_eef_rotvec",
    "sincos_meanstd_two_views",
    "torchvision_letterbox",
];

/// Those of N1.7 that are in the repository.
pub const CASES_N1_7: [&str; 5] = [
    "letterbox_odd_sizes",
    "raw_language_small_image",
    "relative_eef_rotvec",
    "torchvision_fixed_crop",
    "torchvision_letterbox",
];

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn golden(case: &str) -> PathBuf {
    repository().join("tests/fixtures/golden_processor").join(case)
}

pub fn goldens_n1_7() -> PathBuf {
    repository().join("tests/fixtures/golden_processor_n1d7")
}

/// The smallest tokenizer of N1.7: it has the special tokens, which is all that loading needs.
pub fn tokenizer_n1_7() -> PathBuf {
    goldens_n1_7().join("tokenizer.json")
}

pub struct Tensors {
    bytes: Vec<u8>,
}

impl Tensors {
    pub fn read(path: &Path) -> Self {
        Tensors { bytes: std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    }

    pub fn open(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = self.open();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (tensor.shape().to_vec(), values.collect())
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        let file = self.open();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
    }

    pub fn matrix(&self, name: &str) -> Matrix {
        let (shape, data) = self.floats(name);
        let [.., rows, cols] = shape[..] else { panic!("{name}: {shape:?}") };
        Matrix { rows, cols, data }
    }

    pub fn image(&self, name: &str) -> Image {
        let file = self.open();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let &[height, width, 3] = tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
        Image { width, height, rgb: tensor.data().to_vec().into() }
    }

    /// Names that start with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.open().names().iter().filter_map(|n| n.strip_prefix(prefix)).map(str::to_string).collect()
    }
}

/// What a case's folder and tensors show; frames of a history are numbered, oldest first.
pub fn observation(folder: &Path, tensors: &Tensors) -> Observation {
    let text = std::fs::read_to_string(folder.join("instruction.txt")).expect("instruction");
    let mut observation = Observation::new(text);
    let mut names = tensors.names("in.image.");
    names.sort();
    for name in names {
        let number = name.rsplit_once('.').filter(|(_, number)| number.parse::<usize>().is_ok());
        let view = number.map_or(name.as_str(), |(view, _)| view);
        observation = observation.with_image(view, tensors.image(&format!("in.image.{name}")));
    }
    for name in tensors.names("in.state.") {
        let state = tensors.matrix(&format!("in.state.{name}"));
        observation = observation.with_state(name, state);
    }
    observation
}

/// ‖a − b‖ / ‖b‖, or ‖a‖ where b is zero
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    // A group that never moves is all zeros: its distance is absolute.
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// State and actions of N1.7, relative L2: measured at most 2.7e-8, where f32 rounds differently from the official f32
/// rotation; times 10.
const TOLERANCE_N1_7: f64 = 2.7e-7;

fn assert_close(name: &str, found: &Matrix, expected: &Matrix) {
    assert_eq!((found.rows, found.cols), (expected.rows, expected.cols), "{name}");
    let error = relative_l2(&found.data, &expected.data);
    println!("{name}: relative L2 {error:.2e}");
    assert!(error <= TOLERANCE_N1_7, "{name}: {error:e}");
}

/// Everything that a case of N1.7 has of the processor, but the token ids, which need the real tokenizer: bytes of all
/// images, image grids, prompt, state and actions. Gives what was encoded.
pub fn check_n1_7(folder: &Path, tokenizer: &Path) -> Encoded {
    let case = folder.file_name().expect("a name").to_string_lossy();
    let tensors = Tensors::read(&folder.join("case.safetensors"));
    let prompt = std::fs::read_to_string(folder.join("prompt.json")).expect("a prompt");
    let prompt: serde_json::Value = serde_json::from_str(&prompt).expect("JSON");
    let tag = prompt["embodiment_tag"].as_str().expect("a tag");
    let processor = Processor::load(folder, tag, Some(tokenizer)).expect(&case);
    assert_eq!(processor.version(), Version::N1_7);
    let observation = observation(folder, &tensors);
    let encoded = processor.encode(&observation).expect(&case);

    let side = processor.token_side() / 2;
    let grids = encoded.pixel_values.iter().flat_map(|image| [1, image.height / side, image.width / side]);
    let grids: Vec<i64> = grids.map(|size| size as i64).collect();
    assert_eq!(grids, tensors.integers("out.image_grid_thw"), "{case}");
    assert_eq!(encoded.pixel_values.len(), tensors.names("out.image.").len(), "{case}");
    for (index, image) in encoded.pixel_values.iter().enumerate() {
        let expected = tensors.image(&format!("out.image.{index}"));
        assert_eq!((image.height, image.width), (expected.height, expected.width), "{case}");
        let plane = image.height * image.width;
        for (at, byte) in expected.rgb.iter().enumerate() {
            let expected = (f32::from(*byte) - 127.5) / 127.5;
            assert_eq!(image.data[at % 3 * plane + at / 3], expected, "{case}: byte {at} of image {index}");
        }
    }

    assert_eq!(prompt["text_after_template"], encoded.prompt.as_str(), "{case}");
    assert_eq!(prompt["embodiment_id"], encoded.embodiment_id, "{case}");
    assert_close(&format!("{case}: state"), &encoded.state, &tensors.matrix("out.state"));
    let chunk = processor.decode(&tensors.matrix("in.normalized_action"), &observation).expect(&case);
    assert_eq!(chunk.groups.len(), tensors.names("out.action.").len(), "{case}");
    for (key, found) in &chunk.groups {
        let expected = tensors.matrix(&format!("out.action.{key}"));
        assert_close(&format!("{case}: action.{key}"), found, &expected);
    }
    encoded
}
