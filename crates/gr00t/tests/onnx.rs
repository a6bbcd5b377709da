//! Exported graphs: valid to ONNX's checker, and the reference's numbers in ONNX Runtime.
//!
//! Needs a Python with onnx, onnxruntime and numpy: `$STEADY_PYTHON`, or `python3`. Where there is none, the
//! tests that need it are ignored.

mod common;

use common::{Case, PADDING, python, run_script};
use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::checkpoint::{Checkpoint, Weight};
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::onnx::{Port, PortDim, Products};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// f32: two libraries that sum in different orders. Measured here: 6.3e-7.
const F32_LIMIT: f64 = 1e-5;
/// Lower precisions: the reference's own distance from its f32 result, times this. Rounding the same values
/// after sums in another order moves some of them by a unit; it must not move them much further from the truth. Measured here: 1.26.
const ROUNDED_FACTOR: f64 = 1.5;
/// The same of `llm`, whose error is that of few layers alone: graphs round probabilities where the reference rounds
/// exponentials, of which the largest is 1 and loses nothing. Measured here: 1.47 (the demo's in mixed), times 1.2.
const LLM_FACTOR: f64 = 1.76;
/// The same where products are stored in the narrow format: the reference keeps them in f32 until the bias is
/// added, and scores until the softmax. Measured here: 2.1.
const NATIVE_FACTOR: f64 = 2.5;

const N1_7: &str = "tests/fixtures/golden_n1d7/mixed_shapes";
const MODELS: [&str; 5] = [
    "tests/fixtures/golden/one_view",
    "tests/fixtures/golden/two_views",
    "tests/fixtures/golden/mixed_shapes",
    "demo/checkpoint",
    N1_7,
];

