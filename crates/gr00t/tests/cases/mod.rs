//! What the tests of the processor share: the recorded cases.
#![allow(dead_code)] // Each test file uses a part.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use steadyhand_gr00t::{Image, Matrix, Observation};

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

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn golden(case: &str) -> PathBuf {
    repository().join("tests/fixtures/golden_processor").join(case)
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
        Image { width, height, rgb: tensor.data().to_vec() }
    }

    /// Names that start with `prefix`, without it.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.open().names().iter().filter_map(|n| n.strip_prefix(prefix)).map(str::to_string).collect()
    }
}

pub fn observation(case: &str, tensors: &Tensors) -> Observation {
    let text = std::fs::read_to_string(golden(case).join("instruction.txt")).expect("instruction");
    let images = tensors.names("in.image.").into_iter();
    let state = tensors.names("in.state.").into_iter();
    Observation {
        images: images.map(|n| (n.clone(), vec![tensors.image(&format!("in.image.{n}"))])).collect(),
        state: state.map(|n| (n.clone(), tensors.matrix(&format!("in.state.{n}")))).collect(),
        instruction: text,
    }
}
