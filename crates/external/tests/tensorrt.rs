//! TensorRT-RTX: engines of the demo's diffusion transformer are built and audited, and errors name what does not fit.
//!
//! Needs TensorRT-RTX's libraries: Python's `tensorrt-rtx-cu13-libs`, or a folder that `TENSORRT_RTX_PATH` names. Where
//! there are none, the tests are ignored. No test runs an engine.

use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steadyhand_external::bindings::Direction;
use steadyhand_external::tensorrt::{
    BuildOptions, BuildRecord, Built, Check, Product, Range, Target, TensorRt, audit_bindings,
    audit_operations, locate,
};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::onnx::{OPSETS, Products};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use tempfile::TempDir;

/// Rows of the demo's DiT: one of state and 16 of actions.
const OWN_TOKENS: usize = 17;

fn main() -> ExitCode {
    let absent = locate(None, Some(rtx())).is_err();
    let trial = |name: &str, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(absent)
    };
    let tests = vec![
        trial("engines_have_the_precision_of_their_policy", engines_have_the_precision_of_their_policy),
        trial("networks_made_layer_by_layer_are_the_graph_s", networks_made_layer_by_layer_are_the_graph_s),
        trial("an_action_head_is_made_layer_by_layer", an_action_head_is_made_layer_by_layer),
        trial("an_optimization_level_is_recorded", an_optimization_level_is_recorded),
        trial("another_precision_is_seen", another_precision_is_seen),
        trial("a_record_belongs_to_its_engine", a_record_belongs_to_its_engine),
        trial("what_cannot_be_built_is_named", what_cannot_be_built_is_named),
        trial("an_engine_runs_or_says_why_not", an_engine_runs_or_says_why_not),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn rtx() -> Target {
    Target::any(Product::TensorRtRtx)
}

fn model() -> Model {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint");
    load_model(&checkpoint).expect("the demo")
}

fn policy(name: &str) -> PrecisionPolicy {
    PrecisionPolicy::preset(name).expect("a preset")
}

fn export(policy: &PrecisionPolicy, names: Names) -> Export<'_> {
    let layout = Layout { images: Vec::new(), state_horizon: 1, denoising_steps: 4 };
    let (component, products) = (Component::Dit, Products::Native);
    Export { component, policy, products, opset: DEFAULT_OPSET, names, layout }
}

/// Writes the DiT's graph at a policy.
fn graph(folder: &TempDir, policy: &PrecisionPolicy, names: Names) -> PathBuf {
    let path = folder.path().join("dit.onnx");
    export(policy, names).write(&model(), "test", &path).expect("the export");
    path
}

fn ranges(names: [&str; 3]) -> BTreeMap<String, Range> {
    let tokens = Range::new(1, 121, 512).expect("sizes that rise");
    let sizes = [Range::new(1, 1, 4).expect("sizes that rise"), tokens, Range::only(OWN_TOKENS)];
    names.map(str::to_owned).into_iter().zip(sizes).collect()
}

const STEADY_DIMS: [&str; 3] = ["batch", "tokens", "state_action_tokens"];
const NVIDIA_DIMS: [&str; 3] = ["batch_size", "vl_seq_len", "sa_seq_len"];

fn build(onnx: &Path, dims: [&str; 3]) -> Built {
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    let ranges = ranges(dims);
    tensorrt.build(&BuildOptions::new(onnx, &ranges)).expect("an engine")
}

fn audit(built: &Built, policy: &PrecisionPolicy, names: Names) -> Vec<Check> {
    let model = model();
    let ports = export(policy, names).ports(&model).expect("the graph");
    let sites = Component::Dit.sites(&model).expect("sites");
    let mut checks = audit_bindings(&built.record.bindings, &ports);
    checks.extend(audit_operations(&built.record.operations, policy, Products::Native, &sites));
    checks
}

fn differing(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| !check.agrees()).collect()
}

