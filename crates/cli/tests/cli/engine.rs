//! `steady engine` where no runtime is needed: refusals, and audits of what was recorded at the build.

use crate::support::{Run, has_line, repo, steady};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_fidelity::{Format, Trace, TraceWriter};
use steadyhand_gr00t::checkpoint::fingerprint;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

fn demo() -> String {
    repo("demo/checkpoint").display().to_string()
}

#[test]
fn what_cannot_be_built_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = demo();
    let refused = |options: &[&str], words: &[&str]| {
        let command = ["engine", "build", "--out", "x.engine"].iter().chain(options);
        steady(folder.path(), command).refuses(words);
    };
    let of_demo =
        |option: &'static str, value: &'static str| ["--checkpoint", checkpoint.as_str(), option, value];
    let of_target = |target: &'static str, option: &'static str, value: &'static str| {
        ["--checkpoint", checkpoint.as_str(), "--target", target, option, value]
    };
    for flag in ["fp16", "bf16", "prefer-precision-constraints"] {
        let name = format!("builder flag {flag}: TensorRT-RTX has none: its networks are strongly typed");
        refused(&of_target("rtx", "--builder-flag", flag), &[&name]);
        let name = format!("builder flag {flag}: TensorRT 10 has none: its networks are strongly typed");
        refused(&of_target("tensorrt:10", "--builder-flag", flag), &[&name]);
    }
    refused(&of_target("rtx", "--builder-flag", "tf32"), &["builder flag tf32: ", "rounded to TF32"]);
    refused(
        &of_target("tensorrt:8.5", "--builder-flag", "bf16"),
        &["builder flag bf16: TensorRT 8 has none"],
    );
    refused(&of_target("tensorrt:8.5", "--builder-flag", "int8"), &["builder flag int8: ", "a calibrator"]);
    refused(
        &of_target("tensorrt:8.5", "--optimization-level", "0"),
        &["optimization level: TensorRT 8.5 has none"],
    );
    refused(&of_target("tensorrt:8.6", "--optimization-level", "6"), &["6 is not in 0..=5"]);
    refused(
        &of_target("tensorrt:8.6", "--precision", "mixed"),
        &["precision mixed: site `dit.block.0.", "bf16: TensorRT 8 has no such type"],
    );
    refused(
        &of_target("tensorrt:8.5", "--precision", "mixed"),
        &["precision mixed: site `dit.block.0.", "bf16: TensorRT 8 has no such type"],
    );
    refused(&of_demo("--target", "trt"), &["target: expected rtx, tensorrt or tensorrt:VERSION"]);
    refused(&of_demo("--shapes", "tokens"), &["expected DIM=MIN:BEST:MAX"]);
    refused(&of_demo("--shapes", "tokens=3:2:1"), &["expected MIN <= BEST <= MAX, found 3:2:1"]);
    let missing =
        ["expected the library of TensorRT-RTX 1.5 to 1.7 or of TensorRT 8.5, 8.6", "nowhere: nothing there"];
    refused(&of_demo("--tensorrt", "nowhere"), &missing);
    refused(
        &of_target("tensorrt:8.5", "--tensorrt", "nowhere"),
        &["expected the library of TensorRT 8.5", "tensorrt==8.5.3.1", "nowhere: nothing there"],
    );
    refused(&["--onnx", "dit.onnx", "--precision", "bf16"], &["--precision: expected with --checkpoint"]);
    refused(&[], &["--onnx"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Every product of the demo's DiT with the type that `dtype_of` gives its site.
fn operations(dtype_of: &dyn Fn(&str) -> &'static str) -> Vec<Value> {
    let model = load_model(&repo("demo/checkpoint")).unwrap();
    let sites = steadyhand_gr00t::export::Component::Dit.sites(&model).unwrap();
    let products = sites.iter().filter(|site| site.operation.multiplies());
    let product =
        |site: &str| json!({"name": format!("{site}/MatMul"), "kind": "product", "dtype": dtype_of(site)});
    products.map(|site| product(&site.path)).collect()
}

/// What stands for an engine, and the record of a bf16 DiT with NVIDIA's names.
fn engine(folder: &Path, output: &str, operations: Vec<Value>) {
    let bytes = b"stands for an engine";
    fs::write(folder.join("dit.engine"), bytes).unwrap();
    let binding = |name: &str, direction: &str, dtype: &str, shape: &[i64]| json!({"name": name, "direction": direction, "dtype": dtype, "shape": shape, "profile": null});
    let record = json!({
        "format": "steadyhand-engine", "version": 1, "builder": "TensorRT-RTX 1.7.1",
        "engine": fingerprint([("engine", bytes.as_slice())]),
        "source": {"component": "dit", "products": "native",
                   "precision": PrecisionPolicy::preset("bf16").unwrap().identity()},
        "flags": [],
        "bindings": [
            binding("sa_embs", "input", "BF16", &[-1, -1, 128]),
            binding("vl_embs", "input", "BF16", &[-1, -1, 96]),
            binding("timestep", "input", "I64", &[-1]),
            binding("image_mask", "input", "BOOL", &[-1, -1]),
            binding("backbone_attention_mask", "input", "BOOL", &[-1, -1]),
            binding("output", "output", output, &[-1, -1, 128]),
        ],
        "operations": operations,
    });
    fs::write(folder.join("dit.engine.json"), record.to_string()).unwrap();
}

/// TensorRT 8's networks are weakly typed: what a flag leaves to the builder is no type that an audit passes.
#[test]
fn types_that_a_builder_chose_are_not_those_of_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = b"stands for an engine";
    let record = |flags: &[&str]| {
        engine(folder.path(), "F16", operations(&|_| "F16"));
        let path = folder.path().join("dit.engine.json");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("\"BF16\"", "\"F16\"").replace("\"I64\"", "\"I32\"");
        let mut record: Value = serde_json::from_str(&text).unwrap();
        record["builder"] = json!("TensorRT 8.5.3");
        record["engine"] = json!(fingerprint([("engine", bytes.as_slice())]));
        record["source"]["precision"] = json!(PrecisionPolicy::preset("fp16").unwrap().identity());
        record["weakly_typed"] = json!(true);
        record["flags"] = json!(flags);
        fs::write(path, record.to_string()).unwrap();
        inspect(folder.path(), "fp16")
    };
    let run = record(&["fp16", "obey-precision-constraints"]).succeeds();
    assert!(run.stdout.contains("a network whose every layer is held to its type"), "{}", run.stdout);
    let run = record(&["fp16"]);
    assert_eq!(run.code, 1, "{run:#?}");
    let found = "differs: types of operations: expected kept by the builder, found free to be fp16";
    assert!(run.stdout.contains(found), "{}", run.stdout);
}

fn inspect(folder: &Path, precision: &str) -> Run {
    let checkpoint = demo();
    steady(folder, ["engine", "inspect", "dit.engine", "--checkpoint", &checkpoint, "--precision", precision])
}

#[test]
fn an_audit_holds_an_engine_to_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    engine(folder.path(), "BF16", operations(&|_| "BF16"));
    let run = inspect(folder.path(), "bf16").succeeds();
    has_line(&run, &["output", "output", "BF16"]);
    has_line(&run, &["product", "BF16"]);
    assert!(run.stdout.contains("audit: ") && !run.stdout.contains("differs"), "{}", run.stdout);

    let run = inspect(folder.path(), "fp16");
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(
        run.stdout.contains("differs: input sa_embs: expected F16 [-1, -1, 128], found BF16"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("differs: precision: expected fp16, found bf16"), "{}", run.stdout);
}

#[test]
fn one_binding_or_one_product_of_another_type_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    engine(folder.path(), "F16", operations(&|_| "BF16"));
    let run = inspect(folder.path(), "bf16");
    assert_eq!(run.code, 1, "{run:#?}");
    let differing = |run: &Run| run.stdout.matches("differs: ").count();
    assert!(
        run.stdout.contains("differs: output output: expected BF16 [-1, -1, 128], found F16"),
        "{}",
        run.stdout
    );
    assert_eq!(differing(&run), 1, "{}", run.stdout);

    let one = |site: &str| if site == "dit.block.3.fc1" { "F16" } else { "BF16" };
    engine(folder.path(), "BF16", operations(&one));
    let run = inspect(folder.path(), "bf16");
    assert_eq!((run.code, differing(&run)), (1, 1), "{run:#?}");
    assert!(
        run.stdout.contains("differs: product dit.block.3.fc1/MatMul: expected BF16, found F16"),
        "{}",
        run.stdout
    );
}

