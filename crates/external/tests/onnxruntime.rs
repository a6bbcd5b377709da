//! ONNX Runtime as an engine: the reference's actions, and errors that name what does not fit.
//!
//! Needs ONNX Runtime's library: a Python package's or one that `ORT_DYLIB_PATH` names. Where there is none, the
//! tests that need it are ignored.

use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use steadyhand_external::bindings::{Bindings, Runner, Tensor};
use steadyhand_external::composed::ComposedEngine;
use steadyhand_external::onnxruntime::{
    self, OnnxRunner, OnnxRuntimeEngine, Provider, RuntimeOptions, locate,
};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::Error;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::export::{Blocks, Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::ops::onnx::{OPSETS, Products};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;

const STEPS: usize = 4;
/// Measured here: 2.1e-7.
const F32_LIMIT: f32 = 1e-5;

fn main() -> ExitCode {
    let absent = exporting().is_none();
    let trial = |name: &str, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(absent)
    };
    let tests = vec![
        trial("the_library_says_what_it_is", the_library_says_what_it_is),
        trial("the_policy_gives_the_reference_actions", the_policy_gives_the_reference_actions),
        trial("an_action_head_gives_the_reference_actions", an_action_head_gives_the_reference_actions),
        trial("components_give_the_reference_actions", components_give_the_reference_actions),
        trial("a_component_that_fails_is_an_error", a_component_that_fails_is_an_error),
        trial("graphs_that_do_not_fit_are_refused_by_name", graphs_that_do_not_fit_are_refused_by_name),
        trial("providers_that_the_library_lacks_are_refused", providers_that_the_library_lacks_are_refused),
        trial("a_runner_holds_tensors_to_their_bindings", a_runner_holds_tensors_to_their_bindings),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn the_library_says_what_it_is() {
    let found = locate(None).expect("a library");
    assert!(found.library.is_file() && found.providers.contains(&Provider::Cpu), "{found:?}");
    assert_eq!(found, locate(None).expect("the same"));
}

fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint")
}

fn model() -> Model {
    load_model(&checkpoint()).expect("the demo")
}

fn policy() -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset")
}

/// An engine; none where there is no library.
fn exporting() -> Option<OnnxRuntimeEngine> {
    OnnxRuntimeEngine::exporting(model(), "test", policy(), STEPS, &RuntimeOptions::default()).ok()
}

fn from_file(
    file: &Path,
    fingerprint: &str,
    steps: usize,
) -> steadyhand_gr00t::Result<Box<dyn Engine + Send>> {
    onnxruntime::from_file(model(), fingerprint, policy(), steps, &RuntimeOptions::default(), file)
}

