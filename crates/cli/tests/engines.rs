//! `steady engine` on runtimes that are found here; tests whose runtime is missing are ignored, by name.

#[path = "engines/blocks.rs"]
mod blocks;
#[path = "cli/support.rs"]
#[allow(dead_code)] // The other tests use the rest of it.
mod support;

use libtest_mimic::{Arguments, Trial};
use std::path::Path;
use std::process::{Command, ExitCode};
use steadyhand_external::onnxruntime::{OnnxRuntimeEngine, RuntimeOptions};
use steadyhand_external::tensorrt::{Product, Target, locate};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_fidelity::{Format, Trace, TraceWriter};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use support::{Run, has_line, repo, steady};

fn main() -> ExitCode {
    let trial = |name: &str, present: bool, test: fn()| {
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(!present)
    };
    let (tensorrt, onnxruntime) =
        (locate(None, Some(Target::any(Product::TensorRtRtx))).is_ok(), has_onnxruntime());
    let tests = vec![
        trial("a_checkpoint_is_built_and_audited", tensorrt, a_checkpoint_is_built_and_audited),
        trial(
            "engines_of_vit_and_llm_are_built_and_audited",
            tensorrt,
            engines_of_vit_and_llm_are_built_and_audited,
        ),
        trial("sizes_of_a_graph_are_asked_for", tensorrt, sizes_of_a_graph_are_asked_for),
        trial("a_run_gives_a_trace_that_is_healthy", onnxruntime, a_run_gives_a_trace_that_is_healthy),
        trial(
            "a_misread_output_is_found_from_whatever_is_known",
            onnxruntime && has_onnx(),
            a_misread_output_is_found_from_whatever_is_known,
        ),
        trial(
            "parts_of_the_action_head_are_judged_one_by_one",
            onnxruntime,
            parts_of_the_action_head_are_judged_one_by_one,
        ),
        trial(
            "a_component_runs_with_the_reference_around_it",
            onnxruntime,
            a_component_runs_with_the_reference_around_it,
        ),
        trial("blocks_run_as_the_whole_dit", onnxruntime, blocks::blocks_run_as_the_whole_dit),
        trial(
            "blocks_that_are_no_whole_are_refused",
            onnxruntime,
            blocks::blocks_that_are_no_whole_are_refused,
        ),
        trial("blocks_are_judged_one_by_one", onnxruntime, blocks::blocks_are_judged_one_by_one),
        trial("vit_and_llm_are_judged_one_by_one", onnxruntime, vit_and_llm_are_judged_one_by_one),
        trial(
            "vit_and_llm_made_wrong_are_found",
            onnxruntime && has_onnx(),
            vit_and_llm_made_wrong_are_found,
        ),
        trial("inputs_are_rounded_only_if_asked_to", onnxruntime, inputs_are_rounded_only_if_asked_to),
        trial("a_missing_provider_is_refused", onnxruntime, a_missing_provider_is_refused),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn has_onnxruntime() -> bool {
    let model = load_model(&repo("demo/checkpoint")).expect("the demo");
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    OnnxRuntimeEngine::exporting(model, "test", policy, 4, &RuntimeOptions::default()).is_ok()
}

/// Python's interpreter, where it has the packages that scripts of the tests import.
fn python() -> Option<String> {
    let python = std::env::var("STEADY_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imports = ["-c", "import numpy, onnx, onnxruntime, safetensors"];
    let output = Command::new(&python).args(imports).output().ok()?;
    output.status.success().then_some(python)
}

fn has_onnx() -> bool {
    python().is_some()
}

/// Runs `steady` with the demo's checkpoint.
fn with_demo(folder: &Path, command: &[&str], options: &[&str]) -> Run {
    let checkpoint = repo("demo/checkpoint").display().to_string();
    steady(folder, command.iter().chain(&["--checkpoint", &checkpoint]).chain(options))
}

fn a_checkpoint_is_built_and_audited() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let options = [
        "--precision",
        "bf16",
        "--io-names",
        "nvidia",
        "--out",
        "new/dit.engine",
        "--shapes",
        "batch_size=1",
    ];
    let run = with_demo(folder, &["engine", "build"], &options).succeeds();
    assert!(
        run.stdout.contains("shapes batch_size=1:1:1 sa_seq_len=17:17:17 vl_seq_len=1:121:512"),
        "{}",
        run.stdout
    );
    let left: Vec<_> = std::fs::read_dir(folder.join("new")).expect("the folder").collect();
    assert_eq!(left.len(), 2, "the engine and its record: {left:?}");

    let inspect = ["engine", "inspect", "new/dit.engine"];
    let run = with_demo(folder, &inspect, &["--precision", "bf16"]).succeeds();
    has_line(&run, &["vl_embs", "input", "BF16", "[-1", "-1", "96]", "[1", "121", "96]"]);
    // Three facts of the export, 6 bindings, 76 products, 8 softmaxes, 17 normalizations.
    assert!(run.stdout.contains("audit: 110 of 110 agree"), "{}", run.stdout);
    let run = with_demo(folder, &inspect, &["--precision", "fp16"]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(
        run.stdout.contains("differs: product dit.block.5.query/MatMul: expected F16, found BF16"),
        "{}",
        run.stdout
    );

    let engine = "tensorrt:new/dit.engine";
    let run = steady(folder, ["demo", "--precision", "f32", "--engine", engine]);
    run.refuses(&[&format!("--precision: expected bf16, which --engine {engine} was built at, found f32")]);
    let run = steady(folder, ["diagnose", "--inferences", "1", "--b", engine]);
    if run.code == 2 {
        assert!(run.stderr.contains(&format!("{engine} cannot run: ")), "{run:#?}");
    } else {
        run.succeeds();
    }

    steady(folder, ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    let run = steady(
        folder,
        ["engine", "run", "new/dit.engine", "--bindings", "recorded", "--round-inputs", "--out", "out"],
    );
    if run.code == 2 {
        let reasons = ["open device: ", "TensorRT-RTX"];
        assert!(reasons.iter().any(|reason| run.stderr.contains(reason)), "{run:#?}");
    } else {
        run.succeeds();
        steady(folder, ["diagnose", "--isolated", "--b", "trace:out"]).succeeds();
    }
}

/// Of both versions, by NVIDIA's names, which the audit finds out by itself.
fn engines_of_vit_and_llm_are_built_and_audited() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = [
        ("batch_size=1:1:8", "batch_size=1:1:8 sequence_length=1:121:512"),
        ("", "num_vis_tokens=1:81:512 seq_len=1:121:512"),
    ];
    for ((checkpoint, image), (of_vit, of_llm)) in BACKBONES.into_iter().zip(open) {
        let checkpoint = path_of(checkpoint);
        let policy = ["--checkpoint", &checkpoint, "--precision", "bf16"];
        for (part, sees, shapes) in [("vit", &["--image", image][..], of_vit), ("llm", &[], of_llm)] {
            let build = ["engine", "build", "--component", part, "--io-names", "nvidia", "--out", "x.engine"];
            let run = steady(folder.path(), build.iter().chain(&policy).chain(sees)).succeeds();
            assert!(run.stdout.contains(&format!("shapes {shapes}")), "{}", run.stdout);
            let inspect = ["engine", "inspect", "x.engine"];
            let run = steady(folder.path(), inspect.iter().chain(&policy)).succeeds();
            assert!(run.stdout.contains(&format!("it takes what `{part}` takes")), "{}", run.stdout);
            assert!(run.stdout.contains("audit: ") && !run.stdout.contains("differs"), "{}", run.stdout);
            let fp16 = ["--checkpoint", &checkpoint, "--precision", "fp16"];
            let run = steady(folder.path(), inspect.iter().chain(&fp16));
            assert!(run.code == 1 && run.stdout.contains("differs: "), "{run:#?}");
        }
    }
}

/// A checkpoint of the repository, or sizes without files.
fn path_of(checkpoint: &str) -> String {
    let named = checkpoint.starts_with("synth:");
    if named { checkpoint.to_owned() } else { repo(checkpoint).display().to_string() }
}

fn sizes_of_a_graph_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    with_demo(folder, &["export", "onnx"], &["--component", "dit", "--out", "dit.onnx"]).succeeds();
    let build = |more: &[&str]| {
        steady(folder, ["engine", "build", "--onnx", "dit.onnx", "--out", "dit.engine"].iter().chain(more))
    };
    build(&[]).refuses(&["dimension `batch` is open: expected a range of sizes, found none"]);
    let all = ["--shapes", "batch=1", "tokens=1:121:512", "state_action_tokens=17"];
    build(&[&all[..], &["width=2"]].concat()).refuses(&["shape of `width`: open dimensions are: batch"]);
    build(&[&all[..], &["--builder-flag", "strict-nans"]].concat()).succeeds();
    let run = steady(folder, ["engine", "inspect", "dit.engine"]).succeeds();
    assert!(run.stdout.contains("flags: strict-nans; TF32: off"), "{}", run.stdout);
}

fn a_run_gives_a_trace_that_is_healthy() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "2", "--out", "recorded"]).succeeds();
    for component in ["dit", "action_head", "backbone", "policy"] {
        let file = format!("{component}.onnx");
        let sees = ["backbone", "policy"].contains(&component);
        let image: &[&str] = if sees { &["--image", "252x252"] } else { &[] };
        let options = ["--component", component, "--out", &file];
        with_demo(folder, &["export", "onnx"], &[&options[..], image].concat()).succeeds();
        let run =
            steady(folder, ["engine", "run", &file, "--bindings", "recorded", "--out", component]).succeeds();
        let calls = if component == "dit" { 8 } else { 2 };
        assert!(run.stdout.contains(&format!("outputs of {calls} calls on 2 inferences")), "{}", run.stdout);
        let trace = format!("trace:{component}");
        steady(folder, ["diagnose", "--b", &trace]).succeeds();
    }
}