/// Engines of NVIDIA's `vit` and `llm`, of N1.6 and N1.7.
#[test]
fn an_engine_of_a_part_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = b"stands for an engine";
    let added = ["position_ids", "visual_pos_masks", "deepstack_0", "deepstack_1", "deepstack_2"];
    let embedded = ["inputs_embeds", "attention_mask"];
    for (part, inputs) in
        [("vit", vec!["pixel_values"]), ("llm", embedded.to_vec()), ("llm", [&embedded[..], &added].concat())]
    {
        engine(folder.path(), "BF16", Vec::new());
        let path = folder.path().join("dit.engine.json");
        let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let binding = |name: &&str| json!({"name": name, "direction": "input", "dtype": "BF16", "shape": [-1], "profile": null});
        record["bindings"] = inputs.iter().map(binding).collect();
        record["engine"] = json!(fingerprint([("engine", bytes.as_slice())]));
        fs::write(&path, record.to_string()).unwrap();
        let run = steady(folder.path(), ["engine", "inspect", "dit.engine"]).succeeds();
        assert!(run.stdout.contains(&format!("it takes what `{part}` takes")), "{}", run.stdout);
    }
}

/// The name under which features are handed on is judged by nothing where stages run by themselves.
#[test]
fn features_by_themselves_need_the_name_of_what_makes_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    let recorded = Trace::open(folder.join("recorded")).unwrap();
    let name = "000/backbone_features";
    let halved: Vec<f32> = recorded.read(name).unwrap().iter().map(|value| value / 2.0).collect();
    let write = |out: &str, tap: &str| {
        let mut metadata = recorded.metadata().clone();
        metadata.insert("mode".to_owned(), "isolated".to_owned());
        let mut writer = TraceWriter::create(folder.join(out), metadata).unwrap();
        writer.add(&format!("000/{tap}"), &recorded.entry(name).unwrap().shape, &halved).unwrap();
        writer.finish().unwrap();
        steady(folder, ["diagnose", "--inferences", "1", "--b", &format!("trace:{out}")])
    };
    write("copy", "backbone_features")
        .refuses(&["backbone_features: expected the name of what makes it, `language.norm`"]);
    let run = write("made", "language.norm");
    let headline = run.stdout.lines().next().unwrap_or_default();
    assert!(run.code == 1 && headline.contains("`language.norm`"), "{headline}");
}

