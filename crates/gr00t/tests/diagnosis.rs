//! The diagnosis against an engine that is certainly healthy and certainly not ours: the official code.

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::diagnosis::{Examination, Inputs};
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(name)
}

type Floats = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Every tensor of a file as f32; integers too, which are small.
fn read(path: &Path) -> Floats {
    let bytes = fs::read(path).expect("a fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let values = |view: &safetensors::tensor::TensorView| -> Vec<f32> {
        match view.dtype() {
            safetensors::Dtype::F32 => {
                view.data().as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
            }
            _ => view.data().as_chunks().0.iter().map(|raw| i64::from_le_bytes(*raw) as f32).collect(),
        }
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(&view)))).collect()
}

fn input(floats: &Floats) -> ModelInput {
    let matrix = |name: &str| {
        let (shape, data) = &floats[name];
        Matrix { rows: shape[1], cols: shape[2], data: data.clone() }
    };
    let image = |(shape, data): &(Vec<usize>, Vec<f32>)| PixelValues {
        height: shape[2],
        width: shape[3],
        data: data.clone(),
    };
    let images = (0..).map_while(|index| floats.get(&format!("pixel_values.{index}")));
    ModelInput {
        images: images.map(image).collect(),
        input_ids: floats["input_ids"].1.iter().map(|id| *id as u32).collect(),
        state: matrix("state"),
        embodiment_id: floats["embodiment_id"].1[0] as usize,
        noise: matrix("noise"),
    }
}

/// A tap of the goldens holds up to a whole layer, so its local error bounds that of one operation.
#[test]
fn the_official_code_shows_no_fault() {
    for name in ["one_view", "two_views", "mixed_shapes"] {
        let model = load_model(&golden(name)).expect("a golden");
        let mut observed = Recorder::all();
        observed.tensors = read(&golden(name).join("expected_f32.safetensors"));
        // The official vision tower keeps its patches in another order.
        observed.tensors.retain(|name, _| !name.starts_with("vision."));
        let examination = Examination {
            denoising_steps: model.config.num_inference_timesteps,
            policy: &PrecisionPolicy::preset("f32").expect("a preset"),
            input: &input(&read(&golden(name).join("inputs.safetensors"))),
            observed: &observed,
            inputs: Inputs::Own,
            expected: &BTreeMap::new(),
            model: &model,
        };
        let errors = examination.localize().expect("an examination").errors;
        assert!(errors.len() > 20, "{name}: {} taps", errors.len());
        assert!(errors.iter().all(|error| !error.is_fault()), "{name}: {errors:?}");
        assert!(errors.iter().any(|error| error.error > 0.0), "{name}: nothing was compared");
    }
}