/// A bf16 engine in ONNX Runtime whose DiT output is read as fp16, known by every tensor, by what leaves the stages, by its
/// actions, and by its DiT alone.
fn a_misread_output_is_found_from_whatever_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--all", "--inferences", "2", "--out", "recorded"]).succeeds();
    let export = |component: &str, more: &[&str]| {
        let file = format!("{component}.onnx");
        let options =
            ["--component", component, "--precision", "bf16", "--products", "widened", "--out", &file];
        with_demo(folder, &["export", "onnx"], &[&options[..], more].concat()).succeeds();
    };
    export("policy", &["--image", "252x252"]);
    let run = Command::new(python().expect("looked for before"))
        .arg(repo("tests/engines/misread.py"))
        .args(["policy.onnx", "recorded", "out"])
        .current_dir(folder)
        .output()
        .expect("a program that ran before");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    export("dit", &["--io-names", "nvidia"]);
    let run = ["engine", "run", "dit.onnx", "--bindings", "recorded", "--round-inputs", "--out", "healthy"];
    steady(folder, run).succeeds();
    read_as_fp16(folder, "healthy", "out/dit");

    for known in ["trace:out/full", "trace:out/stages", "expected:out/actions#engine", "trace:out/dit"] {
        let run = steady(folder, ["diagnose", "--inferences", "2", "--b", known]);
        let headline = run.stdout.lines().next().unwrap_or_default();
        let found = "CAUSE FOUND: the engine writes bf16 at `dit.output` and the bytes are read as fp16";
        assert_eq!((run.code, headline), (1, found), "{known}: {run:#?}");
    }
}

