//! `steady bench`.

use crate::support::{json, number, repo, steady};
use serde_json::Value;

/// Runs the smallest model and gives the JSON.
fn bench(options: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "--checkpoint", "synth:tiny", "--engine", "cpu", "--json", "new/bench.json"];
    let counts = ["--warmup", "1", "--iterations", "3"];
    let run = steady(folder.path(), args.iter().chain(&counts).chain(options)).succeeds();
    assert!(run.stdout.contains("end to end") && run.stdout.contains("modulation (constant)"), "{run:#?}");
    json(&folder.path().join("new/bench.json"))
}

#[test]
fn every_phase_and_stage_is_measured() {
    let report = bench(&["--workload", "W2", "--image-size", "56", "--label", "a text"]);
    let workload = &report["workload"];
    assert_eq!(workload["images"], serde_json::json!([[56, 56], [56, 56]]));
    let tokens = ["tokens", "image_tokens", "text_tokens"].map(|name| number(&workload[name]));
    assert_eq!(tokens, [48.0, 8.0, 40.0]);
    assert_eq!((&report["label"], &report["device"]), (&Value::from("a text"), &Value::Null));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    let phases = ["noise", "preprocessing", "inference", "postprocessing", "end to end"];
    assert_eq!(names(&report["latency_ms"]), phases);
    assert_eq!(names(&report["stages_ms"]).len(), 7);
    let order = ["min", "p50", "p90", "p99"];
    for entry in
        report["latency_ms"].as_array().unwrap().iter().chain(report["stages_ms"].as_array().unwrap())
    {
        let values = order.map(|name| number(&entry[name]));
        assert!(values[0] > 0.0 && values.is_sorted(), "{entry}");
    }
}

#[test]
fn options_change_the_workload() {
    let report = bench(&[
        "--views",
        "1",
        "--image-size",
        "84",
        "--text-tokens",
        "25",
        "--batch",
        "2",
        "--action-horizon",
        "8",
        "--denoising-steps",
        "2",
        "--precision",
        "f32",
    ]);
    let workload = &report["workload"];
    let sizes =
        ["batch", "tokens", "text_tokens", "action_horizon", "denoising_steps", "bytes_per_parameter"];
    assert_eq!(sizes.map(|name| number(&workload[name])), [2.0, 34.0, 25.0, 8.0, 2.0, 4.0]);
    assert_eq!(report["precision"], "f32");
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let demo = repo("demo/checkpoint").display().to_string();
    for (checkpoint, options, part) in [
        ("synth:n2", &[][..], "expected a folder or one of synth:n1.6, "),
        ("nowhere", &[], "nowhere: expected a checkpoint folder"),
        ("synth:tiny", &["--text-tokens", "3"], "--text-tokens: expected at least 18"),
        ("synth:tiny", &["--image-size", "250"], "image_size: expected a multiple of 28"),
        ("synth:tiny", &["--views", "0"], "views: expected 1 to 64"),
        ("synth:tiny", &["--embodiment-tag", "gr1"], "--embodiment-tag: expected with a checkpoint folder"),
        ("synth:tiny", &["--iterations", "0"], "--iterations"),
        (&demo, &["--views", "2"], "--views: expected with a synthetic checkpoint"),
    ] {
        steady(folder.path(), ["bench", "--checkpoint", checkpoint].iter().chain(options)).refuses(&[part]);
    }
}

/// A policy with e4m3 at one site.
const NARROW: &str = "base = \"mixed\"\n[[site]]\npattern = \"dit.block.0.fc1\"\ncompute = \"fp8_e4m3\"\n\
                      scale = \"per_tensor\"\n";

