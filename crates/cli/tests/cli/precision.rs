//! `steady precision`, and TOML files wherever a precision is asked for.

use crate::support::{Demo, has_line, json, number, repo, steady};
use serde_json::Value;
use std::fs;

/// The example in the documentation.
fn example() -> String {
    let page = fs::read_to_string(repo("docs/PRECISION.md")).expect("the page");
    let behind = page.split_once("```toml file=my.toml\n").expect("an example").1;
    behind.split_once("```").expect("its end").0.to_owned()
}

fn printed(run: &crate::support::Run) -> Value {
    serde_json::from_str(&run.stdout).expect("JSON")
}

#[test]
fn the_documented_example_runs_with_a_calibration() {
    let demo = Demo::copy();
    let folder = demo.folder();
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let of = [
        "--checkpoint",
        checkpoint.to_str().expect("UTF-8"),
        "--dataset-path",
        dataset.to_str().expect("UTF-8"),
    ];
    fs::write(folder.join("my.toml"), example()).expect("written");
    demo.eval(&["--precision", "my.toml"]).refuses(&["calibration.json"]);

    let calibrate = ["precision", "calibrate", "--frames", "4", "--out", "calibration.json"];
    let run = steady(folder, calibrate.iter().chain(&of)).succeeds();
    assert!(run.stdout.contains("96 sites, 4 frames, 4 Euler steps"), "{}", run.stdout);
    let calibration = json(&folder.join("calibration.json"));
    assert_eq!(calibration["embodiment_tag"], "new_embodiment");
    assert!(number(&calibration["amax"]["dit.block.2.fc1"]) > 0.0);

    let report = demo.report(&["--precision", "my.toml"]);
    assert_eq!(report["precision"], "my");
    assert_eq!(
        (&report["calibration"]["stale"], &report["calibration"]["frames"]),
        (&false.into(), &4.into())
    );
    assert!(number(&report["mse"]).is_finite());

    let show = ["precision", "show", "my.toml"];
    let run = steady(folder, show.iter().chain(&of)).succeeds();
    has_line(&run, &["dit.block.{2..7}.fc1", "linear", "f32", "fp8_e4m3", "f32", "per_channel", "to"]);
    has_line(&run, &["dit.block.{0..1}.fc1", "linear", "f32", "bf16", "f32", "-", "-"]);
    has_line(&run, &["language.layer.*.gate", "linear", "f32", "fp16", "fp16", "-", "-"]);
    has_line(&run, &["dit.norm_out", "layer_norm", "f32", "-", "f32", "-", "-"]);

    // Another dataset, then other weights.
    fs::write(dataset.join("meta/more.json"), "{}").expect("written");
    let hash = calibration["dataset"].as_str().expect("a hash");
    let stale = ["calibration.json", "dataset: expected", hash];
    steady(folder, show.iter().chain(&of)).refuses(&stale);
    demo.eval(&["--precision", "my.toml"]).refuses(&stale);
    let compare = ["compare", "--b", "cpu:my.toml", "--inferences", "1"];
    let table = ["precision", "table", "--precisions", "my.toml", "--steps", "16", "--json", "table.json"];
    let allow = ["--allow-stale-calibration"];
    for command in [&compare[..], &table] {
        steady(folder, command.iter().chain(&of)).refuses(&stale);
        let run = steady(folder, command.iter().chain(&of).chain(&allow)).succeeds();
        assert_eq!(run.stderr.matches("stale calibration, as allowed").count(), 1, "{run:#?}");
    }
    assert_eq!(json(&folder.join("table.json"))["policies"][0]["calibration"]["stale"], true);
    let report = demo.report(&["--precision", "my.toml", "--allow-stale-calibration"]);
    assert_eq!(
        (&report["calibration"]["stale"], &report["calibration"]["dataset"]),
        (&true.into(), &hash.into())
    );
    assert_eq!(demo.report(&["--allow-stale-calibration"])["calibration"], Value::Null);
    fs::remove_file(dataset.join("meta/more.json")).expect("removed");
    demo.rewrite_weights(|tensors| {
        let (_, _, bytes) = tensors.values_mut().next().expect("a tensor");
        bytes[0] ^= 1;
    });
    let fingerprint = calibration["checkpoint"].as_str().expect("a fingerprint");
    demo.eval(&["--precision", "my.toml"]).refuses(&[
        "calibration.json",
        "checkpoint: expected",
        fingerprint,
    ]);
}

#[test]
fn calibrations_that_cannot_be_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |options: &[&str], parts: &[&str]| {
        let base = ["precision", "calibrate", "--out", "c.json"];
        steady(folder.path(), base.iter().chain(options)).refuses(parts);
    };
    refused(&["--percentile", "0"], &["--percentile", "above 0"]);
    refused(&["--percentile", "101"], &["--percentile", "at most 100"]);
    refused(&["--frames", "0"], &["--frames"]);
    refused(&["--traj-ids", "9"], &["--traj-ids", "0 to 3", "found 9"]);
    refused(&["--checkpoint", "x"], &["--checkpoint", "--dataset-path", "neither"]);
}

#[test]
fn every_preset_evaluates_the_demo() {
    let demo = Demo::copy();
    for precision in ["f32", "bf16", "fp16", "mixed", "mixed-fp16", "fp8"] {
        let report = demo.report(&["--precision", precision]);
        assert_eq!(report["precision"], precision);
        // The official f32 code has 0.004357 over all episodes.
        assert!(number(&report["mse"]) < 0.02, "{precision}: {}", report["mse"]);
    }
}

