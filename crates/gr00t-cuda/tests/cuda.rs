//! The engine on a GPU: its graphs give what its kernels give one by one, and both what the CPU engine gives.
//!
//! Where there is no GPU or no NVRTC, tests that need them are ignored, by name. The compiled test needs neither cargo
//! nor the sources: started in the repository's root, it reads `tests/fixtures/golden` alone.

mod gpu;
mod variations;

use gpu::{
    Case, GOLDENS, N1_7, bits, distance, endurance, gemms, images, in_one, infer, like, made, patched,
    preset, probe, refusals, taps_agree, tuning,
};
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};
use steadyhand_gr00t::rtc::{Rtc, RtcOptions};
use steadyhand_gr00t::synthetic::{n1_6, n1_7, tiny, tiny_n1_7};
use steadyhand_gr00t_cuda::Result;

/// What every test of a golden runs at: the presets, and fp8 with scales that were found before.
const PRECISIONS: [&str; 7] = ["f32", "bf16", "fp16", "mixed", "mixed-fp16", "fp8", CALIBRATED];
const CALIBRATED: &str = "fp8 calibrated";
/// Replays of one graph that must not differ in a bit.
const REPLAYS: usize = 1000;
/// Prompt lengths of one engine: more than the shapes that it keeps.
const LENGTHS: usize = 10;
/// f32, a batch against its members alone: a product of more rows is cut into other tiles, which sum in another
/// order. Both run the same kernels, so less may change than between two engines.
const F32_BATCH_LIMIT: f64 = 1e-6;

const F32: Formats = Formats::new(Format::F32, Format::F32, Format::F32);
const FP16: Formats = Formats::new(Format::Fp16, Format::Fp16, Format::F32);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The GPU is one, and engines side by side would only wait for each other.
    arguments.test_threads = Some(1);
    let ignored = match available() {
        Ok(()) => false,
        Err(error) => {
            eprintln!("tests on a GPU are ignored: {error}");
            true
        }
    };
    let mut trials: Vec<Trial> = on_gpu().into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    trials.push(trial("unsupported policies are refused without a GPU".to_owned(), refusals::of_policies));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether there is a GPU and a compiler for it.
fn available() -> Result<()> {
    let driver_version = Device::open(0)?.properties().driver_version;
    Compiler::open(Some(driver_version), None)?;
    Ok(())
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// A preset, or fp8 calibrated on what the case is shown.
fn policy(case: &Case, precision: &str) -> PrecisionPolicy {
    match precision {
        CALIBRATED => preset("fp8").with_calibration(case.calibration()),
        name => preset(name),
    }
}

/// What is tried at every precision, on one golden.
type AtPrecision = fn(&Case, &PrecisionPolicy);

fn on_gpu() -> Vec<Trial> {
    let for_each_golden: [(&str, AtPrecision); 5] = [
        ("replays give the probed run's bits", replays_give_the_probed_bits),
        ("a thousand replays give the same bits", replays_repeat),
        ("actions are the CPU engine's", actions_are_right),
        ("every tap of the CPU engine is there", taps_are_there),
        ("a batch gives what its members give alone", batches_are_their_members),
    ];
    let for_one_golden: [(&str, AtPrecision); 6] = [
        ("patches that change nothing change no bit", patched::with_its_own_tensors),
        ("a patched tensor is what comes later computes with", patched::with_another_observations),
        ("shapes take turns", shapes_take_turns),
        ("more shapes than are kept stay right", shapes_come_back),
        ("embodiments share a call", embodiments_share_a_call),
        ("a chunk goes on from the one before", chunks_go_on),
    ];
    let mut trials = Vec::new();
    for precision in PRECISIONS {
        let mut add = |golden: &'static str, name: &str, test: AtPrecision| {
            let run = move || {
                let case = Case::golden(golden);
                test(&case, &policy(&case, precision));
            };
            trials.push(trial(format!("{precision} {golden}: {name}"), run));
        };
        for golden in GOLDENS {
            for_each_golden.iter().for_each(|(name, test)| add(golden, name, *test));
        }
        for golden in ["one_view", N1_7] {
            for_one_golden.iter().for_each(|(name, test)| add(golden, name, *test));
        }
        for (name, config) in [("N1.6", tiny as fn() -> Config), ("N1.7", tiny_n1_7)] {
            let run = move || synthetic_weights_are_the_same(config(), precision);
            trials.push(trial(format!("{precision} synthetic {name}: weights are made as on the CPU"), run));
        }
    }
    let hopper = Device::open(0).is_ok_and(|device| device.properties().compute_capability == (9, 0));
    let in_one: [(&str, fn()); 2] = match hopper {
        true => [
            ("N1.6's DiT in one kernel is as near to f32 as its chain", || {
                in_one::is_as_near_as_the_chain(n1_6())
            }),
            ("N1.7's DiT in one kernel is as near to f32 as its chain", || {
                in_one::is_as_near_as_the_chain(n1_7())
            }),
        ],
        false => [
            ("N1.6's DiT is a chain of kernels, and the engine says why", || {
                in_one::is_a_chain_elsewhere(n1_6())
            }),
            ("N1.7's DiT is a chain of kernels, and the engine says why", || {
                in_one::is_a_chain_elsewhere(n1_7())
            }),
        ],
    };
    let others: [(&str, fn()); 11] = [
        ("two thousand inferences repeat to the bit and take no more memory", endurance::of_one_engine),
        ("GEMMs are right in every tiling", gemms::of_every_tiling),
        ("one block has formats of its own", one_block_has_formats_of_its_own),
        ("query, key and value have different formats", query_key_and_value_differ),
        ("frames become the processor's pixels to the bit", images::are_the_processors_to_the_bit),
        ("frames give the actions of processed images", images::give_the_actions_of_pixels),
        ("frames that are too large are left to the processor", images::too_large_are_left_to_the_processor),
        ("inputs are refused by field", refusals::of_inputs),
        ("what the check admits runs, what it refuses does not", refusals::what_the_check_refuses),
        ("a GPU that is not there is refused", refusals::of_a_device),
        ("a policy is tuned for the device", tuning::for_this_device),
    ];
    trials.extend(in_one.into_iter().chain(others).map(|(name, test)| trial(name.to_owned(), test)));
    trials
}