#[test]
fn policies_are_those_of_the_other_commands() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("my.toml"), NARROW).unwrap();
    std::fs::write(folder.path().join("slip.toml"), NARROW.replace("fc1", "fc3")).unwrap();
    let tiny = ["bench", "--checkpoint", "synth:tiny", "--warmup", "0", "--iterations", "1", "--precision"];
    let run = |options: &[&str]| steady(folder.path(), tiny.iter().chain(options));
    run(&["my.toml", "--engine", "cpu", "--json", "bench.json"]).succeeds();
    let report = json(&folder.path().join("bench.json"));
    assert_eq!(report["precision"], "my");
    assert_eq!(number(&report["workload"]["bytes_per_parameter"]), 1.0);

    run(&["slip.toml"]).refuses(&["slip.toml", "`dit.block.0.fc3`", "nearest are `dit.block.0.fc1`"]);
    run(&["fp4"]).refuses(&["--precision", "mixed-fp16", ".toml"]);
    let calibration = serde_json::json!({
        "checkpoint": "0", "embodiment_tag": "x", "dataset": "0", "frames": 1, "denoising_steps": 4,
        "percentile": 100.0, "amax": { "dit.block.0.fc1": 1.0 },
    });
    std::fs::write(folder.path().join("calibration.json"), calibration.to_string()).unwrap();
    let calibrated = format!("calibration = \"calibration.json\"\n{NARROW}");
    std::fs::write(folder.path().join("calibrated.toml"), calibrated).unwrap();
    run(&["calibrated.toml"])
        .refuses(&["calibration.json", "checkpoint: expected synth:tiny of seed 42, found 0"]);
}

#[test]
fn what_no_kernel_does_is_refused_before_a_gpu_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "base = \"mixed\"\n[[site]]\npattern = \"dit.block.0.fc1\"\ncompute = \"fp8_e5m2\"\n";
    std::fs::write(folder.path().join("narrow.toml"), policy).unwrap();
    let reason = "precision narrow: site `dit.block.0.fc1`: the CUDA engine cannot: compute: expected f32, bf16, fp16 \
                  or fp8_e4m3, found fp8_e5m2";
    let tiny = ["bench", "--checkpoint", "synth:tiny", "--warmup", "0", "--iterations", "1"];
    let run = |engine| {
        let options = ["--precision", "narrow.toml", "--engine", engine, "--json", "bench.json"];
        steady(folder.path(), tiny.iter().chain(&options))
    };
    run("cuda").refuses(&[reason]);
    let auto = run("auto").succeeds();
    assert!(auto.stderr.contains(&format!("engine: cpu, because cuda cannot run: {reason}")), "{auto:#?}");
    assert_eq!(json(&folder.path().join("bench.json"))["engine"], "cpu");
}

#[test]
fn a_sweep_measures_each_value_and_keeps_what_could_be_measured() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["bench", "--checkpoint", "synth:tiny", "--engine", "cpu", "--warmup", "0", "--iterations", "1"];
    let written = ["--json", "new/cost.json", "--plot", "new/cost.png"];
    let run = |sweeps: &[&str]| {
        let sweeps = sweeps.iter().flat_map(|sweep| ["--sweep", sweep]);
        steady(folder.path(), args.into_iter().chain(written).chain(sweeps))
    };
    let swept = run(&["batch=1,2", "views=3"]).succeeds();
    assert!(swept.stdout.contains("chunks/s") && swept.stderr.contains("batch 2: inference"), "{swept:#?}");
    let report = json(&folder.path().join("new/cost.json"));
    let batches = [0, 1].map(|index| &report["sweeps"][0]["points"][index]["report"]["workload"]["batch"]);
    assert_eq!(batches.map(number), [1.0, 2.0]);
    let views = &report["sweeps"][1]["points"][0]["report"]["workload"]["images"];
    assert_eq!(views.as_array().unwrap().len(), 3);
    let picture = std::fs::read(folder.path().join("new/cost.png")).unwrap();
    assert_eq!(&picture[1..4], b"PNG");

    let swept = run(&["image-size=56,57"]);
    assert_eq!(swept.code, 3, "{swept:#?}");
    let report = json(&folder.path().join("new/cost.json"));
    assert_eq!(report["sweeps"][0]["points"].as_array().unwrap().len(), 1);
    assert!(report["failures"][0]["error"].as_str().unwrap().contains("multiple of 28"), "{report}");
    run(&["image-size=57"]).refuses(&["multiple of 28"]);
    run(&["height=57"]).refuses(&["--sweep", "expected DIMENSION=VALUE"]);
    // A dimension's own option would count for nothing beside its sweep.
    for (option, value, sweep) in [("--batch", "2", "batch=1"), ("--views", "2", "views=1")] {
        let own = args.iter().copied().chain([option, value, "--sweep", sweep]);
        steady(folder.path(), own).refuses(&[option, "expected without --sweep"]);
    }
}
