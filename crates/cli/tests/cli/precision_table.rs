//! `steady precision table`.

use crate::support::{Demo, has_line, json, number, repo, steady};
use serde_json::Value;
use std::fs;

/// Two inferences of the demo's first episode.
const SHORT: [&str; 6] = ["precision", "table", "--traj-ids", "0", "--steps", "32"];

fn row<'a>(table: &'a Value, policy: &str) -> &'a Value {
    let rows = table["policies"].as_array().expect("rows");
    rows.iter().find(|row| row["policy"] == policy).unwrap_or_else(|| panic!("no {policy} in {table}"))
}

#[test]
fn errors_are_those_of_eval_and_compare() {
    let demo = Demo::copy();
    let folder = demo.folder();
    let written = ["--precisions", "f32,bf16,fp8", "--json", "new/table.json", "--png", "new/table.png"];
    let run = steady(folder, SHORT.iter().chain(&written)).succeeds();
    has_line(&run, &["precision", "MSE", "MAE", "error"]);
    let table = json(&folder.join("new/table.json"));
    assert!(fs::metadata(folder.join("new/table.png")).expect("a picture").len() > 1000);
    assert_eq!((number(&table["inferences"]), &table["device"]), (2.0, &Value::Null));
    assert_eq!(number(&row(&table, "f32")["emulated"]["relative_l2"]), 0.0);
    for policy in ["f32", "bf16", "fp8"] {
        let emulated = &row(&table, policy)["emulated"];
        let report = demo.report(&["--precision", policy]);
        assert_eq!((&emulated["mse"], &emulated["mae"]), (&report["mse"], &report["mae"]), "{policy}");
        let b = format!("cpu:{policy}");
        steady(folder, ["compare", "--b", &b, "--inferences", "2"]).succeeds();
        let compared = json(&folder.join("steady-out/comparison.json"));
        assert_eq!(emulated["relative_l2"], compared["actions"]["relative_l2"], "{policy}");
    }
    let groups = row(&table, "bf16")["emulated"]["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 4);
    for group in groups {
        let (p95, largest) = (number(&group["p95"]), number(&group["largest"]));
        assert!(0.0 < p95 && p95 <= largest && largest < 0.1, "{group}");
    }
}

#[test]
fn the_embedded_demo_is_evaluated_whole_and_a_dataset_as_eval_does() {
    let demo = Demo::copy();
    let noise = repo("tests/fixtures/demo_expected").display().to_string();
    let options = ["precision", "table", "--precisions", "f32", "--noise", &noise, "--json", "table.json"];
    steady(demo.folder(), options).succeeds();
    let table = json(&demo.folder().join("table.json"));
    assert_eq!(table["episodes"], serde_json::json!([0, 1, 2, 3]));
    let official = json(&repo("tests/fixtures/demo_expected/summary.json"));
    let (expected, found) =
        (number(&official["mean"]["f32"]["mse"]), number(&row(&table, "f32")["emulated"]["mse"]));
    // As `steady verify` limits an episode's.
    assert!((found - expected).abs() < 1e-5 * expected, "{found} {expected}");

    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let of = ["--checkpoint", checkpoint.to_str().unwrap(), "--dataset-path", dataset.to_str().unwrap()];
    steady(demo.folder(), options.iter().chain(&of)).succeeds();
    assert_eq!(json(&demo.folder().join("table.json"))["episodes"], serde_json::json!([0]));
}

#[test]
fn files_are_policies_too() {
    let folder = tempfile::tempdir().unwrap();
    let text = "base = \"mixed\"\n[[site]]\npattern = \"euler\"\nstorage = \"bf16\"\n";
    fs::write(folder.path().join("my.toml"), text).unwrap();
    fs::write(folder.path().join("slip.toml"), text.replace("euler", "eular")).unwrap();
    let table = |policies: &str| {
        let options = ["--precisions", policies, "--json", "table.json"];
        steady(folder.path(), SHORT.iter().chain(&options))
    };
    has_line(&table("mixed,my.toml").succeeds(), &["my"]);
    let written = json(&folder.path().join("table.json"));
    let error = |policy| number(&row(&written, policy)["emulated"]["relative_l2"]);
    assert!(error("my") > error("mixed") && error("mixed") > 0.0);
    table("mixed,slip.toml").refuses(&["slip.toml", "`eular`", "`euler`"]);
}

#[test]
fn a_policy_whose_actions_are_not_finite_is_a_row() {
    let demo = Demo::copy();
    // Beyond what fp16 holds, and well within bf16.
    demo.rewrite_weights(|tensors| {
        let (_, _, bytes) = tensors.get_mut("backbone.model.mlp1.1.weight").expect("a tensor");
        // 99840 in bf16.
        bytes.chunks_exact_mut(2).for_each(|value| value.copy_from_slice(&0x47c3u16.to_le_bytes()));
    });
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let of = ["--checkpoint", checkpoint.to_str().unwrap(), "--dataset-path", dataset.to_str().unwrap()];
    let options = ["--precisions", "fp16", "--json", "table.json"];
    let run = steady(demo.folder(), SHORT.iter().chain(&of).chain(&options)).succeeds();
    has_line(&run, &["fp16", "failed", "failed", "failed"]);
    assert!(run.stdout.contains("fp16 on cpu: "), "{}", run.stdout);
    let table = json(&demo.folder().join("table.json"));
    assert!(row(&table, "fp16")["emulated"]["failed"].is_string());
}

#[test]
fn what_needs_a_gpu_is_refused_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let table = |options: &[&str]| steady(folder.path(), SHORT.iter().chain(options));
    table(&["--latency", "synth:n1.6"]).refuses(&["--latency", "--engine cuda or auto"]);
    table(&["--engine", "cuda", "--latency", "demo"]).refuses(&["--latency", "synth:n1.6", "`demo`"]);
    table(&["--workload", "W1"]).refuses(&["--latency"]);
    table(&["--device", "0"]).refuses(&["--device", "cuda, auto"]);
    table(&["--max-ratio", "0.9"]).refuses(&["--max-ratio", "at least 1"]);
    table(&["--action-horizon", "17"]).refuses(&["action_horizon", "at most 16", "found 17"]);
    table(&["--traj-ids", "4"]).refuses(&["--traj-ids", "expected 0 to 3", "found 4"]);
    // No machine has so many GPUs.
    table(&["--engine", "cuda", "--device", "4096"]).refuses(&["open device"]);
    let measured = ["--engine", "auto", "--device", "4096", "--latency", "synth:n1.6"];
    table(&measured).refuses(&["--latency: expected a GPU"]);
    let run = table(&["--engine", "auto", "--device", "4096", "--precisions", "f32"]).succeeds();
    assert!(run.stderr.contains("engine: cpu alone, because cuda cannot run: "), "{run:#?}");
}
