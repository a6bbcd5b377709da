//! What the engine refuses, and in which words.

use crate::gpu::{Case, bits, infer, preset};
use crate::variations::variations;
use steadyhand_cuda_driver::Device;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::precision::Formats;
use steadyhand_gr00t::synthetic::{tiny, tiny_n1_7};
use steadyhand_gr00t_cuda::{CudaEngine, Options, check};

/// Every so many policies are tried: a prime, so that all formats take their turn.
const SAMPLED: usize = 41;

/// The one image of the golden gives 81 image tokens.
const IMAGE_TOKENS: usize = 81;

type Change = fn(&mut ModelInput);

/// Each with what the error says.
const CHANGES: [(Change, &str); 8] = [
    (|input| input.embodiment_id = 99, "embodiment_id: expected below 4, found 99"),
    (
        |input| input.images.change(|images| images[0].data[5] = f32::NAN),
        "pixel_values.0: expected finite values, found NaN at 5",
    ),
    (|input| input.state.data[3] = f32::NAN, "state: expected finite values, found NaN at 3"),
    (|input| input.noise.data[7] = f32::NAN, "noise: expected finite values, found NaN at 7"),
    (|input| input.noise.data[0] = f32::INFINITY, "noise: expected finite values, found inf at 0"),
    (|input| input.input_ids[0] = 512, "input_ids: expected ids below 512, found 512"),
    (
        |input| {
            input.images.change(|images| {
                let image = &mut images[0];
                image.height -= 14;
                image.data.truncate(3 * image.height * image.width);
            });
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

/// What no kernel does is refused, with the site, before a GPU is looked for; so are zero steps.
pub fn of_policies() {
    let (f32, fp8) = (Format::F32, Format::Fp8E4m3);
    let narrow_sums = Formats::new(f32, f32, Format::Fp16);
    let site = |path: &str, what: &str| format!("site `{path}`: the CUDA engine cannot: {what}");
    let sums = "accumulate: expected f32, found fp16";
    let cases = [
        (preset("bf16"), 0, "denoising_steps: expected at least 1, found 0".to_owned()),
        (preset("bf16").stochastic(1), 4, "found stochastic rounding".to_owned()),
        (preset("f32").with("dit.block.3.fc1", narrow_sums), 4, site("dit.block.3.fc1", sums)),
        (preset("f32").with("language.layer.1.norm1", narrow_sums), 4, site("language.layer.1.norm1", sums)),
        (
            preset("f32").with("vision.layer.1.attention", narrow_sums),
            4,
            site("vision.layer.1.attention", sums),
        ),
        (
            preset("mixed").with("language.layer.1.down", Formats::new(f32, fp8, f32)),
            4,
            site(
                "language.layer.1.down",
                "scale: expected per_tensor or per_channel with fp8_e4m3, found none",
            ),
        ),
        (
            preset("mixed").with("language.layer.1.down", Formats::new(f32, Format::Fp8E5m2, f32)),
            4,
            site("language.layer.1.down", "compute: expected f32, bf16, fp16 or fp8_e4m3, found fp8_e5m2"),
        ),
        (
            preset("mixed").with("language.layer.1.attention", Formats::new(f32, fp8, f32)),
            4,
            site(
                "language.layer.1.attention",
                "compute: expected f32, bf16 or fp16 in attention, found fp8_e4m3",
            ),
        ),
        (
            preset("mixed").with("euler", Formats::new(fp8, f32, f32)),
            4,
            site("euler", "storage: expected f32, bf16 or fp16, found fp8_e4m3"),
        ),
    ];
    let model = Case::golden("one_view").model;
    for (policy, steps, expected) in cases {
        match CudaEngine::new(model.clone(), policy, steps, Options::default()) {
            Ok(_) => panic!("not refused: {expected}"),
            Err(error) => assert!(error.to_string().ends_with(&expected), "{error}\nexpected: {expected}"),
        }
    }
}

/// What the check admits opens and infers; what it refuses does not open. Every [`SAMPLED`]th of the policies that differ
/// from bf16 operands in one format of one site: all of them are planned without a GPU (`tests/formats.rs`).
pub fn what_the_check_refuses() {
    let device = Device::open(0).expect("a GPU");
    let capability = device.properties().compute_capability;
    [tiny(), tiny_n1_7()].into_iter().for_each(|config| agrees_with_the_engine(config, capability));
}

fn agrees_with_the_engine(config: Config, capability: (u32, u32)) {
    let case = Case::synthetic(config, 3);
    let sites = case.model.sites().expect("sites");
    for policy in variations(&preset("mixed"), &sites).into_iter().step_by(SAMPLED) {
        let checked = check(&policy, &sites, Some(capability)).map_err(|error| error.to_string());
        let opened = CudaEngine::new(case.model.clone(), policy.clone(), case.steps, Options::default());
        match (checked, opened) {
            (Ok(()), Ok(mut engine)) => {
                assert_eq!(infer(&mut engine, &case.input).cols, case.input.noise.cols)
            }
            (Ok(()), Err(error)) => panic!("{policy}: admitted, and then: {error}"),
            (Err(expected), Err(error)) => assert_eq!(error.to_string(), expected),
            (Err(error), Ok(_)) => panic!("{policy}: opened, and refused before: {error}"),
        }
    }
}

/// A GPU that is not there.
pub fn of_a_device() {
    let error = Device::open(99).expect_err("no hundredth GPU").to_string();
    assert!(error.starts_with("open device: expected GPU 99, found GPUs 0 to "), "{error}");
}