/// An observation with an image of this size.
fn input(model: &Model, seed: u64, [height, width]: [usize; 2]) -> ModelInput {
    let config = &model.config;
    let tokens = height / 28 * (width / 28);
    let mut input_ids = vec![config.image_token(); tokens];
    input_ids.splice(0..0, [11, 12]);
    input_ids.extend([13 + seed as u32, 14, 15]);
    ModelInput {
        images: vec![PixelValues { height, width, data: gaussian(seed, 0, 0, 3 * height, width).data }]
            .into(),
        input_ids,
        state: gaussian(seed, 1, 0, 1, config.max_state_dim),
        embodiment_id: seed as usize % config.max_num_embodiments,
        noise: gaussian(seed, 2, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let error = squares(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
    error / squares(&mut expected.iter().copied())
}

fn export(component: Component, opset: i64, file: &Path) {
    let layout = Layout { images: vec![[140, 196]], state_horizon: 1, denoising_steps: STEPS };
    let (policy, products) = (policy(), Products::Widened);
    let export = Export { component, policy: &policy, products, opset, names: Names::Steady, layout };
    export.write(&model(), "test", file).expect("the export");
}

/// Inputs of two layouts, one of them twice: sorted into batches and back.
fn the_policy_gives_the_reference_actions() {
    let mut engine = exporting().expect("a library, or the test is ignored");
    let model = model();
    let inputs = [input(&model, 0, [140, 196]), input(&model, 1, [84, 168]), input(&model, 2, [140, 196])];
    let expected = CpuEngine::new(model, policy(), STEPS).infer(&inputs, None).expect("the reference");
    let found = engine.infer(&inputs, None).expect("onnxruntime");
    for (found, expected) in found.iter().zip(&expected) {
        let distance = distance(&found.data, &expected.data);
        println!("{distance:e}");
        assert!(distance <= F32_LIMIT, "{distance:e}");
    }
}

/// Each component in a graph and the reference around it, as engines of TensorRT are run: a batch of two, and what a probe
/// sees at the component's end.
fn components_give_the_reference_actions() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model();
    let inputs = [input(&model, 0, [140, 196]), input(&model, 2, [140, 196])];
    let mut reference = Recorder::all();
    let mut engine = CpuEngine::new(model.clone(), policy(), STEPS);
    let expected = engine.infer(&inputs, Some(&mut reference)).expect("the reference");
    for (component, tap) in [
        (Component::Vit, "vision.post_layernorm"),
        (Component::Llm, "language.norm"),
        (Component::StateEncoder, "action_head.state_features"),
        (Component::ActionEncoder, "step.3.action_features"),
        (Component::Dit, "step.3.dit.output"),
        (Component::Blocks(Blocks { first: 0, end: Some(3) }), "step.3.dit.block.2"),
        (Component::Blocks(Blocks { first: 3, end: Some(6) }), "step.3.dit.block.5"),
        (Component::Blocks(Blocks { first: 6, end: None }), "step.3.dit.output"),
        (Component::ActionDecoder, "step.3.decoder"),
        (Component::ActionHead, "backbone_features"),
        (Component::Backbone, "backbone_features"),
        (Component::Policy, ""),
    ] {
        let file = folder.path().join(format!("{component}.onnx"));
        export(component, DEFAULT_OPSET, &file);
        let runner = Counted::new(OnnxRunner::load(&file, None).expect("a graph"));
        let calls = Arc::clone(&runner.calls);
        let mut engine = ComposedEngine::new("composed", model.clone(), policy(), STEPS, Box::new(runner))
            .expect("it fits");
        let found = engine.infer(&inputs, None).expect("an inference");
        for (found, expected) in found.iter().zip(&expected) {
            let distance = distance(&found.data, &expected.data);
            println!("{component}: {distance:e}");
            assert!(distance <= F32_LIMIT, "{component}: {distance:e}");
        }
        let in_step = matches!(
            component,
            Component::Dit | Component::Blocks(_) | Component::ActionEncoder | Component::ActionDecoder
        );
        let steps = if in_step { STEPS } else { 1 };
        assert_eq!(calls.load(Ordering::Relaxed), inputs.len() * steps, "{component}");
        assert_eq!(engine.shows_tensors(), component != Component::Policy);
        if engine.shows_tensors() {
            let mut seen = Recorder::all();
            let own: Vec<String> =
                component.sites(&model).expect("sites").into_iter().map(|site| site.path).collect();
            let probed = engine.infer(&inputs, Some(&mut seen)).expect("a probed inference");
            assert!(probed == found, "{component}: a probe changes the actions");
            let shown =
                seen.tensors.keys().filter(|name| own.iter().any(|path| Site::of_tap(name).path() == path));
            let shown: Vec<_> = shown.map(|name| Site::of_tap(name).path().to_owned()).collect();
            // What a vision tower is given is the result of an operation too.
            let at_edge = |path: &String| tap.ends_with(path.as_str()) || path == "vision.patches";
            assert!(shown.iter().all(at_edge), "{component}: {shown:?}");
            let distance = distance(&seen.tensors[tap].1, &reference.tensors[tap].1);
            assert!(distance <= F32_LIMIT, "{component}: {tap}: {distance:e}");
        }
    }
}

/// What an engine says is wrong is what the inference says.
fn a_component_that_fails_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dit.onnx");
    export(Component::Dit, DEFAULT_OPSET, &file);
    let runner = || Counted::new(OnnxRunner::load(&file, None).expect("a graph"));
    let open = |runner| ComposedEngine::new("composed", model(), policy(), STEPS, Box::new(runner));
    let inputs = [input(&model(), 0, [140, 196])];
    let failing = Counted { allowed: 2, ..runner() };
    let error = open(failing).expect("it fits").infer(&inputs, None).expect_err("the third call fails");
    assert_eq!(error.to_string(), "runner: no third call");
    let whole = folder.path().join("backbone.onnx");
    export(Component::Backbone, DEFAULT_OPSET, &whole);
    let mut few = inputs.clone();
    few[0].input_ids.remove(2);
    let error = open(Counted::new(OnnxRunner::load(&whole, None).expect("a graph")))
        .expect("it fits")
        .infer(&few, None)
        .expect_err("too few image tokens");
    assert_eq!(error.to_string(), "input_ids: expected 35 image tokens for these images, found 34");
    let short = Counted { shortens: true, ..runner() };
    let error = open(short).expect("it fits").infer(&inputs, None).expect_err("half an output");
    assert!(error.to_string().starts_with("output step.0.dit.output: expected "), "{error}");
}

/// A runner that counts its calls, and fails or gives too little if it is told to.
struct Counted {
    runner: OnnxRunner,
    calls: Arc<AtomicUsize>,
    allowed: usize,
    shortens: bool,
}

impl Counted {
    fn new(runner: OnnxRunner) -> Self {
        Counted { runner, calls: Arc::default(), allowed: usize::MAX, shortens: false }
    }
}

impl Runner for Counted {
    fn bindings(&self) -> &Bindings {
        self.runner.bindings()
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> steadyhand_gr00t::Result<Vec<(String, Tensor)>> {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.allowed {
            return Err(Error::input("runner", "no third call"));
        }
        let outputs = self.runner.run(inputs)?.into_iter();
        let shortened = outputs.map(|(name, tensor)| match self.shortens {
            true => {
                Ok((name, Tensor::zeros(tensor.dtype(), &[1, tensor.shape()[1] / 2, tensor.shape()[2]])?))
            }
            false => Ok((name, tensor)),
        });
        shortened.collect()
    }
}

/// The head in the graph, the backbone in the reference; and everything in a graph whose normalizations are in parts.
fn an_action_head_gives_the_reference_actions() {
    let first = *OPSETS.start();
    for (component, opset) in
        [(Component::ActionHead, DEFAULT_OPSET), (Component::ActionHead, first), (Component::Policy, first)]
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("graph.onnx");
        export(component, opset, &file);
        let mut engine = from_file(&file, "test", STEPS).expect("the graph");
        let model = model();
        let inputs = [input(&model, 3, [140, 196])];
        let expected = CpuEngine::new(model, policy(), STEPS).infer(&inputs, None).expect("the reference");
        let found = engine.infer(&inputs, None).expect("onnxruntime");
        let distance = distance(&found[0].data, &expected[0].data);
        assert!(distance <= F32_LIMIT, "{component}, opset {opset}: {distance:e}");
    }
}

fn graphs_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("policy.onnx");
    let refusal = |fingerprint: &str, steps| match from_file(&file, fingerprint, steps) {
        Ok(_) => panic!("expected a refusal"),
        Err(error) => error.to_string(),
    };
    assert!(refusal("test", STEPS).contains("policy.onnx: expected an ONNX file, found none"));
    std::fs::write(&file, b"not a graph").expect("a file");
    assert!(refusal("test", STEPS).contains("policy.onnx: onnxruntime: "));
    export(Component::Dit, DEFAULT_OPSET, &file);
    assert!(refusal("other", STEPS).contains("steadyhand.checkpoint: expected other, found test"));
    export(Component::Policy, DEFAULT_OPSET, &file);
    assert!(refusal("other", STEPS).contains("steadyhand.checkpoint: expected other, found test"));
    assert!(refusal("test", 8).contains("steadyhand.denoising_steps: expected 8, found 4"));

    let mut engine = from_file(&file, "test", STEPS).expect("the policy");
    let model = model();
    let mut refusal = |input: ModelInput| engine.infer(&[input], None).expect_err("a refusal").to_string();
    let other_size = refusal(input(&model, 0, [84, 168]));
    assert!(other_size.contains("input pixel_values.0: expected "), "{other_size}");
    assert!(other_size.contains("found floats [1, 3, 84, 168]"), "{other_size}");
    let mut short = input(&model, 0, [140, 196]);
    short.input_ids.remove(2);
    assert_eq!(refusal(short), "input_ids: expected 35 image tokens for these images, found 34");
    let mut two = input(&model, 0, [140, 196]);
    let second = input(&model, 0, [140, 196]);
    two.input_ids.extend(second.input_ids);
    two.images.change(|images| images.extend(second.images.into_pixels()));
    assert!(refusal(two).contains("input pixel_values.1: the graph has none of this name"));
    let found = engine.infer(&[input(&model, 0, [140, 196])], Some(&mut Recorder::all()));
    let refusal = found.expect_err("a refusal").to_string();
    assert_eq!(refusal, "probe: expected none: onnxruntime gives no intermediate tensors");
}