/// The outputs of a bf16 engine as another trace, their bits read as fp16.
fn read_as_fp16(folder: &Path, from: &str, to: &str) {
    let trace = Trace::open(folder.join(from)).expect("outputs");
    let mut writer = TraceWriter::create(folder.join(to), trace.metadata().clone()).expect("a folder");
    for name in trace.names() {
        let codes =
            trace.read(name).expect("a tensor").into_iter().map(|value| Format::Bf16.encode(value) as u16);
        let bytes: Vec<u8> = codes.flat_map(u16::to_le_bytes).collect();
        writer
            .add_bytes(name, Dtype::F16, &trace.entry(name).expect("known").shape, &bytes)
            .expect("written");
    }
    writer.finish().expect("written");
}

/// Parts of the action head as NVIDIA's exporter cuts it, in ONNX Runtime: healthy ones, and one that
/// gives half of what it should.
fn parts_of_the_action_head_are_judged_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "2", "--out", "recorded"]).succeeds();
    for part in ["state_encoder", "action_encoder", "action_decoder"] {
        for names in ["steady", "nvidia"] {
            let (graph, out) = (format!("{part}.{names}.onnx"), format!("{part}.{names}"));
            let options = ["--component", part, "--io-names", names, "--out", &graph];
            with_demo(folder, &["export", "onnx"], &options).succeeds();
            steady(folder, ["engine", "run", &graph, "--bindings", "recorded", "--out", &out]).succeeds();
            let known = format!("trace:{out}");
            let run = steady(folder, ["diagnose", "--inferences", "2", "--b", &known]).succeeds();
            assert!(run.stdout.contains("NO FAULT"), "{part}: {}", run.stdout);
        }
    }
    halved(&folder.join("action_decoder.nvidia"), &folder.join("wrong"));
    let run = steady(folder, ["diagnose", "--inferences", "2", "--b", "trace:wrong"]);
    let headline = run.stdout.lines().next().unwrap_or_default();
    assert!(run.code == 1 && headline.contains("`decoder`"), "{headline}");
}

