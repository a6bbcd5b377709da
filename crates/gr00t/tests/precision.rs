//! Precision policies on the demo: the sites they are checked against, and what each of them does to its actions.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::{Format, relative_l2};
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::cpu::Intervention;
use steadyhand_gr00t::ops::onnx::Products;
use steadyhand_gr00t::ops::{Operation, Site};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy, Scale};
use steadyhand_gr00t::processor::PixelValues;

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint")
}

fn model() -> Model {
    load_model(&checkpoint()).expect("the demo")
}

fn preset(name: &str) -> PrecisionPolicy {
    PrecisionPolicy::preset(name).expect("a preset")
}

fn input(model: &Model, seed: u64) -> ModelInput {
    let config = &model.config;
    let side = 56;
    let image_token = config.image_token();
    let prompt = [7, 9, 11].into_iter().chain(std::iter::repeat_n(image_token, 4)).chain([13]);
    ModelInput {
        images: vec![PixelValues {
            height: side,
            width: side,
            data: gaussian(seed, 1, 0, 3, side * side).data,
        }]
        .into(),
        input_ids: prompt.collect(),
        state: gaussian(seed, 2, 0, 1, config.max_state_dim),
        embodiment_id: 0,
        noise: gaussian(seed, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

fn actions(model: &Model, policy: &PrecisionPolicy, inputs: &[ModelInput]) -> Vec<f32> {
    let mut engine = CpuEngine::new(model.clone(), policy.clone(), 4);
    engine.infer(inputs, None).expect("actions").into_iter().flat_map(|actions| actions.data).collect()
}

#[derive(Default)]
struct Results(RefCell<BTreeSet<String>>);

impl Intervention for Results {
    fn result(&self, at: &Site, _shape: [usize; 3], _values: &mut [f32]) {
        self.0.borrow_mut().insert(at.path().to_owned());
    }
}

#[test]
fn the_sites_are_those_that_an_inference_visits() {
    let model = model();
    let visited = Results::default();
    let mut engine = CpuEngine::new(model.clone(), preset("f32"), 2).with_intervention(&visited);
    engine.infer(&[input(&model, 1)], None).expect("actions");
    let sites = model.sites().expect("sites");
    let listed: BTreeSet<String> = sites.iter().map(|site| site.path.clone()).collect();
    assert_eq!(listed, visited.0.into_inner());
    assert_eq!(listed.len(), sites.len(), "a site twice");
    let operation = |path: &str| sites.iter().find(|site| site.path == path).map(|site| site.operation);
    for (path, expected) in [
        ("vision.layer.0.norm1", Operation::LayerNorm),
        ("language.layer.0.query_rope", Operation::Rotary),
        ("language.layer.0.gated", Operation::Multiply),
        ("dit.block.0", Operation::Add),
        ("dit.block.1.attention", Operation::Attention),
        ("dit.output", Operation::Linear),
        ("decoder", Operation::CategoryLinear),
        ("euler", Operation::Euler),
    ] {
        assert_eq!(operation(path), Some(expected), "{path}");
    }
}

#[test]
fn every_preset_fits_and_errs_as_its_formats_do() {
    let model = model();
    let sites = model.sites().expect("sites");
    let inputs = [input(&model, 1), input(&model, 2)];
    let exact = actions(&model, &preset("f32"), &inputs);
    // fp16 has 8 times bf16's precision, e4m3 a 16th of it.
    let mut errors = Vec::new();
    for name in PrecisionPolicy::PRESETS {
        let policy = preset(name);
        policy.check(&sites).expect(name);
        let error = relative_l2(&actions(&model, &policy, &inputs), &exact);
        println!("{name}: {error:.2e}");
        errors.push((name, error));
    }
    let of = |name: &str| errors.iter().find(|(known, _)| *known == name).expect("a preset").1;
    assert_eq!(of("f32"), 0.0);
    assert!(of("mixed-fp16") > 0.0 && of("mixed-fp16") < of("mixed") / 3.0);
    assert!(of("mixed") < of("fp8") && of("fp8") < 0.2, "{}", of("fp8"));
}

/// Weights alone in 8 and 4 bits: 4 bits cost about 18 times as much, and smaller blocks less.
#[test]
fn weights_are_rounded_to_what_a_policy_stores_them_in() {
    let (model, text) = (model(), |weights: &str| {
        format!("base = \"f32\"\n[[site]]\npattern = \"dit.block.*.{{fc1,fc2}}\"\nweights = \"{weights}\"\n")
    });
    let inputs = [input(&model, 1)];
    let exact = actions(&model, &preset("f32"), &inputs);
    let error = |weights: &str| {
        let policy = PrecisionPolicy::from_identity(&text(weights), Path::new("a trace")).expect(weights);
        let read = PrecisionPolicy::from_identity(&policy.identity(), Path::new("a trace"));
        assert_eq!(read.expect("what was written"), policy);
        policy.check(&model.sites().expect("sites")).expect(weights);
        relative_l2(&actions(&model, &policy, &inputs), &exact)
    };
    let [int8, int4, blocks] = ["int8_per_channel", "int4_per_channel", "int4_per_block_32"].map(error);
    println!("int8 {int8:.2e}, int4 {int4:.2e}, in blocks {blocks:.2e}");
    assert!(int8 > 0.0 && 5.0 * int8 < int4 && blocks < int4 && int4 < 0.2);
    assert_eq!(error("none"), 0.0);
}

/// Activations in 8 bits, with and without a zero point: W8A8 costs more than W8, and a batch gives what its members give
/// alone.
#[test]
fn activations_are_quantized_where_a_policy_says_so() {
    let model = model();
    let inputs = [input(&model, 1), input(&model, 2)];
    let exact = actions(&model, &preset("f32"), &inputs);
    let policy = |activations: &str| {
        let text = format!(
            "base = \"f32\"\n[[site]]\npattern = \"dit.block\"\nweights = \"int8_per_channel\"\nactivations = \"{activations}\"\n"
        );
        let policy = PrecisionPolicy::from_identity(&text, Path::new("a trace")).expect(activations);
        let read = PrecisionPolicy::from_identity(&policy.identity(), Path::new("a trace"));
        assert_eq!(read.expect("what was written"), policy);
        policy.check(&model.sites().expect("sites")).expect(activations);
        policy
    };
    let weights = relative_l2(&actions(&model, &policy("none"), &inputs), &exact);
    for name in ["int8_per_tensor", "int8_per_token", "uint8_per_tensor", "uint8_per_token"] {
        let together = actions(&model, &policy(name), &inputs);
        let error = relative_l2(&together, &exact);
        // Measured: 1.59 to 2.02 times what the weights cost alone, 3.81e-3.
        let times = error / weights;
        assert!((1.2..3.0).contains(&times), "{name}: {error:.2e}, weights alone {weights:.2e}");
        let alone: Vec<f32> =
            inputs.iter().flat_map(|one| actions(&model, &policy(name), std::slice::from_ref(one))).collect();
        assert_eq!(together, alone, "{name}");
    }
}

#[test]
fn activations_are_quantized_for_weights_of_whole_numbers() {
    let rule = |rest: &str| check(&format!("base = \"mixed\"\n[[site]]\npattern = \"dit\"\n{rest}\n"));
    let int8 = "activations = \"int8_per_tensor\"";
    assert_eq!(rule(&format!("weights = \"uint4_per_block_32\"\n{int8}")), Ok(()));
    for weights in ["", "weights = \"fp8_e4m3_per_tensor\"\n"] {
        let error = rule(&format!("{weights}{int8}")).expect_err("does not fit");
        assert!(error.contains("activations int8_per_tensor: expected weights of int8"), "{error}");
    }
    let error = check(&format!("base = \"mixed\"\n[[site]]\npattern = \"euler\"\n{int8}\n"));
    assert!(error.expect_err("nothing to reach").contains("no linear layer"));
}

#[test]
fn weights_are_stored_narrowly_for_wider_products_of_linear_layers() {
    let rule = |base: &str, pattern: &str, rest: &str| {
        check(&format!("base = \"{base}\"\n[[site]]\npattern = \"{pattern}\"\nweights = \"{rest}\"\n"))
    };
    assert_eq!(rule("mixed", "dit", "int8_per_tensor"), Ok(()));
    for (found, parts) in [
        (rule("mixed", "euler", "int8_per_tensor"), &["`euler`", "int8_per_tensor", "no linear layer"][..]),
        (rule("fp8", "dit.block.3", "int4_per_channel"), &["dit.block.3.", "weights", "fp8_e4m3"]),
    ] {
        let error = found.expect_err("does not fit");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn fp8_does_not_depend_on_the_batch() {
    let model = model();
    let inputs = [input(&model, 1), input(&model, 2)];
    let alone: Vec<f32> = inputs
        .iter()
        .flat_map(|input| actions(&model, &preset("fp8"), std::slice::from_ref(input)))
        .collect();
    assert_eq!(actions(&model, &preset("fp8"), &inputs), alone);
}

/// A policy file of this text, checked against the demo.
fn check(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, text).expect("written");
    let policy = PrecisionPolicy::from_toml_file(&path).expect("a policy");
    policy.check(&model().sites().expect("sites")).map_err(|error| error.to_string())
}

#[test]
fn rules_that_reach_nothing_are_refused_with_the_nearest_sites() {
    let rule =
        |pattern: &str, rest: &str| format!("base = \"mixed\"\n[[site]]\npattern = \"{pattern}\"\n{rest}\n");
    let bf16 = "storage = \"bf16\"";
    assert_eq!(check(&rule("dit.block.*.{key,value}", bf16)), Ok(()));
    for (text, parts) in [
        (rule("dit.blocks.*.fc1", bf16), &["mine.toml", "`dit.blocks.*.fc1`", "`dit.block.0.fc1`"][..]),
        (rule("dit.block.*.{key,valu}", bf16), &["`dit.block.*.valu`", "`dit.block.0.value`"]),
        (rule("dit.block.{0..99}", bf16), &["`dit.block.{0..99}`", "`dit.block.99`"]),
        (rule("step.0.euler", bf16), &["`step.0.euler`", "nearest are"]),
        (rule("eular", bf16), &["`eular`", "`euler`"]),
        (rule("dit.output", "accumulate = \"fp8_e4m3\""), &["site `dit.output` (linear)", "fp8_e4m3"]),
        (rule("dit.output", "accumulate = \"fp16\""), &["`dit.output`", "every bf16", "found fp16"]),
        (rule("dit.norm_out", "accumulate = \"tf32\""), &["`dit.norm_out` (layer_norm)", "found tf32"]),
        (rule("euler", "scale = \"per_channel\""), &["`euler`", "scale per_channel reaches no product"]),
        (
            rule("dit.block.1", "compute = \"fp8_e4m3\"\nscale = \"per_tensor\""),
            &["site `dit.block.1.attention` (attention)", "scale", "linear alone"],
        ),
    ] {
        let error = check(&text).expect_err(&text);
        for part in parts {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    }
}

#[test]
fn an_export_names_the_site_that_it_has_no_form_for() {
    let model = model();
    let folder = tempfile::tempdir().expect("a folder");
    let policy = preset("f32").with("dit.block.1.fc1", Formats::new(Format::F32, Format::Fp16, Format::Fp16));
    let export = |component, policy: &PrecisionPolicy| {
        let export = Export {
            component,
            policy,
            products: Products::Widened,
            opset: DEFAULT_OPSET,
            names: Names::Steady,
            layout: Layout { images: vec![[56, 56]], state_horizon: 1, denoising_steps: 1 },
        };
        export
            .write(&model, "test", &folder.path().join("graph.onnx"))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let error = export(Component::Dit, &policy).expect_err("fp16 accumulation");
    assert!(error.contains("site `dit.block.1.fc1` (linear)") && error.contains("accumulate"), "{error}");
    let error = export(Component::Policy, &preset("fp8")).expect_err("scales");
    assert!(error.contains("precision fp8: site `vision.layer.0.query`"), "{error}");
    // The backbone does not hold the site, and what a norm computes in does not matter.
    let odd = policy.with("vision.layer.0.norm1", Formats::new(Format::F32, Format::Fp8E4m3, Format::F32));
    assert_eq!(export(Component::Backbone, &odd), Ok(()));
    // What enters a part is stored as what makes it says.
    let narrow = Formats::new(Format::Fp8E4m3, Format::F32, Format::F32);
    let error = export(Component::Llm, &preset("f32").with("language.embedding", narrow)).expect_err("fp8");
    assert!(error.contains("site `language.embedding`") && error.contains("storage"), "{error}");
}

#[test]
fn a_calibration_holds_every_linear_layer_and_gives_actions_as_dynamic_scales_do() {
    let model = model();
    let inputs = [input(&model, 1), input(&model, 2)];
    let collector = Collector::default();
    let mut engine = CpuEngine::new(model.clone(), preset("f32"), 4).with_intervention(&collector);
    engine.infer(&inputs, None).expect("actions");
    let sites = model.sites().expect("sites");
    let linear = sites.iter().filter(|site| site.operation == Operation::Linear);
    let amax = collector.amax(100.0).expect("finite");
    assert!(linear.map(|site| &site.path).collect::<BTreeSet<_>>().into_iter().eq(amax.keys()));

    let checkpoint = Checkpoint::open(checkpoint()).expect("the demo");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("calibration.json");
    let calibration =
        Calibration::new(checkpoint.fingerprint(), "new_embodiment", "d", inputs.len(), 4, 100.0, amax);
    calibration.save(&file).expect("written");
    std::fs::write(folder.path().join("fp8.toml"), "base = \"fp8\"\ncalibration = \"calibration.json\"\n")
        .expect("written");
    let policy = PrecisionPolicy::from_toml_file(folder.path().join("fp8.toml")).expect("a policy");
    policy.check(&sites).expect("a policy that fits");
    let read = policy.calibration().expect("a calibration");
    read.expect_model(&checkpoint, Some("new_embodiment")).expect("its model");
    let error = read.expect_model(&checkpoint, Some("gr1")).expect_err("another").to_string();
    assert!(error.contains("gr1") && error.contains("new_embodiment"), "{error}");

    let exact = actions(&model, &preset("f32"), &inputs);
    let (fixed, dynamic) = (actions(&model, &policy, &inputs), actions(&model, &preset("fp8"), &inputs));
    let errors = [relative_l2(&fixed, &exact), relative_l2(&dynamic, &exact)];
    println!("calibrated {:.2e}, dynamic {:.2e}", errors[0], errors[1]);
    assert!(errors[0] > 0.0 && errors[0] < 2.0 * errors[1] && fixed != dynamic);

    let mut partial = calibration;
    partial.amax.remove("dit.block.1.fc1");
    let error = preset("fp8").with_calibration(partial).check(&sites).expect_err("a gap").to_string();
    assert!(error.contains("site `dit.block.1.fc1`") && error.contains("amax"), "{error}");
}

#[test]
fn scales_are_given_where_the_compute_format_needs_them() {
    let formats = |path: &str| preset("fp8").formats(&Site::new(path));
    assert_eq!(formats("dit.block.3.fc2").scale, Scale::PerChannel);
    assert_eq!(formats("dit.block.3.fc2").compute, Format::Fp8E4m3);
    assert_eq!(formats("dit.block.3.attention"), preset("mixed").formats(&Site::new("euler")));
    let wide = Formats { scale: Scale::PerTensor, ..Formats::new(Format::F32, Format::Bf16, Format::F32) };
    let policy = preset("fp8").with("dit.block.3", wide);
    assert_eq!(policy.formats(&Site::new("dit.block.3.fc2")).scale, Scale::None);
}