#[test]
fn an_engine_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let inspect = || steady(folder.path(), ["engine", "inspect", "dit.engine"]);
    inspect().refuses(&["dit.engine: cannot be read"]);
    fs::write(folder.path().join("dit.engine"), "not an engine").unwrap();
    inspect().refuses(&["there is no record of how it was built, dit.engine.json"]);
    engine(folder.path(), "BF16", Vec::new());
    fs::write(folder.path().join("dit.engine"), "another engine").unwrap();
    inspect().refuses(&["dit.engine.json: engine: expected ", ", that of dit.engine, found "]);
    fs::write(folder.path().join("dit.engine.json"), "{}").unwrap();
    inspect().refuses(&["dit.engine.json: missing field"]);
}

#[test]
fn what_cannot_be_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = |file: &str, more: &[&str]| {
        let command = ["engine", "run", file, "--bindings", "recorded", "--out", "out"];
        steady(folder.path(), command.iter().chain(more))
    };
    run("dit.engine", &[]).refuses(&["recorded: "]);
    steady(folder.path(), ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    run("dit.onnx", &["--device", "1"]).refuses(&["--device: expected with an engine"]);
    run("dit.onnx", &["--repeat", "9"]).refuses(&["--repeat: expected with an engine"]);
    run("dit.onnx", &[]).refuses(&["dit.onnx: expected an ONNX file, found none"]);
    run("dit.engine", &["--onnxruntime", "x"]).refuses(&["--onnxruntime: expected with an ONNX graph"]);
    run("dit.engine", &[]).refuses(&["dit.engine: No such file"]);
    std::fs::write(folder.path().join("dit.engine"), "bytes").expect("a file");
    run("dit.engine", &["--tensorrt", "nowhere"]).refuses(&["nowhere: nothing there"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn providers_are_options_of_onnxruntime() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |options: &[&str], words: &str| {
        steady(folder.path(), ["demo"].iter().chain(options)).refuses(&[words]);
    };
    refused(
        &["--engine", "cpu", "--provider", "cuda"],
        "--provider: expected with onnxruntime, found with cpu",
    );
    let known = "expected one of cpu, cuda, tensorrt, nv-tensorrt-rtx, found `rocm`";
    refused(&["--engine", "onnxruntime", "--provider", "rocm"], known);
}

/// Of two engines it is enough that one reads an option.
#[test]
fn options_of_engines_are_those_of_what_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |words: &[&str], what: &str| {
        steady(folder.path(), words).refuses(&[what]);
    };
    let provider = "--provider: expected with onnxruntime, found with ";
    refused(&["diagnose", "--b", "cpu:bf16", "--provider", "cuda"], &format!("{provider}cpu"));
    refused(&["compare", "--b", "fault:euler", "--provider", "cuda"], &format!("{provider}cpu or fault"));
    refused(&["compare", "--b", "onnxruntime", "--onnxruntime", "nowhere"], "nowhere");
    refused(&["compare", "--a", "onnxruntime", "--b", "cpu:bf16", "--onnxruntime", "nowhere"], "nowhere");
    refused(&["diagnose", "--b", "onnxruntime", "--onnxruntime", "nowhere"], "nowhere");
}

/// An engine whose bf16 output was taken into a buffer of fp16: the file's type is the buffer's.
#[test]
fn outputs_in_a_buffer_of_another_type_are_found() {
    let folder = tempfile::tempdir().unwrap();
    steady(folder.path(), ["record", "--inferences", "2", "--out", "recorded"]).succeeds();
    let trace = Trace::open(folder.path().join("recorded")).unwrap();
    let mut writer = TraceWriter::create(folder.path().join("engine"), BTreeMap::new()).unwrap();
    for name in trace.names().filter(|name| name.ends_with(".dit.output")) {
        let values = trace.read(name).unwrap();
        let codes = values.iter().flat_map(|value| (Format::Bf16.encode(*value) as u16).to_le_bytes());
        let codes: Vec<u8> = codes.collect();
        writer.add_bytes(name, Dtype::F16, &trace.entry(name).unwrap().shape, &codes).unwrap();
    }
    writer.finish().unwrap();
    let run = steady(folder.path(), ["diagnose", "--isolated", "--b", "trace:engine"]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(
        run.stdout
            .contains("CAUSE FOUND: the engine writes bf16 at `dit.output` and the bytes are read as fp16"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("of types F16"), "{}", run.stdout);
}