fn engines_have_the_precision_of_their_policy() {
    for (name, names, dims) in [
        ("f32", Names::Steady, STEADY_DIMS),
        ("bf16", Names::Nvidia, NVIDIA_DIMS),
        ("fp16", Names::Nvidia, NVIDIA_DIMS),
        ("mixed", Names::Steady, STEADY_DIMS),
    ] {
        let (folder, policy) = (tempfile::tempdir().expect("a temporary folder"), policy(name));
        let built = build(&graph(&folder, &policy, names), dims);
        assert!(built.engine.len() > 1_000_000, "{} bytes", built.engine.len());
        assert_eq!(built.record.source.get("precision").map(String::as_str), Some(name));
        let checks = audit(&built, &policy, names);
        // 5 inputs, 1 output; 76 products, 8 softmaxes, 17 normalizations of 8 blocks.
        assert_eq!((checks.len(), differing(&checks)), (6 + 76 + 8 + 17, Vec::new()), "{name}");
    }
}

/// As for TensorRT, whose graphs no parser reads here: sizes open and fixed.
fn networks_made_layer_by_layer_are_the_graph_s() {
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    for (name, names, dims) in [
        ("f32", Names::Steady, STEADY_DIMS),
        ("fp16", Names::Nvidia, NVIDIA_DIMS),
        ("bf16", Names::Steady, STEADY_DIMS),
    ] {
        for fixed in [false, true] {
            let (folder, policy) = (tempfile::tempdir().expect("a temporary folder"), policy(name));
            let onnx = folder.path().join("dit.onnx");
            let export = Export { opset: *OPSETS.start(), ..export(&policy, names) };
            export.write(&model(), "test", &onnx).expect("the export");
            let mut ranges = ranges(dims);
            if fixed {
                ranges.values_mut().for_each(|range| *range = Range::only(range.best));
            }
            let built = tensorrt.build_by_layers(&BuildOptions::new(&onnx, &ranges)).expect("an engine");
            let checks = audit(&built, &policy, names);
            // 5 inputs, 1 output; 76 products, 8 softmaxes; normalizations are in parts.
            assert_eq!((checks.len(), differing(&checks)), (6 + 76 + 8, Vec::new()), "{name}, {fixed}");
        }
    }
}

/// The builder says the level back that it was given, or the build fails.
fn an_optimization_level_is_recorded() {
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (onnx, ranges) = (graph(&folder, &policy("f32"), Names::Steady), ranges(STEADY_DIMS));
    let options =
        |level| BuildOptions { optimization_level: Some(level), ..BuildOptions::new(&onnx, &ranges) };
    let built = tensorrt.build(&options(0)).expect("an engine");
    assert_eq!(built.record.flags, ["optimization-level=0"]);
    // The library takes 5, its largest, for 9.
    let refused = tensorrt.build(&options(9)).expect_err("a refusal").to_string();
    assert!(refused.ends_with("optimization level 9: the builder does not take it"), "{refused}");
}

/// The head's Euler steps, with everything between backbone features and actions, at fixed sizes.
fn an_action_head_is_made_layer_by_layer() {
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    let (folder, policy) = (tempfile::tempdir().expect("a temporary folder"), policy("f32"));
    let onnx = folder.path().join("head.onnx");
    let opset = *OPSETS.start();
    let export = Export { component: Component::ActionHead, opset, ..export(&policy, Names::Steady) };
    export.write(&model(), "test", &onnx).expect("the export");
    let sizes = [("batch", 1), ("tokens", 121)];
    let only = |(name, size): (&str, usize)| (name.to_owned(), Range::only(size));
    let ranges: BTreeMap<String, Range> = sizes.into_iter().map(only).collect();
    let built = tensorrt.build_by_layers(&BuildOptions::new(&onnx, &ranges)).expect("an engine");
    let actions = built.record.bindings.get("action_pred").expect("an output");
    assert_eq!((actions.dtype, &actions.shape[..]), (Dtype::F32, &[1, 16, 32][..]));
    let open = ranges
        .into_iter()
        .chain([only(("batch", 1))])
        .map(|(name, _)| (name, Range::new(1, 2, 4).expect("sizes that rise")));
    let open: BTreeMap<String, Range> = open.collect();
    let refused =
        tensorrt.build_by_layers(&BuildOptions::new(&onnx, &open)).expect_err("a refusal").to_string();
    assert!(refused.contains("give them one size each (--shapes)"), "{refused}");
}

