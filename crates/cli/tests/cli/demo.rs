//! `steady demo`: it needs nothing, and what it prints is true.

use crate::support::{json, number, steady};
use std::fs;

/// The official f32 code has 0.004357 with other noise; a policy that is wired wrongly has tens of times that.
const MAX_MSE: f64 = 0.006;

/// Lines of the printed block, in their order.
const BLOCK: [&str; 12] = [
    "=== EVALUATION SUMMARY ===",
    "Average MSE across all trajs:",
    "Average MAE across all trajs:",
    "=== DETAILED TIMING SUMMARY ===",
    "Initialization:",
    "Per-Trajectory Timings (4 trajectories):",
    "Inference Statistics:",
    "Plots:",
    "episode000_output_cpu.png",
    "episode001_output_cpu.png",
    "episode002_output_cpu.png",
    "episode003_output_cpu.png",
];

#[test]
fn the_demo_evaluates_four_episodes_and_leaves_plots_and_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let run = steady(folder.path(), ["demo", "--out", "out"]).succeeds();
    let mut rest = &run.stdout[..];
    for line in BLOCK {
        let place = rest.find(line).unwrap_or_else(|| panic!("no {line:?} in its place in {}", run.stdout));
        rest = &rest[place + line.len()..];
    }
    for episode in 0..4 {
        let plot = fs::read(folder.path().join(format!("out/episode00{episode}_output_cpu.png"))).unwrap();
        assert!(plot.starts_with(b"\x89PNG\r\n\x1a\n") && plot.len() > 50_000, "{} bytes", plot.len());
    }
    let report = json(&folder.path().join("out/report.json"));
    assert!(number(&report["mse"]) < MAX_MSE && number(&report["mse"]) > 0.0, "{}", report["mse"]);
    assert!(number(&report["mae"]).is_finite());
    assert_eq!(report["episodes"].as_array().unwrap().len(), 4);
    let printed = format!("Average MSE across all trajs: {:.6}\n", number(&report["mse"]));
    assert!(run.stdout.contains(&printed), "{printed} is not in {}", run.stdout);
}

#[test]
#[cfg(unix)]
fn the_printed_command_works_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let run = steady(folder.path(), ["demo", "--out", "it's an out"]).succeeds();
    let command = run.stdout.lines().next().unwrap();
    let report = folder.path().join("it's an out/report.json");
    let mse = json(&report)["mse"].clone();
    fs::remove_file(&report).unwrap();

    let mut path = vec![assert_cmd::cargo::cargo_bin!("steady").parent().unwrap().to_path_buf()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let shell = std::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(folder.path())
        .env("PATH", std::env::join_paths(path).unwrap())
        .output()
        .unwrap();
    assert!(shell.status.success(), "{command}: {shell:?}");
    assert_eq!(json(&report)["mse"], mse);
}

#[test]
fn a_second_demo_finds_the_files_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("steady-out/demo/checkpoint/model.safetensors");
    steady(folder.path(), ["demo"]).succeeds();
    let first = fs::metadata(&weights).unwrap().modified().unwrap();
    steady(folder.path(), ["demo", "--precision", "bf16"]).succeeds();
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), first);
    assert_eq!(json(&folder.path().join("steady-out/report.json"))["precision"], "bf16");
}