fn main() -> ExitCode {
    let no_python = python().is_none();
    let tests = vec![
        trial("onnx_runtime_gives_the_reference_results", onnx_runtime_gives_the_reference_results)
            .with_ignored_flag(no_python),
        trial(
            "graphs_for_accelerators_give_the_reference_results",
            graphs_for_accelerators_give_the_reference_results,
        )
        .with_ignored_flag(no_python),
        trial("graphs_of_other_opsets_are_valid", graphs_of_other_opsets_are_valid)
            .with_ignored_flag(no_python),
        trial(
            "names_of_nvidia_are_for_parts_of_the_action_head_only",
            names_of_nvidia_are_for_parts_of_the_action_head_only,
        ),
        trial("vit_and_llm_take_and_give_what_nvidias_do", vit_and_llm_take_and_give_what_nvidias_do),
        trial("weights_are_copied_as_they_are", weights_are_copied_as_they_are),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn layout(model: &Model, index: usize) -> Layout {
    let tokens = match index % 2 {
        0 => vec![[5, 7]],
        _ => vec![[4, 5], [3, 6]],
    };
    let side = model.config.image_token_side();
    let images = tokens.into_iter().map(|[rows, cols]| [rows * side, cols * side]).collect();
    let state_horizon = model.config.state_rows().unwrap_or(1 + index % 2);
    Layout { images, state_horizon, denoising_steps: 4 }
}

fn export(
    model: &Model,
    component: Component,
    policy: &PrecisionPolicy,
    products: Products,
    layout: &Layout,
    folder: &Path,
) {
    std::fs::create_dir_all(folder).expect("a folder of the test's own");
    let export = Export {
        component,
        policy,
        products,
        opset: DEFAULT_OPSET,
        names: Names::Steady,
        layout: layout.clone(),
    };
    export.write(model, "test", &folder.join("graph.onnx")).expect("the export");
}

/// The layout with one image where a graph takes images of one size.
fn fitting(model: &Model, component: Component, layout: &Layout) -> Layout {
    let one = component == Component::Vit && !model.topology.vision_gives_tokens();
    let images = if one { layout.images[..1].to_vec() } else { layout.images.clone() };
    Layout { images, ..layout.clone() }
}

/// The components that a model has.
fn components(model: &Model) -> impl Iterator<Item = (&'static str, Component)> {
    let attends = model.action_head.vl_self_attention.is_some();
    Component::ALL.into_iter().filter(move |(_, part)| attends || *part != Component::VlSelfAttention)
}

/// Exported graphs with the distance from the f32 result that each may have.
struct Cases {
    folder: tempfile::TempDir,
    graphs: Vec<(PathBuf, f64)>,
}

impl Cases {
    fn new() -> Self {
        Cases { folder: tempfile::tempdir().expect("a temporary folder"), graphs: Vec::new() }
    }

    /// Exports every component of a model, on a batch of two with different times, embodiments and prompts,
    /// and with padding where a graph takes a mask.
    fn add(&mut self, label: &str, model: &Model, layout: &Layout, precisions: &[&str], products: Products) {
        for (name, component) in components(model) {
            let factor = match (products, component) {
                (Products::Native, _) => NATIVE_FACTOR,
                (Products::Widened, Component::Llm) => LLM_FACTOR,
                (Products::Widened, _) => ROUNDED_FACTOR,
            };
            let layout = &fitting(model, component, layout);
            let case = Case::new(model, component, layout);
            let truth = case.reference(model, &PrecisionPolicy::preset("f32").expect("a preset"));
            for precision in precisions {
                let policy = PrecisionPolicy::preset(precision).expect("a preset");
                let folder = self.folder.path().join(format!("{label}_{name}_{precision}"));
                export(model, component, &policy, products, layout, &folder);
                // Against the f32 result: a rounded one is as good as the reference's, not equal to it.
                let own = relative_l2(&case.reference(model, &policy), &truth);
                // At other positions the same values are rounded otherwise.
                let before = if *precision == "f32" { PADDING } else { 0 };
                case.write(model, &truth, before, &folder.join("case.safetensors"));
                self.graphs.push((folder, if *precision == "f32" { F32_LIMIT } else { own * factor }));
            }
        }
    }

    /// Checks and runs all of them.
    fn hold(&self, python: &Path, runner: &str) {
        let folders: Vec<PathBuf> = self.graphs.iter().map(|(folder, _)| folder.clone()).collect();
        for ((folder, limit), result) in self.graphs.iter().zip(run_script(python, runner, &folders)) {
            let label = folder.file_name().unwrap_or_default().to_string_lossy();
            assert_eq!(result["checked"], true, "{label}");
            assert!(result["error"].is_null(), "{label}: {}", result["error"]);
            let distances = result["relative_l2"].as_object().expect("distances");
            assert!(!distances.is_empty(), "{label}: nothing was compared");
            for (name, distance) in distances {
                let distance = distance.as_f64().expect("a number");
                println!("{label} {name}: {distance:.2e}, limit {limit:.2e}");
                assert!(name != "image_mask" || distance == 0.0, "{label}: another image mask");
                assert!(distance <= *limit, "{label} {name}: {distance:e} above {limit:e}");
            }
        }
    }
}

fn onnx_runtime_gives_the_reference_results() {
    let python = python().expect("a Python, or the test is ignored");
    let mut cases = Cases::new();
    for (index, name) in MODELS.iter().enumerate() {
        let model = load_model(&repository(name)).expect("a fixture");
        let precisions = ["f32", "bf16", "fp16", "mixed", "mixed-fp16"];
        cases.add(
            &index.to_string(),
            &model,
            &layout(&model, index + index / 4),
            &precisions,
            Products::Widened,
        );
    }
    cases.hold(&python, "onnxruntime");
}

/// Products in the narrow format, which ONNX Runtime has no CPU kernels for.
fn graphs_for_accelerators_give_the_reference_results() {
    let python = python().expect("a Python, or the test is ignored");
    let model = load_model(&repository("demo/checkpoint")).expect("the demo");
    let mut cases = Cases::new();
    cases.add("native", &model, &layout(&model, 0), &["bf16", "fp16", "mixed"], Products::Native);
    cases.hold(&python, "reference");
}

/// The opsets' ends, and NVIDIA's names.
fn graphs_of_other_opsets_are_valid() {
    let python = python().expect("a Python, or the test is ignored");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let model = load_model(&repository("demo/checkpoint")).expect("the demo");
    let policy = PrecisionPolicy::preset("bf16").expect("a preset");
    let mut folders = Vec::new();
    let other = load_model(&repository(N1_7)).expect("a fixture");
    let seeing = [("n1_7_vit", Component::Vit), ("n1_7_llm", Component::Llm)];
    let blocks = ["dit.blocks.0:3", "dit.blocks.3:4", "dit.blocks.4:"];
    let blocks = blocks.map(|name| (name, name.parse::<Component>().expect(name)));
    let of_demo = components(&model).chain(blocks).map(|named| (&model, named));
    let all = of_demo.chain(seeing.map(|named| (&other, named)));
    for (model, (name, component)) in all {
        for (opset, names) in
            [(17, Names::Steady), (18, Names::Steady), (20, Names::Nvidia), (23, Names::Steady)]
        {
            if names == Names::Nvidia && component.edges().is_empty() {
                continue;
            }
            let folder = temporary.path().join(format!("{name}_{opset}"));
            std::fs::create_dir_all(&folder).expect("a folder of the test's own");
            let (products, layout) = (Products::Native, layout(model, 0));
            let export = Export { component, policy: &policy, products, opset, names, layout };
            export.write(model, "test", &folder.join("graph.onnx")).expect("the export");
            folders.push(folder);
        }
    }
    for result in run_script(&python, "onnxruntime", &folders) {
        assert_eq!(result["checked"], true, "{}", result["folder"]);
    }
}

fn names_of_nvidia_are_for_parts_of_the_action_head_only() {
    let model = load_model(&repository("demo/checkpoint")).expect("the demo");
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let export = |component, opset, images: Vec<[usize; 2]>, names| {
        let layout = Layout { images, state_horizon: 1, denoising_steps: 4 };
        let products = Products::Native;
        let export = Export { component, policy: &policy, products, opset, names, layout };
        let folder = tempfile::tempdir().expect("a temporary folder");
        export.write(&model, "", &folder.path().join("graph.onnx")).expect_err("a refusal").to_string()
    };
    let one = vec![[140, 196]];
    let refusal = export(Component::Vit, 20, vec![[140, 196]; 2], Names::Nvidia);
    assert_eq!(refusal, "image: expected one size, of which a graph takes any number of images, found 2");
    let refusal = export(Component::Policy, 20, one.clone(), Names::Nvidia);
    assert_eq!(refusal, "io_names: nvidia names are those of parts that it cuts, found policy");
    let refusal = export(Component::Policy, 16, one, Names::Steady);
    assert_eq!(refusal, "opset: expected 17 to 23, found 16");
    let refusal = export(Component::Backbone, 20, Vec::new(), Names::Steady);
    assert_eq!(refusal, "image: expected the size of at least one image, found none");
    let refusal = export(Component::Backbone, 20, vec![[141, 196]], Names::Steady);
    assert!(refusal.contains("multiples of 28, found 141x196"), "{refusal}");
}

/// Names, types and dimensions in `export_onnx_n1d6.py` and `export_onnx_n1d7.py`, in their order; there the number of
/// image tokens of `deepstack_K` is fixed.
fn vit_and_llm_take_and_give_what_nvidias_do() {
    let policy = PrecisionPolicy::preset("bf16").expect("a preset");
    let ports = |path: &str, component, images: Vec<[usize; 2]>| -> Vec<String> {
        let model = load_model(&repository(path)).expect("a fixture");
        let layout = Layout { images, state_horizon: 1, denoising_steps: 4 };
        let (products, names) = (Products::Native, Names::Nvidia);
        let export = Export { component, policy: &policy, products, opset: DEFAULT_OPSET, names, layout };
        let told = |port: &Port| {
            let dims: Vec<String> = port
                .dims
                .iter()
                .map(|dim| match dim {
                    PortDim::Fixed(size) => size.to_string(),
                    PortDim::Open(name) => name.clone(),
                })
                .collect();
            let way = if port.is_output { "out" } else { "in" };
            format!("{way} {} {} [{}]", port.name, port.dtype, dims.join(", "))
        };
        export.ports(&model).expect("a layout that fits").iter().map(told).collect()
    };
    let found = ports("demo/checkpoint", Component::Vit, vec![[252, 252]]);
    assert_eq!(
        found,
        ["in pixel_values BF16 [batch_size, 3, 252, 252]", "out vit_embeds BF16 [batch_size, 324, 64]"]
    );
    let found = ports("demo/checkpoint", Component::Llm, Vec::new());
    let expected = [
        "in inputs_embeds BF16 [batch_size, sequence_length, 96]",
        "in attention_mask I64 [batch_size, sequence_length]",
        "out embeddings BF16 [batch_size, sequence_length, 96]",
    ];
    assert_eq!(found, expected);
    let found = ports(N1_7, Component::Vit, vec![[64, 96], [32, 32]]);
    let expected = [
        "in pixel_values BF16 [28, 1536]",
        "out image_embeds BF16 [7, 64]",
        "out deepstack_features BF16 [3, 7, 64]",
    ];
    assert_eq!(found, expected);
    let found = ports(N1_7, Component::Llm, Vec::new());
    let expected = [
        "in inputs_embeds BF16 [1, seq_len, 64]",
        "in attention_mask I64 [1, seq_len]",
        "in position_ids I64 [3, 1, seq_len]",
        "in visual_pos_masks BOOL [1, seq_len]",
        "in deepstack_0 BF16 [num_vis_tokens, 64]",
        "in deepstack_1 BF16 [num_vis_tokens, 64]",
        "in deepstack_2 BF16 [num_vis_tokens, 64]",
        "out embeddings BF16 [1, seq_len, 64]",
    ];
    assert_eq!(found, expected);
}

/// The tensors in the data file are the checkpoint's bytes where the formats agree.
fn weights_are_copied_as_they_are() {
    let model = load_model(&repository("demo/checkpoint")).expect("the demo");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let policy = PrecisionPolicy::preset("bf16").expect("a preset");
    export(&model, Component::Dit, &policy, Products::Native, &layout(&model, 0), folder.path());
    let data = std::fs::read(folder.path().join("graph.onnx.data")).expect("the data file");
    let checkpoint = Checkpoint::open(repository("demo/checkpoint")).expect("the demo");
    let name = "action_head.model.transformer_blocks.3.ff.net.0.proj.weight";
    let bytes = checkpoint.get(name).and_then(Weight::bytes).expect("a weight of the file");
    let page = |start: &usize| data[*start..].starts_with(bytes);
    assert!((0..data.len()).step_by(4096).any(|start| page(&start)), "{name} at no page of the data file");
}