/// The graph replays what the probed run launches one by one, whichever comes first.
fn replays_give_the_probed_bits(case: &Case, policy: &PrecisionPolicy) {
    let mut engine = case.cuda(policy);
    let first = bits(&probe(&mut engine, &case.input).0);
    for replay in 0..3 {
        assert_eq!(bits(&infer(&mut engine, &case.input)), first, "replay {replay} after the probed run");
    }
    let (again, taps) = probe(&mut engine, &case.input);
    assert_eq!(bits(&again), first, "probed after replays");
    assert_eq!(taps.tensors["action_pred"].1, again.data, "the last tap is what is returned");
    assert_eq!(bits(&infer(&mut engine, &case.input)), first, "replay after the second probed run");
    let mut unprobed = case.cuda(policy);
    assert_eq!(bits(&infer(&mut unprobed, &case.input)), first, "an engine that was never probed");
}

fn replays_repeat(case: &Case, policy: &PrecisionPolicy) {
    let mut engine = case.cuda(policy);
    let first = bits(&infer(&mut engine, &case.input));
    for replay in 1..REPLAYS {
        assert_eq!(bits(&infer(&mut engine, &case.input)), first, "replay {replay}");
    }
}

fn actions_are_right(case: &Case, policy: &PrecisionPolicy) {
    let found = infer(&mut case.cuda(policy), &case.input);
    case.is_right(policy, &case.input, &found, "actions");
}

/// Names and shapes at every precision, values in f32.
fn taps_are_there(case: &Case, policy: &PrecisionPolicy) {
    let found = probe(&mut case.cuda(policy), &case.input).1;
    let limit = (policy == &preset("f32")).then_some(gpu::F32_LIMIT);
    taps_agree(&found, &case.cpu_taps(policy), limit);
}

fn batches_are_their_members(case: &Case, policy: &PrecisionPolicy) {
    let others = [1, 2].map(|seed| like(&case.model, &case.input, seed));
    let inputs: Vec<ModelInput> = std::iter::once(case.input.clone()).chain(others).collect();
    let mut engine = case.cuda(policy);
    let together = engine.infer(&inputs, None).expect("a batch");
    for (index, (input, found)) in inputs.iter().zip(&together).enumerate() {
        let alone = infer(&mut engine, input);
        let limit = match policy == &preset("f32") {
            true => F32_BATCH_LIMIT,
            false => case.limit(policy, input),
        };
        let apart = distance(found, &alone);
        assert!(apart <= limit, "member {index}: {apart:.2e} from its result alone, limit {limit:.2e}");
    }
}