fn another_precision_is_seen() {
    let (folder, bf16) = (tempfile::tempdir().expect("a temporary folder"), policy("bf16"));
    let built = build(&graph(&folder, &bf16, Names::Nvidia), NVIDIA_DIMS);
    let checks = audit(&built, &policy("fp16"), Names::Nvidia);
    let found = differing(&checks);
    let output = found.iter().find(|check| check.what == "output output").expect("the output differs");
    assert_eq!(
        (output.expected.as_str(), output.found.as_str()),
        ("F16 [-1, -1, 128]", "BF16 [-1, -1, 128]")
    );
    // Three float bindings and every product.
    assert_eq!(found.len(), 3 + 76);
}

fn a_record_belongs_to_its_engine() {
    let (folder, policy) = (tempfile::tempdir().expect("a temporary folder"), policy("bf16"));
    let built = build(&graph(&folder, &policy, Names::Steady), STEADY_DIMS);
    let engine = folder.path().join("dit.engine");
    assert!(BuildRecord::read(&engine, &built.engine).expect("nothing to read").is_none());
    built.record.write(&engine).expect("a file");
    let record = BuildRecord::read(&engine, &built.engine).expect("its own").expect("a record");
    assert_eq!(record.bindings, built.record.bindings);
    let tokens = record.bindings.get("vl_features").expect("an input");
    assert_eq!((tokens.dtype, tokens.direction), (Dtype::F32, Direction::Input));
    let profile = [vec![1, 1, 96], vec![1, 121, 96], vec![4, 512, 96]];
    assert_eq!((tokens.shape.as_slice(), tokens.profile.as_ref()), (&[-1, -1, 96][..], Some(&profile)));
    let other = BuildRecord::read(&engine, b"another engine").expect_err("a refusal").to_string();
    assert!(other.contains("dit.engine.json: engine: expected "), "{other}");
}

fn what_cannot_be_built_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    let refusal = |onnx: &Path, ranges: &BTreeMap<String, Range>| {
        let options = BuildOptions::new(onnx, ranges);
        tensorrt.build(&options).expect_err("a refusal").to_string()
    };
    let damaged = folder.path().join("damaged.onnx");
    std::fs::write(&damaged, b"not a graph").expect("a file");
    assert!(refusal(&damaged, &BTreeMap::new()).contains("damaged.onnx: expected an ONNX file"));
    let policy = policy("bf16");
    let onnx = graph(&folder, &policy, Names::Steady);
    let open = refusal(&onnx, &BTreeMap::new());
    assert_eq!(
        open,
        "input state_action_tokens: dimension `batch` is open: expected a range of sizes, found none"
    );
    let mut more = ranges(STEADY_DIMS);
    more.insert("width".to_owned(), Range::only(1));
    assert!(refusal(&onnx, &more).starts_with("shape of `width`: open dimensions are: batch"));
    std::fs::remove_file(folder.path().join("dit.onnx.data")).expect("the graph's tensors");
    let without = refusal(&onnx, &ranges(STEADY_DIMS));
    assert!(without.contains("dit.onnx: TensorRT-RTX "), "{without}");
}

/// Where there is no GPU, or one that the runtime does not support, that is said.
fn an_engine_runs_or_says_why_not() {
    let (folder, policy) = (tempfile::tempdir().expect("a temporary folder"), policy("bf16"));
    let built = build(&graph(&folder, &policy, Names::Steady), STEADY_DIMS);
    let tensorrt = TensorRt::open(None, Some(rtx())).expect("libraries, or the test is ignored");
    match tensorrt.open_engine(&folder.path().join("dit.engine"), &built.engine, 0) {
        Ok(engine) => {
            use steadyhand_external::bindings::Runner;
            assert_eq!(engine.bindings().iter().count(), built.record.bindings.iter().count());
        }
        Err(error) => {
            let message = error.to_string();
            let reasons = ["open device: ", "compute capability"];
            assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
        }
    }
}