/// Whichever library is there: one provider or another it lacks.
fn providers_that_the_library_lacks_are_refused() {
    let engine = |provider| {
        let runtime = RuntimeOptions { library: None, provider };
        let policy = PrecisionPolicy::preset("bf16").expect("a preset");
        OnnxRuntimeEngine::exporting(model(), "test", policy, STEPS, &runtime).err()
    };
    let refusals: Vec<String> = [Provider::Cuda, Provider::TensorRt, Provider::NvTensorRtRtx]
        .into_iter()
        .filter_map(|provider| Some((provider, engine(provider)?)))
        .map(|(provider, error)| {
            let message = error.to_string();
            let expected = format!("provider {provider}: expected one that ONNX Runtime's library has: cpu");
            assert!(message.starts_with(&expected), "{message}");
            message
        })
        .collect();
    assert!(!refusals.is_empty(), "no library has all of them");
}

/// The file's own types decide, whatever is offered.
fn a_runner_holds_tensors_to_their_bindings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("dit.onnx");
    let layout = Layout { images: Vec::new(), state_horizon: 1, denoising_steps: STEPS };
    let policy = PrecisionPolicy::preset("bf16").expect("a preset");
    let (products, opset) = (Products::Widened, DEFAULT_OPSET);
    let export =
        Export { component: Component::Dit, policy: &policy, products, opset, names: Names::Nvidia, layout };
    export.write(&model(), "test", &file).expect("the export");
    let mut runner = OnnxRunner::load(&file, None).expect("the graph");
    let tensor = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).expect("small");
    let inputs = |tokens: Dtype| {
        let tensors = [
            ("sa_embs", tensor(tokens, &[1, 17, 128])),
            ("vl_embs", tensor(Dtype::Bf16, &[1, 3, 96])),
            ("timestep", tensor(Dtype::I64, &[1])),
            ("image_mask", tensor(Dtype::Bool, &[1, 3])),
            ("backbone_attention_mask", Tensor::new(Dtype::Bool, &[1, 3], vec![1; 3]).expect("three bools")),
        ];
        tensors.map(|(name, tensor)| (name.to_owned(), tensor)).to_vec()
    };
    let refusal = runner.run(inputs(Dtype::F16)).expect_err("a refusal").to_string();
    assert_eq!(refusal, "input sa_embs: expected BF16 [-1, -1, 128], found F16 [1, 17, 128]");
    let outputs = runner.run(inputs(Dtype::Bf16)).expect("the output");
    assert_eq!((outputs.len(), outputs[0].0.as_str()), (1, "output"));
    assert_eq!((outputs[0].1.dtype(), outputs[0].1.shape()), (Dtype::Bf16, &[1, 17, 128][..]));
}