/// Each inference has the bits that a new engine gives.
fn shapes_take_turns(case: &Case, policy: &PrecisionPolicy) {
    let inputs = [
        made(&case.model, 1, &[[4, 5]], 5),
        made(&case.model, 2, &[[4, 5]], 12),
        made(&case.model, 3, &[[3, 6], [2, 2]], 9),
    ];
    let expected: Vec<Vec<u32>> =
        inputs.iter().map(|input| bits(&infer(&mut case.cuda(policy), input))).collect();
    let mut engine = case.cuda(policy);
    for (turn, index) in [0, 1, 2, 0, 1, 2, 2, 1, 0, 0].into_iter().enumerate() {
        let found = bits(&infer(&mut engine, &inputs[index]));
        assert_eq!(found, expected[index], "turn {turn}, shape {index}");
    }
}

/// A shape that gave way is recorded again, with the same result.
fn shapes_come_back(case: &Case, policy: &PrecisionPolicy) {
    let inputs: Vec<ModelInput> =
        (0..LENGTHS).map(|i| made(&case.model, i as u64, &[[3, 4]], 3 + i)).collect();
    let mut engine = case.cuda(policy);
    let mut first = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let found = infer(&mut engine, input);
        case.is_right(policy, input, &found, &format!("prompt {index}"));
        first.push(bits(&found));
    }
    for (index, input) in inputs.iter().enumerate() {
        assert_eq!(bits(&infer(&mut engine, input)), first[index], "prompt {index} again");
    }
}

fn embodiments_share_a_call(case: &Case, policy: &PrecisionPolicy) {
    let slots = [2, 0, 2, 3];
    let input = |slot: usize| ModelInput { embodiment_id: slot, ..case.input.clone() };
    let mut inputs: Vec<ModelInput> = slots.into_iter().map(input).collect();
    inputs[2] = ModelInput { embodiment_id: slots[2], ..like(&case.model, &case.input, 5) };
    let found = case.cuda(policy).infer(&inputs, None).expect("a batch");
    for (index, (input, found)) in inputs.iter().zip(&found).enumerate() {
        case.is_right(policy, input, found, &format!("member {index}"));
    }
    assert_ne!(bits(&found[0]), bits(&found[1]), "other embodiments do the same");
}

/// The chunk before changes the actions, on the GPU as on the CPU, and nothing of what is inferred without one.
fn chunks_go_on(case: &Case, policy: &PrecisionPolicy) {
    let config = &case.model.config;
    let (horizon, dim) = (config.action_horizon, config.max_action_dim);
    let options = RtcOptions {
        action_horizon: horizon,
        overlap_steps: horizon / 2,
        frozen_steps: horizon / 5,
        ramp_rate: 6.0,
    };
    let previous = gaussian(11, 1, 0, horizon, dim);
    let input = ModelInput { rtc: Some(Rtc { previous, options }), ..case.input.clone() };
    let mut engine = case.cuda(policy);
    let before = bits(&infer(&mut engine, &case.input));
    let found = infer(&mut engine, &input);
    case.is_right(policy, &input, &found, "a chunk that goes on");
    assert_ne!(bits(&found), before, "the chunk before does nothing");
    assert_eq!(bits(&infer(&mut engine, &case.input)), before, "a chunk that begins anew");
    let (probed, taps) = probe(&mut engine, &input);
    assert_eq!(bits(&probed), bits(&found));
    let expected = probe(&mut CpuEngine::new(case.model.clone(), policy.clone(), case.steps), &input).1;
    taps_agree(&taps, &expected, (policy == &preset("f32")).then_some(gpu::F32_LIMIT));
}

/// Weights that formulas give are computed on the GPU; a wrong one would show in its layer's tap.
fn synthetic_weights_are_the_same(config: Config, precision: &str) {
    let case = Case::synthetic(config, 5);
    let policy = policy(&case, precision);
    taps_are_there(&case, &policy);
    actions_are_right(&case, &policy);
}

fn one_block_has_formats_of_its_own() {
    let case = Case::golden("one_view");
    let plain = preset("bf16");
    let policy = plain.clone().with("dit.block.3", F32);
    let found = infer(&mut case.cuda(&policy), &case.input);
    assert_ne!(bits(&found), bits(&infer(&mut case.cuda(&plain), &case.input)), "the override does nothing");
    case.is_right(&policy, &case.input, &found, "actions");
}

/// Layers of one input no longer share a GEMM.
fn query_key_and_value_differ() {
    let case = Case::golden("one_view");
    let plain = infer(&mut case.cuda(&preset("bf16")), &case.input);
    for layer in ["vision.layer.1", "language.layer.1", "dit.block.2", "dit.block.3"] {
        let policy = preset("bf16").with(&format!("{layer}.query"), F32).with(&format!("{layer}.key"), FP16);
        let found = infer(&mut case.cuda(&policy), &case.input);
        assert_ne!(bits(&found), bits(&plain), "{layer}: the override does nothing");
        case.is_right(&policy, &case.input, &found, layer);
    }
}
