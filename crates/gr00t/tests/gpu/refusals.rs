//! What the engine refuses, and in which words.

use crate::gpu::{Case, bits, infer, preset};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::cuda::driver::Device;
use steadyhand_gr00t::cuda::{CudaEngine, Options};
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};

/// The one image of the golden gives 81 image tokens.
const IMAGE_TOKENS: usize = 81;

type Change = fn(&mut ModelInput);

/// Each with what the error says.
const CHANGES: [(Change, &str); 8] = [
    (|input| input.embodiment_id = 99, "embodiment_id: expected below 4, found 99"),
    (|input| input.images[0].data[5] = f32::NAN, "pixel_values.0: expected finite values, found NaN at 5"),
    (|input| input.state.data[3] = f32::NAN, "state: expected finite values, found NaN at 3"),
    (|input| input.noise.data[7] = f32::NAN, "noise: expected finite values, found NaN at 7"),
    (|input| input.noise.data[0] = f32::INFINITY, "noise: expected finite values, found inf at 0"),
    (|input| input.input_ids[0] = 512, "input_ids: expected ids below 512, found 512"),
    (
        |input| {
            let image = &mut input.images[0];
            image.height -= 14;
            image.data.truncate(3 * image.height * image.width);
        },
        "pixel_values: expected height and width to be multiples of 28, found 238x252",
    ),
    (one_image_token_less, "input_ids: expected 81 image tokens for these images, found 80"),
];

fn one_image_token_less(input: &mut ModelInput) {
    let image_token = *input.input_ids.iter().max_by_key(|id| count(input, **id)).expect("tokens");
    assert_eq!(count(input, image_token), IMAGE_TOKENS);
    let first = input.input_ids.iter().position(|id| *id == image_token).expect("an image token");
    input.input_ids.remove(first);
}

fn count(input: &ModelInput, id: u32) -> usize {
    input.input_ids.iter().filter(|other| **other == id).count()
}

/// Inputs are refused by field, and the engine goes on as if they had not been.
pub fn of_inputs() {
    let case = Case::golden("one_view");
    let mut engine = case.cuda(&preset("f32"));
    let before = bits(&infer(&mut engine, &case.input));
    for (change, expected) in CHANGES {
        let mut input = case.input.clone();
        change(&mut input);
        let found = engine.infer(&[input], None).expect_err(expected).to_string();
        assert_eq!(found, expected);
        assert_eq!(bits(&infer(&mut engine, &case.input)), before, "after: {expected}");
    }
}

/// A policy that weights alone show to be unsupported is refused before a GPU is looked for, as are zero steps.
pub fn of_policies() {
    let f32 = Formats::new(Format::F32, Format::F32, Format::F32);
    let fp8 = Formats { compute: Format::Fp8E4m3, ..f32 };
    let narrow_sums = Formats { accumulate: Format::Fp16, ..f32 };
    let cases = [
        (preset("bf16"), 0, "denoising_steps: expected at least 1, found 0".to_owned()),
        (
            preset("bf16").stochastic(1),
            4,
            "precision: stochastic rounding is the CPU engine's alone".to_owned(),
        ),
        (
            preset("f32").with("dit.block.3.fc1", narrow_sums),
            4,
            unsupported("f32", "accumulation in Fp16 at `dit.block.3.fc1`"),
        ),
        (
            preset("mixed").with("language.layer.1.down", fp8),
            4,
            unsupported("mixed", "operands in Fp8E4m3 at `language.layer.1.down`"),
        ),
    ];
    let model = Case::golden("one_view").model;
    for (policy, steps, expected) in cases {
        match CudaEngine::new(model.clone(), policy, steps, Options::default()) {
            Ok(_) => panic!("not refused: {expected}"),
            Err(error) => assert_eq!(error.to_string(), expected),
        }
    }
}

/// A site without weights is named too: at the latest by the first inference.
pub fn of_sites_without_weights() {
    let case = Case::golden("one_view");
    let formats = Formats::new(Format::Bf16, Format::Bf16, Format::Fp16);
    for path in ["vision.layer.1.attention", "language.layer.1.gated", "dit.block.2.residual1", "euler"] {
        let policy = preset("bf16").with(path, formats);
        let expected = unsupported("bf16", &format!("accumulation in Fp16 at `{path}`"));
        assert_eq!(first_error(&case, policy), expected, "{path}");
    }
}

fn unsupported(policy: &str, what: &str) -> String {
    format!(
        "precision: policy `{policy}` asks for {what}: the CUDA engine has f32, bf16 and fp16 storage and operands, \
         and accumulates in f32"
    )
}

fn first_error(case: &Case, policy: PrecisionPolicy) -> String {
    let opened = CudaEngine::new(case.model.clone(), policy, case.steps, Options::default());
    let result = opened.and_then(|mut engine| engine.infer(std::slice::from_ref(&case.input), None));
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

/// A GPU that is not there.
pub fn of_a_device() {
    let error = Device::open(99).expect_err("no hundredth GPU").to_string();
    assert!(error.starts_with("open device: expected GPU 99, found GPUs 0 to "), "{error}");
}
