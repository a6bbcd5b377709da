//! The diagnosis against an engine that is certainly healthy and certainly not ours: the official code.

use safetensors::SafeTensors;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t_lab::diagnosis::{Examination, Inputs, Observed};
use steadyhand_gr00t_lab::fault::{self, FaultyEngine, Results};

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
        rtc: None,
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
            made_otherwise: &[],
            model: &model,
        };
        let errors = examination.localize().expect("an examination").errors;
        assert!(errors.len() > 20, "{name}: {} taps", errors.len());
        assert!(errors.iter().all(|error| !error.is_fault()), "{name}: {errors:?}");
        assert!(errors.iter().any(|error| error.error > 0.0), "{name}: nothing was compared");
    }
}

/// An engine's tensors, but for one.
struct Without<'a>(&'a Recorder, &'a str);

impl Observed for Without<'_> {
    fn read(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.0.tensors.get(name).filter(|_| name != self.1).cloned()
    }
}

/// Where every tensor is known, replays compute only what a hypothesis touches; where one is missing, whole parts of
/// the model. Both find the same, to the last bit.
#[test]
fn shortened_replays_find_what_long_ones_find() {
    let folder = golden("one_view");
    let model = load_model(&folder).expect("a golden");
    let input = input(&read(&folder.join("inputs.safetensors")));
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let denoising_steps = model.config.num_inference_timesteps;
    let narrow = Formats::new(Format::F32, Format::Bf16, Format::F32);
    let faults = [
        fault::eps("vision.layer.1.norm1", 1e-3),
        fault::swapped_gelu("dit.block"),
        fault::narrow("language.layer.1", narrow),
        fault::unwritten_tail("dit.output", 2),
        fault::not_causal(0),
        fault::timestep_offset(1),
    ];
    let mut all_replays = 0;
    for fault in faults {
        let mut engine = FaultyEngine::new(&model, &policy, denoising_steps, fault.clone());
        let mut seen = Recorder::all();
        engine.infer(std::slice::from_ref(&input), Some(&mut seen)).expect("probed");
        let explain = |observed: &dyn Observed| {
            let expected = BTreeMap::new();
            let examination = Examination {
                model: &model,
                policy: &policy,
                denoising_steps,
                input: &input,
                observed,
                inputs: Inputs::Own,
                expected: &expected,
                made_otherwise: &[],
            };
            let base = examination.localize().expect("an examination");
            let replays = Cell::new(0);
            let findings = examination.explain(&Results::new(), &base, &|progress| replays.set(progress.of));
            let findings = findings.expect("findings").into_iter();
            let plain = findings.map(|found| (found.fault.description, found.residual, found.proven));
            (plain.collect::<Vec<_>>(), replays.get())
        };
        let (found, replays) = explain(&seen);
        assert_eq!(found.first().map(|found| &found.0), Some(&fault.description));
        assert!(replays < found.len(), "{fault:?}: {replays} of {}", found.len());
        all_replays += replays;
        assert_eq!(found, explain(&Without(&seen, "vision.layer.0.norm2")).0, "{fault:?}");
    }
    assert!(all_replays > 0, "nothing was replayed");
}