#[test]
fn sites_are_listed_for_machines_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = printed(&steady(folder.path(), ["precision", "show", "fp8", "--json"]).succeeds());
    let sites = shown["sites"].as_array().expect("sites");
    assert_eq!((sites.len(), &shown["activation_scales"]), (227, &"dynamic".into()));
    let site = |path: &str| sites.iter().find(|site| site["path"] == path).expect("a site");
    let fc1 = site("dit.block.7.fc1");
    assert_eq!((&fc1["operation"], &fc1["compute"]), (&"linear".into(), &"fp8_e4m3".into()));
    assert_eq!((&fc1["scale"], &fc1["amax"]), (&"per_channel".into(), &Value::Null));
    assert_eq!((&site("euler")["compute"], &site("euler")["storage"]), (&Value::Null, &"f32".into()));
    let all = steady(folder.path(), ["precision", "show", "fp8", "--all"]).succeeds();
    has_line(&all, &["dit.block.7.fc1", "linear", "f32", "fp8_e4m3"]);

    fs::write(
        folder.path().join("b.toml"),
        "base = \"mixed\"\n[[site]]\npattern = \"dit.block.{3..4}\"\nstorage = \"bf16\"\naccumulate = \"bf16\"\n\
         [[site]]\npattern = \"dit.block.*.{modulation,query,key,value,attention_output,fc1,fc2}\"\naccumulate = \"f32\"\n",
    )
    .expect("written");
    let diff = ["precision", "diff", "mixed", "b.toml"];
    let run = steady(folder.path(), diff).succeeds();
    has_line(&run, &["dit.block.{3..4}.norm1", "layer_norm", "f32", "bf16", "f32", "bf16"]);
    // A gelu sums nothing: its accumulation format is no difference.
    has_line(&run, &["dit.block.{3..4}.gelu", "activation", "f32", "→", "bf16", "-", "-"]);
    let found = printed(&steady(folder.path(), diff.iter().chain(&["--json"])).succeeds());
    let differing = found["sites"].as_array().expect("sites");
    assert!(differing.iter().all(|site| site["path"].as_str().expect("a path").starts_with("dit.block.")));
    assert!(run.stdout.contains(&format!("{} of 227 sites", differing.len())), "{}", run.stdout);
    assert_eq!(
        (&differing[0]["a"]["storage"], &differing[0]["b"]["storage"]),
        (&"f32".into(), &"bf16".into())
    );
    let text = "base = \"mixed\"\n[[site]]\npattern = \"dit.block\"\nweights = \"int8_per_channel\"\n";
    for (name, rest) in [("w8", ""), ("w8a8", "activations = \"int8_per_token\"\n")] {
        fs::write(folder.path().join(name).with_extension("toml"), text.to_owned() + rest).expect("written");
    }
    let run = steady(folder.path(), ["precision", "diff", "w8.toml", "w8a8.toml"]).succeeds();
    let weights = ["int8_per_channel", "→", "int8_per_channel", "by", "int8_per_token"];
    has_line(&run, &[&["dit.block.*.fc1"], &weights[..], &["-", "→", "dynamic"]].concat());
    let same = steady(folder.path(), ["precision", "diff", "mixed", "mixed"]).succeeds();
    assert!(same.stdout.contains("0 of 227"), "{}", same.stdout);
}

#[test]
fn a_policy_file_is_taken_wherever_a_precision_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "base = \"bf16\"\n[[site]]\npattern = \"euler\"\nstorage = \"f32\"\n";
    fs::write(folder.path().join("mine.toml"), text).expect("written");
    fs::write(folder.path().join("slip.toml"), text.replace("euler", "eular")).expect("written");
    let run = |args: &[&str]| steady(folder.path(), args);
    run(&["compare", "--b", "cpu:mine.toml", "--inferences", "1"]).succeeds();
    run(&["diagnose", "--b", "cpu:mine.toml", "--b-precision", "mine.toml", "--inferences", "1"]).succeeds();
    run(&["record", "--precision", "mine.toml", "--inferences", "1", "--out", "recorded"]).succeeds();
    let checkpoint = repo("demo/checkpoint");
    let export = |policy: &str| {
        let model = checkpoint.to_str().expect("UTF-8");
        run(&[
            "export",
            "onnx",
            "--component",
            "dit",
            "--checkpoint",
            model,
            "--precision",
            policy,
            "--out",
            "x.onnx",
        ])
    };
    export("mine.toml").succeeds();
    export("fp8").refuses(&["precision fp8", "site `dit.block.0.key` (linear)", "scale"]);
    let slip = ["slip.toml", "`eular`", "`euler`"];
    export("slip.toml").refuses(&slip);
    run(&["compare", "--b", "cpu:slip.toml"]).refuses(&slip);
    run(&["record", "--precision", "slip.toml", "--out", "other"]).refuses(&slip);
    run(&["faults", "--precision", "slip.toml"]).refuses(&slip);
    run(&["demo", "--precision", "slip.toml"]).refuses(&slip);
    run(&["precision", "show", "absent.toml"]).refuses(&["absent.toml"]);
    // The command's old name.
    run(&["policy", "show", "fp4"]).refuses(&["expected one of", "mixed-fp16", ".toml", "`fp4`"]);
}
