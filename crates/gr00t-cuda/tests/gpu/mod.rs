//! Models and inputs for tests on a GPU, and how far apart results may lie.

pub mod endurance;
pub mod gemms;
pub mod images;
pub mod in_one;
pub mod patched;
pub mod refusals;
pub mod tuning;

use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t_cuda::{CudaEngine, Options};

/// Models of the official code, with its inputs but for N1.7, whose official results `steady verify` holds the engine to.
pub const GOLDENS: [&str; 4] = ["one_view", "two_views", "mixed_shapes", N1_7];
/// The model of N1.7 among them.
pub const N1_7: &str = "N1.7 mixed_shapes";

/// f32 against the CPU engine: both sum in f32, in different orders, through a dozen layers. As `steady verify`.
pub const F32_LIMIT: f64 = 1e-5;

/// Lower precisions against the CPU engine at the same: the CPU engine's own distance from its f32 result, times
/// this. Sums in another order turn some roundings around, after which the two rounding errors have little in
/// common; each is about as large as the other, so the results lie no further apart than both together.
pub const ROUNDED_FACTOR: f64 = 2.0;

/// A model, what it is shown, and its number of Euler steps.
pub struct Case {
    pub model: Model,
    pub input: ModelInput,
    pub steps: usize,
}

impl Case {
    /// A golden of the repository, from its root or from where cargo runs tests.
    pub fn golden(name: &str) -> Case {
        let place = match name {
            N1_7 => PathBuf::from("tests/fixtures/golden_n1d7/mixed_shapes"),
            name => Path::new("tests/fixtures/golden").join(name),
        };
        let roots = [PathBuf::from("."), Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")];
        let folder = roots.iter().map(|root| root.join(&place)).find(|folder| folder.is_dir());
        let folder = folder.unwrap_or_else(|| panic!("{}: not found here or above", place.display()));
        let model = load_model(&folder).expect("a golden");
        let input = match name {
            // Two images whose grids differ, so that the rows and columns of both matter.
            N1_7 => made(&model, 7, &[[2, 5], [4, 3]], 9),
            _ => read_input(&folder.join("inputs.safetensors")),
        };
        let steps = model.config.num_inference_timesteps;
        Case { model, input, steps }
    }

    /// A model of synthetic weights, which the engine makes on the GPU.
    pub fn synthetic(config: Config, seed: u64) -> Case {
        let model = Model::synthetic(config, seed).expect("consistent sizes");
        let input = made(&model, seed, &[[2, 3]], 5);
        Case { model, input, steps: 4 }
    }

    /// A new engine on the GPU.
    pub fn cuda(&self, policy: &PrecisionPolicy) -> CudaEngine {
        let opened = CudaEngine::new(self.model.clone(), policy.clone(), self.steps, Options::default());
        opened.unwrap_or_else(|error| panic!("{policy}: {error}"))
    }

    /// The CPU engine's actions.
    pub fn cpu(&self, policy: &PrecisionPolicy, input: &ModelInput) -> Matrix {
        let mut engine = CpuEngine::new(self.model.clone(), policy.clone(), self.steps);
        infer(&mut engine, input)
    }

    /// The largest activations of the f32 reference.
    pub fn calibration(&self) -> Calibration {
        let collector = Collector::default();
        let engine = CpuEngine::new(self.model.clone(), preset("f32"), self.steps);
        infer(&mut engine.with_intervention(&collector), &self.input);
        let amax = collector.amax(100.0).expect("finite activations");
        Calibration::new("a golden".to_owned(), "any", "its input", 1, self.steps, 100.0, amax)
    }

    /// The CPU engine's tensors.
    pub fn cpu_taps(&self, policy: &PrecisionPolicy) -> Recorder {
        let mut engine = CpuEngine::new(self.model.clone(), policy.clone(), self.steps);
        probe(&mut engine, &self.input).1
    }

    /// How far from the CPU engine's actions at the same policy others may lie, in relative L2.
    pub fn limit(&self, policy: &PrecisionPolicy, input: &ModelInput) -> f64 {
        if policy == &preset("f32") {
            return F32_LIMIT;
        }
        ROUNDED_FACTOR * distance(&self.cpu(policy, input), &self.cpu(&preset("f32"), input))
    }

    /// Fails where `found` lies further from the CPU engine's actions than rounding explains.
    #[track_caller]
    pub fn is_right(&self, policy: &PrecisionPolicy, input: &ModelInput, found: &Matrix, what: &str) {
        let (apart, limit) = (distance(found, &self.cpu(policy, input)), self.limit(policy, input));
        assert!(apart <= limit, "{what}: {apart:.2e} from the CPU engine, limit {limit:.2e}");
    }
}

/// The preset of this name.
pub fn preset(name: &str) -> PrecisionPolicy {
    PrecisionPolicy::preset(name).expect("a preset")
}

/// An observation with images of so many rows and columns of image tokens and `text_tokens` other tokens, all of it made
/// from `seed`.
pub fn made(model: &Model, seed: u64, sizes: &[[usize; 2]], text_tokens: usize) -> ModelInput {
    let config = &model.config;
    let side = config.image_token_side();
    let image = |(index, [rows, cols]): (usize, &[usize; 2])| PixelValues {
        height: rows * side,
        width: cols * side,
        data: gaussian(seed, 1, index as u32, 3, rows * cols * side * side).data,
    };
    let image_tokens: usize = sizes.iter().map(|[rows, cols]| rows * cols).sum();
    let images = std::iter::repeat_n(config.image_token(), image_tokens);
    ModelInput {
        images: sizes.iter().enumerate().map(image).collect(),
        input_ids: std::iter::once(7).chain(images).chain((1..text_tokens as u32).map(|i| 8 + i)).collect(),
        state: gaussian(seed, 2, 0, config.state_rows().unwrap_or(1), config.max_state_dim),
        embodiment_id: 1,
        noise: gaussian(seed, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

/// Another observation of the same layout: other pixels, words, state and noise.
pub fn like(model: &Model, input: &ModelInput, seed: u64) -> ModelInput {
    let side = model.config.image_token_side();
    let sizes: Vec<[usize; 2]> =
        input.images.sizes().into_iter().map(|[_, height, width]| [height / side, width / side]).collect();
    let image_token = model.config.image_token();
    let word = |id: &u32| if *id == image_token { *id } else { (*id + seed as u32) % image_token };
    ModelInput {
        input_ids: input.input_ids.iter().map(word).collect(),
        embodiment_id: input.embodiment_id,
        ..made(model, seed, &sizes, 1)
    }
}

/// The actions of one observation.
#[track_caller]
pub fn infer(engine: &mut dyn Engine, input: &ModelInput) -> Matrix {
    engine.infer(std::slice::from_ref(input), None).expect("an inference").swap_remove(0)
}

/// The actions of one observation and every tap.
#[track_caller]
pub fn probe(engine: &mut dyn Engine, input: &ModelInput) -> (Matrix, Recorder) {
    let mut recorder = Recorder::all();
    let found = engine.infer(std::slice::from_ref(input), Some(&mut recorder));
    (found.expect("a probed inference").swap_remove(0), recorder)
}

/// What two results share exactly or not.
pub fn bits(actions: &Matrix) -> Vec<u32> {
    actions.data.iter().map(|value| value.to_bits()).collect()
}

/// Relative L2.
pub fn distance(found: &Matrix, expected: &Matrix) -> f64 {
    relative_l2(&found.data, &expected.data)
}

/// Fails unless every tap of `expected` is in `found` with its shape and, where there is a limit, its values.
#[track_caller]
pub fn taps_agree(found: &Recorder, expected: &Recorder, limit: Option<f64>) {
    assert!(expected.tensors.len() > 50, "the reference offered {} taps", expected.tensors.len());
    let mut problems = Vec::new();
    for (name, (shape, values)) in &expected.tensors {
        match found.tensors.get(name) {
            None => problems.push(format!("{name}: missing")),
            Some((other, _)) if other != shape => {
                problems.push(format!("{name}: expected {shape:?}, found {other:?}"));
            }
            Some((_, found)) => {
                let apart = relative_l2(found, values);
                if limit.is_some_and(|limit| apart > limit) {
                    problems.push(format!("{name}: {apart:.2e} apart"));
                }
            }
        }
    }
    assert!(
        problems.is_empty(),
        "{} of {} taps:\n{}",
        problems.len(),
        expected.tensors.len(),
        problems.join("\n")
    );
}

/// The inputs of a golden; padding, which the model never sees, is left out.
fn read_input(path: &Path) -> ModelInput {
    let contents = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&contents).expect("safetensors");
    let floats = |name: &str| -> Option<(Vec<usize>, Vec<f32>)> {
        let tensor = file.tensor(name).ok()?;
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let values = tensor.data().as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
        Some((tensor.shape().to_vec(), values.collect()))
    };
    let integers = |name: &str| -> Vec<i64> {
        let tensor = file.tensor(name).expect(name);
        assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
        tensor.data().as_chunks().0.iter().map(|raw| i64::from_le_bytes(*raw)).collect()
    };
    let matrix = |name: &str| {
        let (shape, data) = floats(name).expect(name);
        Matrix { rows: shape[1], cols: shape[2], data }
    };
    let images = (0..).map_while(|index| floats(&format!("pixel_values.{index}")));
    let ids = integers("input_ids").into_iter().zip(integers("attention_mask"));
    ModelInput {
        images: images.map(|(shape, data)| PixelValues { height: shape[2], width: shape[3], data }).collect(),
        input_ids: ids
            .filter(|(_, seen)| *seen != 0)
            .map(|(id, _)| id.try_into().expect("a token id"))
            .collect(),
        state: matrix("state"),
        embodiment_id: usize::try_from(integers("embodiment_id")[0]).expect("a slot"),
        noise: matrix("noise"),
        rtc: None,
    }
}
