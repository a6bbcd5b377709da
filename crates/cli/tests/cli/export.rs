//! `steady export`, and engines that others wrote.

use crate::support::{Run, repo, steady};
use std::ffi::OsStr;
use std::path::Path;

fn export(folder: &Path, options: &[&str]) -> Run {
    let checkpoint = repo("demo/checkpoint");
    let mut args: Vec<&OsStr> = ["export", "onnx", "--checkpoint"].map(OsStr::new).to_vec();
    args.push(checkpoint.as_os_str());
    args.extend(options.iter().map(OsStr::new));
    steady(folder, args)
}

#[test]
fn a_graph_and_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let run = export(folder.path(), &["--component", "dit", "--precision", "bf16", "--out", "new/dit.onnx"]);
    let run = run.succeeds();
    assert!(run.stdout.contains("dit.onnx.data: "), "{}", run.stdout);
    let length = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(length("new/dit.onnx") > 10_000 && length("new/dit.onnx.data") > 1_000_000);
    assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 2);
}

#[test]
fn what_cannot_be_exported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |options: &[&str], words: &str| {
        export(folder.path(), &[options, &["--out", "x.onnx"]].concat()).refuses(&[words]);
    };
    refused(&["--component", "policy"], "image: expected the size of at least one image, found none");
    let known = "vit, llm, dit, vl_self_attention, state_encoder, action_encoder, action_decoder, action_head, backbone, policy, dit.blocks.FIRST:END";
    refused(&["--component", "head"], &format!("expected one of {known}, found `head`"));
    let missing =
        "vl_self_attention: expected a model with self-attention over the features, found GR00T N1.6";
    refused(&["--component", "vl_self_attention"], missing);
    refused(&["--image", "252"], "expected HEIGHTxWIDTH");
    refused(&["--component", "dit", "--opset", "16"], "opset: expected 17 to 23, found 16");
    refused(
        &["--component", "dit", "--target", "tensorrt:8.5", "--precision", "bf16"],
        "precision bf16: site `dit.block.0.key`: bf16: TensorRT 8 has no such type",
    );
    refused(&["--component", "action_head", "--denoising-steps", "0"], "expected at least 1, found 0");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_library_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, dataset) = (repo("demo/checkpoint"), repo("demo/dataset"));
    let mut args: Vec<&OsStr> =
        ["eval", "--engine", "onnxruntime", "--onnxruntime", "nowhere"].map(OsStr::new).to_vec();
    args.extend([OsStr::new("--model-path"), checkpoint.as_os_str()]);
    args.extend([OsStr::new("--dataset-path"), dataset.as_os_str()]);
    steady(folder.path(), args)
        .refuses(&["expected ONNX Runtime's library, found none", "nowhere: nothing there"]);
}

#[test]
fn sizes_without_files_are_exported_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["export", "onnx", "--checkpoint", "synth:tiny", "--component", "dit", "--out", "dit.onnx"];
    let run = steady(folder.path(), args).succeeds();
    assert!(run.stdout.contains("checkpoint synth:tiny of seed 42"), "{}", run.stdout);
    // It is ours to replace; a file of someone else's is not.
    steady(folder.path(), args).succeeds();
    std::fs::write(folder.path().join("dit.onnx"), b"another graph").unwrap();
    steady(folder.path(), args).refuses(&["dit.onnx", "no output of steady"]);
    let shown = steady(folder.path(), ["inspect", "checkpoint", "synth:n1.6"]).succeeds();
    assert!(shown.stdout.contains("random weights") && shown.stdout.contains("vision"), "{}", shown.stdout);
}

#[test]
fn shells_complete_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = steady(folder.path(), ["completions", shell]).succeeds().stdout;
        assert!(script.contains("html-episodes") && script.contains("calibrate"), "{shell}");
    }
}
