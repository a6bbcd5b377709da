//! Where `steady eval` leaves plots and JSON.

use crate::support::{Demo, json, number, repo};
use std::path::Path;

#[track_caller]
fn is_png(path: &Path) {
    let contents = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(contents.starts_with(b"\x89PNG\r\n\x1a\n"), "{}", path.display());
}

#[test]
fn everything_goes_below_out() {
    let demo = Demo::copy();
    let run = demo.eval(&["--out", "a/b"]).succeeds();
    is_png(&demo.folder().join("a/b/episode000_output_cpu.png"));
    let report = json(&demo.folder().join("a/b/report.json"));
    assert_eq!(report["episodes"][0]["plot"], "a/b/episode000_output_cpu.png");
    assert!(run.stdout.contains("a/b/episode000_output_cpu.png"), "{}", run.stdout);
    assert!(!demo.folder().join("steady-out").exists());
}

#[test]
fn the_json_goes_where_it_is_told() {
    let demo = Demo::copy();
    let run = demo.eval(&["--json", "numbers/of.json"]).succeeds();
    assert_eq!(json(&demo.folder().join("numbers/of.json"))["seed"], 42);
    assert!(run.stdout.contains("JSON: numbers/of.json"), "{}", run.stdout);
    assert!(!demo.folder().join("steady-out/report.json").exists());
}

#[test]
fn a_plot_file_is_written_as_named() {
    let demo = Demo::copy();
    demo.eval(&["--save-plot-path", "plots/mine.png"]).succeeds();
    is_png(&demo.folder().join("plots/mine.png"));
    assert!(!demo.folder().join("steady-out/episode000_output_cpu.png").exists());
}

#[test]
fn several_episodes_add_their_number_to_a_plot_file() {
    let demo = Demo::copy();
    demo.eval(&["--save-plot-path", "mine.png", "--traj-ids", "1", "3"]).succeeds();
    is_png(&demo.folder().join("mine_episode001.png"));
    is_png(&demo.folder().join("mine_episode003.png"));
    assert!(!demo.folder().join("mine.png").exists());
}

#[test]
fn a_plot_folder_takes_a_file_an_episode() {
    let demo = Demo::copy();
    demo.eval(&["--save-plot-path", "plots", "--traj-ids", "1", "3"]).succeeds();
    is_png(&demo.folder().join("plots/episode001_output_cpu.png"));
    is_png(&demo.folder().join("plots/episode003_output_cpu.png"));
}

#[test]
fn episodes_before_a_failure_are_still_reported() {
    let demo = Demo::copy();
    std::fs::remove_file(demo.video(0)).unwrap();
    let run =
        demo.eval(&["--traj-ids", "1", "0", "2", "--strict"]).refuses(&["episode_000000.mp4", "missing"]);
    assert!(run.stdout.contains("EVALUATION SUMMARY"), "{}", run.stdout);
    let report = json(&demo.folder().join("steady-out/report.json"));
    assert_eq!(report["episodes"].as_array().unwrap().len(), 1);
    assert_eq!(report["episodes"][0]["episode_index"], 1);
}

#[test]
#[cfg(unix)]
fn a_reader_that_goes_away_is_no_panic() {
    let demo = Demo::copy();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let golden = repo("tests/fixtures/golden/one_view").display().to_string();
    for command in [
        "demo --engine cpu",
        "eval --model-path checkpoint --dataset-path dataset --steps 1 --engine cpu",
        "inspect dataset dataset",
        &format!("verify {golden}"),
    ] {
        let output = std::process::Command::new(assert_cmd::cargo::cargo_bin!("steady"))
            .args(command.split(' '))
            .current_dir(demo.folder())
            .stdout(writer.try_clone().unwrap())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        // Quiet, but no success either: what was asked for did not arrive.
        assert!(output.status.code() == Some(1) && stderr.is_empty(), "{command}: {stderr}");
    }
}

/// By joint group, and only where it was asked for; an evaluation that was gone on with has every episode in it.
#[test]
fn chunks_are_measured_where_that_is_asked_for() {
    let demo = Demo::copy();
    let options = ["--engine", "cpu", "--action-horizon", "8", "--traj-ids", "0", "1"];
    demo.eval(&options).succeeds();
    let path = demo.folder().join("steady-out/report.json");
    assert!(json(&path).get("chunking").is_none());
    let run = demo.eval(&[&options[..], &["--chunking", "--resume"]].concat()).succeeds();
    assert!(run.stdout.contains("Chunk after chunk"), "{}", run.stdout);
    let report = json(&path);
    let groups = report["chunking"].as_array().expect("groups");
    assert_eq!(groups.len(), 4);
    for group in groups {
        let [jump, step] = [&group["boundary_jump"], &group["step"]["predicted"]].map(number);
        assert!(jump > step && step > 0.0, "{group}");
        assert!(number(&group["error_of_last_row"]) > 0.0, "{group}");
    }
    // A single chunk jumps to nothing.
    demo.eval(&["--engine", "cpu", "--steps", "8", "--chunking"]).succeeds();
    let report = json(&path);
    assert!(report["chunking"][0]["boundary_jump"].is_null(), "{report}");
}
