//! Checkpoints and observations made for one test.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::{Image, Matrix, Observation, Version};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn demo() -> PathBuf {
    repository().join("demo/checkpoint")
}

/// A small tokenizer of a version.
pub fn tokenizer(version: Version) -> PathBuf {
    match version {
        Version::N1_6 => demo(),
        Version::N1_7 => repository().join("tests/fixtures/golden_processor_n1d7/tokenizer.json"),
    }
}

/// An empty folder of this name for one test.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    folder
}

/// A checkpoint of N1.6 with two groups, `arm` (2 values) and `hand` (1), changed by `change`
/// (processor_kwargs, the statistics of `new_embodiment`).
pub fn checkpoint(name: &str, change: impl FnOnce(&mut Value, &mut Value)) -> PathBuf {
    checkpoint_of(Version::N1_6, name, change)
}

/// The same of another version.
pub fn checkpoint_of(version: Version, name: &str, change: impl FnOnce(&mut Value, &mut Value)) -> PathBuf {
    let folder = folder(name);
    let keys = |keys: &[&str]| json!({"delta_indices": [0], "modality_keys": keys});
    let mut kwargs = json!({
        "modality_configs": {"new_embodiment": {
            "video": keys(&["left", "right"]), "state": keys(&["arm", "hand"]),
            "action": keys(&["arm", "hand"]), "language": keys(&["task"]),
        }},
        "use_albumentations": true, "shortest_image_edge": 56, "max_state_dim": 8, "max_action_dim": 4,
    });
    let arm = json!({"min": [0.0, -2.0], "max": [1.0, 2.0], "mean": [0.5, 0.0], "std": [0.5, 1.0]});
    let hand = json!({"min": [0.0], "max": [10.0], "mean": [5.0], "std": [2.0]});
    let groups = json!({"arm": arm, "hand": hand});
    let mut statistics = json!({"state": groups, "action": groups, "relative_action": groups});
    change(&mut kwargs, &mut statistics);
    let config = json!({"processor_class": version.processor_class(), "processor_kwargs": kwargs});
    write(&folder, "processor_config.json", &config);
    write(&folder, "statistics.json", &json!({"new_embodiment": statistics}));
    folder
}

pub fn write(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).expect("a file of the test");
}

pub fn modality<'a>(kwargs: &'a mut Value, name: &str) -> &'a mut Value {
    &mut kwargs["modality_configs"]["new_embodiment"][name]
}

pub fn load(checkpoint: &Path) -> Processor {
    load_of(Version::N1_6, checkpoint)
}

pub fn load_of(version: Version, checkpoint: &Path) -> Processor {
    Processor::load(checkpoint, "new_embodiment", Some(&tokenizer(version))).expect("a valid checkpoint")
}

pub fn refused(checkpoint: &Path) -> String {
    refused_of(Version::N1_6, checkpoint)
}

pub fn refused_of(version: Version, checkpoint: &Path) -> String {
    match Processor::load(checkpoint, "new_embodiment", Some(&tokenizer(version))) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

/// One color, so that frames can be told apart.
pub fn frame(level: u8) -> Arc<Image> {
    Arc::new(Image { width: 56, height: 56, rgb: vec![level; 56 * 56 * 3].into() })
}

pub fn matrix(rows: usize, data: &[f32]) -> Matrix {
    Matrix { rows, cols: data.len() / rows, data: data.to_vec() }
}

pub fn observation() -> Observation {
    Observation {
        images: BTreeMap::from([("left".into(), vec![frame(0)]), ("right".into(), vec![frame(255)])]),
        state: BTreeMap::from([("arm".into(), matrix(1, &[0.75, -4.0])), ("hand".into(), matrix(1, &[5.0]))]),
        instruction: "go".into(),
    }
}