/// The DiT in a graph, the rest on the reference: the whole policy is judged, and of the DiT what it gives.
fn a_component_runs_with_the_reference_around_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    with_demo(folder, &["export", "onnx"], &["--component", "dit", "--out", "dit.onnx"]).succeeds();
    let engine = ["--b", "onnxruntime", "--onnx", "dit.onnx", "--inferences", "2"];
    let run = steady(folder, ["compare"].iter().chain(&engine)).succeeds();
    assert!(run.stdout.contains("Every tap lies within what rounding gives."), "{}", run.stdout);
    has_line(&run, &["step.3.dit.output"]);
    let run = steady(folder, ["diagnose"].iter().chain(&engine)).succeeds();
    assert!(run.stdout.contains("NO FAULT: "), "{}", run.stdout);
    let other = ["--b", "onnxruntime:bf16", "--onnx", "dit.onnx"];
    let refused = ["dit.onnx: steadyhand.precision: expected bf16, found f32"];
    steady(folder, ["compare"].iter().chain(&other)).refuses(&refused);
    // Less than it is said to be: the verdict names where it leaves the engine.
    let formats = ["--precision", "bf16", "--products", "widened"];
    let narrow = [&["--component", "dit", "--out", "narrow.onnx"], &formats[..]].concat();
    with_demo(folder, &["export", "onnx"], &narrow).succeeds();
    let engine =
        ["--b", "onnxruntime:bf16", "--b-precision", "f32", "--onnx", "narrow.onnx", "--inferences", "1"];
    let run = steady(folder, ["diagnose"].iter().chain(&engine));
    assert!(run.code == 1 && run.stdout.contains("FOUND: "), "{run:#?}");
}

/// What a model's `vit` and `llm` need to be exported and recorded: a checkpoint with the size of its images.
const BACKBONES: [(&str, &str); 2] = [("demo/checkpoint", "252x252"), ("synth:tiny-n1.7", "256x256")];

/// Records a model, where it was not yet, and exports its `vit` and `llm` by NVIDIA's names.
fn record_and_cut(folder: &Path, checkpoint: &str, image: &str, precision: &str) -> String {
    let named = checkpoint.starts_with("synth:");
    let checkpoint = path_of(checkpoint);
    let observed: &[&str] = if named { &["--checkpoint", &checkpoint] } else { &[] };
    if !folder.join("recorded").exists() {
        let record = ["record", "--inferences", "1", "--out", "recorded"];
        steady(folder, record.iter().chain(observed)).succeeds();
    }
    for (part, sees) in [("vit", true), ("llm", false)] {
        let graph = format!("{part}.onnx");
        let options = ["export", "onnx", "--checkpoint", &checkpoint, "--component", part, "--out", &graph];
        let formats = ["--precision", precision, "--products", "widened", "--io-names", "nvidia"];
        let size: &[&str] = if sees { &["--image", image] } else { &[] };
        steady(folder, options.iter().chain(&formats).chain(size)).succeeds();
    }
    observed.join(" ")
}

/// Diagnoses a trace of a model that [`record_and_cut`] recorded.
fn diagnose_of(folder: &Path, observed: &str, trace: &str) -> Run {
    let known = format!("trace:{trace}");
    let options = ["diagnose", "--inferences", "1", "--b", &known];
    steady(folder, options.into_iter().chain(observed.split_whitespace()))
}

/// The two parts that NVIDIA's exporter cuts a backbone into, of both versions, in ONNX Runtime: each from `steady engine run`
/// and from the script, which leave the same tensors.
fn vit_and_llm_are_judged_one_by_one() {
    for (checkpoint, image) in BACKBONES {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let observed = record_and_cut(folder, checkpoint, image, "f32");
        for part in ["vit", "llm"] {
            let graph = format!("{part}.onnx");
            steady(folder, ["engine", "run", &graph, "--bindings", "recorded", "--out", part]).succeeds();
            let run = diagnose_of(folder, &observed, part).succeeds();
            assert!(run.stdout.contains("NO FAULT"), "{checkpoint} {part}: {}", run.stdout);
            let Some(python) = python() else { continue };
            let by_script = format!("{part}.script");
            let run = Command::new(python)
                .arg(repo("docs/run_engine.py"))
                .args([&graph, "recorded", &by_script])
                .current_dir(folder)
                .output()
                .expect("a program that ran before");
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            let [own, script] = [part, &by_script].map(|out| Trace::open(folder.join(out)).expect("outputs"));
            assert_eq!(own.names().len(), script.names().len(), "{checkpoint} {part}");
            for name in own.names() {
                let [own, script] = [&own, &script].map(|trace| trace.read(name).expect("a tensor of both"));
                assert_eq!(own, script, "{checkpoint} {name}");
            }
        }
    }
}

