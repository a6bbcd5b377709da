//! Blocks of the DiT in graphs of their own.

use crate::support::{has_line, steady};
use crate::{halved, with_demo};
use std::path::Path;
use steadyhand_fidelity::Trace;

/// The demo's eight blocks in three graphs: one that ends the cross-attention in the middle, one block alone, the rest.
const BLOCKS: [&str; 3] = ["dit.blocks.0:3", "dit.blocks.3:4", "dit.blocks.4:"];

/// Exports the DiT, or blocks of it, as `PRECISION.COMPONENT.onnx`.
fn export_dit(folder: &Path, component: &str, precision: &str) -> String {
    let file = format!("{precision}.{component}.onnx");
    let options = ["--component", component, "--precision", precision, "--products", "widened"];
    with_demo(folder, &["export", "onnx"], &[&options[..], &["--out", &file]].concat()).succeeds();
    file
}

/// One graph and three give the same bits: what passes between them is what the sites store.
pub fn blocks_run_as_the_whole_dit() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    for precision in ["f32", "fp16"] {
        let whole = export_dit(folder, "dit", precision);
        let parts = BLOCKS.map(|blocks| export_dit(folder, blocks, precision));
        let run = |files: &[String], out: &str| -> Trace {
            let files = files.iter().map(String::as_str);
            let options = ["--bindings", "recorded", "--out", out];
            steady(folder, ["engine", "run"].into_iter().chain(files).chain(options)).succeeds();
            Trace::open(folder.join(out)).expect("outputs")
        };
        let whole = run(&[whole], &format!("{precision}.whole"));
        let joined = run(&parts, &format!("{precision}.joined"));
        for step in 0..4 {
            let of = |tap: &str| format!("000/step.{step}.dit.{tap}");
            let bytes = |trace: &Trace| trace.read_bytes(&of("output")).expect("the output");
            assert_eq!(bytes(&whole), bytes(&joined), "{precision}, step {step}");
            // What lies between the graphs is judged too.
            assert!(joined.entry(&of("block.2")).is_ok() && joined.entry(&of("block.3")).is_ok());
        }
        let known = format!("trace:{precision}.joined");
        let run = steady(folder, ["diagnose", "--inferences", "1", "--isolated", "--b", &known]).succeeds();
        assert!(run.stdout.contains("NO FAULT"), "{precision}: {}", run.stdout);
    }
}

pub fn blocks_that_are_no_whole_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--inferences", "1", "--out", "recorded"]).succeeds();
    let [a, b, c] = BLOCKS.map(|blocks| export_dit(folder, blocks, "f32"));
    let overlapping = export_dit(folder, "dit.blocks.2:4", "f32");
    let narrow = export_dit(folder, "dit.blocks.3:4", "fp16");
    let options = ["--component", "dit.blocks.3:4", "--out", "other.onnx"];
    let other = ["export", "onnx", "--checkpoint", "synth:tiny"];
    steady(folder, other.iter().chain(&options)).succeeds();
    for (files, expected) in [
        (vec![&a, &c, &b], "behind f32.dit.blocks.0:3.onnx expected blocks from 3 on, found dit.blocks.4:"),
        (vec![&a, &c], "expected blocks from 3 on, found dit.blocks.4:"),
        (vec![&a, &b], "f32.dit.blocks.3:4.onnx: the last of several engines: expected the last blocks"),
        (vec![&a, &overlapping, &c], "expected blocks from 3 on, found dit.blocks.2:4"),
        (vec![&a, &narrow, &c], "precision: expected f32, as of f32.dit.blocks.0:3.onnx, found fp16"),
    ] {
        let files = files.into_iter().map(String::as_str);
        let options = ["--bindings", "recorded", "--out", "out"];
        steady(folder, ["engine", "run"].into_iter().chain(files).chain(options)).refuses(&[expected]);
    }
    let run = ["engine", "run", &a, "other.onnx", &c, "--bindings", "recorded", "--out", "out"];
    steady(folder, run).refuses(&["other.onnx: checkpoint: expected "]);
    let run = ["engine", "run", &a, "x.engine", "--bindings", "recorded", "--out", "out"];
    steady(folder, run).refuses(&["FILE: expected engines or ONNX graphs, found both"]);
    for (component, expected) in [
        ("dit.blocks.3:9", "expected some of the blocks 0:8, found 3:9"),
        ("dit.blocks.3:3", "expected some of the blocks 0:8, found 3:3"),
        ("dit.blocks.3", "expected one of vit, "),
    ] {
        with_demo(folder, &["export", "onnx"], &["--component", component, "--out", "x.onnx"])
            .refuses(&[expected]);
    }
}

/// Blocks alone, given what the reference has in front of them; and some that give what they should not.
pub fn blocks_are_judged_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    steady(folder, ["record", "--all", "--inferences", "1", "--out", "recorded"]).succeeds();
    let graph = export_dit(folder, "dit.blocks.3:6", "f32");
    steady(folder, ["engine", "run", &graph, "--bindings", "recorded", "--out", "healthy"]).succeeds();
    let diagnose =
        |known: &str| steady(folder, ["diagnose", "--inferences", "1", "--isolated", "--b", known]);
    assert!(diagnose("trace:healthy").succeeds().stdout.contains("NO FAULT"));
    halved(&folder.join("healthy"), &folder.join("wrong"));
    let run = diagnose("trace:wrong");
    let headline = run.stdout.lines().next().unwrap_or_default();
    assert!(run.code == 1 && headline.contains("`dit.block.5`"), "{headline}");
    // In their place in the policy.
    let engine = ["--b", "onnxruntime", "--onnx", &graph, "--inferences", "1"];
    let run = steady(folder, ["compare"].iter().chain(&engine)).succeeds();
    assert!(run.stdout.contains("Every tap lies within what rounding gives."), "{}", run.stdout);
    has_line(&run, &["step.3.dit.output"]);
}