/// A `vit` that gives half, deepstack features one for another, and outputs of bf16 that are read as fp16.
fn vit_and_llm_made_wrong_are_found() {
    let [n1_6, n1_7] = BACKBONES;
    let changed: [&[_]; 2] = [
        &[("vit", "halve", "vision.post_layernorm")],
        &[("vit", "swap", "vision.deepstack.0"), ("llm", "swap", "language.layer.3")],
    ];
    let misread = [("llm", "language.norm"), ("vit", "vision.deepstack.0")];
    for (((checkpoint, image), changed), (part, place)) in [n1_6, n1_7].into_iter().zip(changed).zip(misread)
    {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let observed = record_and_cut(folder, checkpoint, image, "f32");
        for (part, change, place) in changed {
            let (graph, out) = (format!("{part}.{change}.onnx"), format!("{part}.{change}"));
            let run = Command::new(python().expect("looked for before"))
                .arg(repo("tests/engines/change_backbone.py"))
                .args([&format!("{part}.onnx"), *change, &graph])
                .current_dir(folder)
                .output()
                .expect("a program that ran before");
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            steady(folder, ["engine", "run", &graph, "--bindings", "recorded", "--out", &out]).succeeds();
            let run = diagnose_of(folder, &observed, &out);
            let headline = run.stdout.lines().next().unwrap_or_default();
            let named = format!("FOUND: `{place}` is the first tensor shown that is wrong");
            assert!(run.code == 1 && headline.contains(&named), "{checkpoint} {out}: {headline}");
        }
        record_and_cut(folder, checkpoint, image, "bf16");
        let run = ["--bindings", "recorded", "--round-inputs", "--out", "healthy"];
        steady(folder, ["engine", "run", &format!("{part}.onnx")].iter().chain(&run)).succeeds();
        let run = diagnose_of(folder, &observed, "healthy").succeeds();
        assert!(run.stdout.contains("NO FAULT"), "{checkpoint} {part}: {}", run.stdout);
        read_as_fp16(folder, "healthy", "misread");
        let run = diagnose_of(folder, &observed, "misread");
        let headline = run.stdout.lines().next().unwrap_or_default();
        let found =
            format!("CAUSE FOUND: the engine writes bf16 at `{place}` and the bytes are read as fp16");
        assert!(run.code == 1 && headline.starts_with(&found), "{checkpoint} {part}: {headline}");
    }
}

fn inputs_are_rounded_only_if_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    let options = [
        "--component",
        "dit",
        "--precision",
        "bf16",
        "--products",
        "widened",
        "--io-names",
        "nvidia",
        "--out",
        "d.onnx",
    ];
    with_demo(folder, &["export", "onnx"], &options).succeeds();
    let run = |more: &[&str]| {
        steady(
            folder,
            ["engine", "run", "d.onnx", "--bindings", "recorded", "--out", "out"].iter().chain(more),
        )
    };
    run(&[]).refuses(&["input sa_embs: expected values that BF16 holds, found others recorded as F32"]);
    assert!(!folder.join("out").exists());
    run(&["--round-inputs"]).succeeds();
    let run = steady(folder, ["diagnose", "--isolated", "--b", "trace:out"]).succeeds();
    assert!(run.stdout.contains("of types BF16"), "{}", run.stdout);
}

/// The library of Python's onnxruntime has no TensorRT; onnxruntime-gpu's has no TensorRT-RTX.
fn a_missing_provider_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |provider: &str, precision: &str, words: &str| {
        let options = ["demo", "--engine", "onnxruntime", "--provider", provider, "--precision", precision];
        steady(folder.path(), options).refuses(&[words]);
    };
    let words = "provider nv-tensorrt-rtx: expected one that ONNX Runtime's library has: cpu";
    refused("nv-tensorrt-rtx", "bf16", words);
    refused("tensorrt", "f32", "multiplies in f32, which it may round to TF32; set NVIDIA_TF32_OVERRIDE=0");
}

/// Writes a trace whose values are half of another's.
fn halved(from: &Path, to: &Path) {
    let trace = Trace::open(from).expect("outputs");
    let mut writer = TraceWriter::create(to, trace.metadata().clone()).expect("a folder");
    for name in trace.names() {
        let halved: Vec<f32> = trace.read(name).expect("a tensor").iter().map(|value| value / 2.0).collect();
        writer.add(name, &trace.entry(name).expect("known").shape, &halved).expect("written");
    }
    writer.finish().expect("written");
}
