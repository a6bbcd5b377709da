//! `steady eval` with several policies at the same time: what one of them alone leaves.

use crate::support::{Demo, json, number, steady, timeless};
use serde_json::Value;
use std::fs;
use std::path::Path;

const EPISODES: usize = 9;
const BROKEN: usize = 5;
const OPTIONS: [&str; 6] = ["--traj-ids", "all", "--html-episodes", "2", "--actions", "actions.csv"];

/// A copy of the demo whose dataset has many episodes, one of them broken.
fn long() -> Demo {
    let demo = Demo::copy();
    demo.repeat_episodes(EPISODES);
    fs::remove_file(demo.video(BROKEN)).unwrap();
    fs::write(demo.video(BROKEN), b"no video").unwrap();
    demo
}

/// The report, the actions and what was printed before its times.
fn left(demo: &Demo, stdout: &str) -> (Value, Vec<u8>, String) {
    let report = json(&demo.folder().join("steady-out/report.json"));
    let actions = fs::read(demo.folder().join("actions.csv")).unwrap();
    let (printed, _) = stdout.split_once("=== DETAILED TIMING").expect("a summary");
    (timeless(report), actions, printed.to_owned())
}

fn eval(demo: &Demo, more: &[&str]) -> (Value, Vec<u8>, String) {
    let run = demo.eval_here(&[&OPTIONS[..], more].concat());
    assert_eq!(run.code, 3, "{run:#?}");
    assert!(run.stderr.contains(&format!("episode {BROKEN}: skipped")), "{run:#?}");
    left(demo, &run.stdout)
}

#[test]
fn several_policies_leave_what_one_leaves() {
    let (one, three) = (long(), long());
    let expected = eval(&one, &[]);
    let found = eval(&three, &["--workers", "3"]);
    for (demo, workers) in [(&one, 1), (&three, 3)] {
        let timings = &json(&demo.folder().join("steady-out/report.json"))["timings"]["evaluating"];
        assert!(timings["workers"] == workers && number(&timings["seconds"]) > 0.0, "{timings}");
    }
    assert_eq!(expected.0["episodes"].as_array().unwrap().len(), EPISODES - 1);
    assert_eq!(expected.2, found.2);
    assert_eq!(expected.0, found.0);
    assert!(expected.1 == found.1, "other actions");
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for folder in ["steady-out", "steady-out/episodes"] {
        assert_eq!(names(&one.folder().join(folder)), names(&three.folder().join(folder)));
    }
}

/// What one left, several go on with.
#[test]
fn several_policies_go_on_with_what_one_left() {
    let (one, three) = (long(), long());
    let expected = eval(&one, &[]);
    eval(&three, &["--traj-ids", "2,5-6"]);
    assert_eq!(eval(&three, &["--workers", "3", "--resume"]).0, expected.0);
}

#[test]
fn the_first_broken_episode_ends_a_strict_evaluation() {
    let demo = long();
    let run = demo.eval_here(&[&OPTIONS[..], &["--workers", "3", "--strict"]].concat());
    let run = run.refuses(&["episode_000005.mp4"]);
    let report = json(&demo.folder().join("steady-out/report.json"));
    // Those before it are done, and what the others had at hand.
    let done: Vec<u64> = report["episodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|episode| episode["episode_index"].as_u64().unwrap())
        .collect();
    assert!(done.starts_with(&[0, 1, 2, 3, 4]) && done.is_sorted() && done.len() < EPISODES, "{done:?}");
    assert_eq!(report["status"], "interrupted", "{run:#?}");
}

#[test]
fn gpus_that_cannot_share_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let eval = |options: &[&str]| {
        let words = ["eval", "--model-path", "c", "--dataset-path", "d"];
        steady(folder.path(), [&words[..], options].concat())
    };
    let cuda = ["--engine", "cuda", "--device"];
    for twice in [&["0,1,0"][..], &["0", "1", "0"]] {
        eval(&[&cuda[..], twice].concat()).refuses(&["--device", "expected each GPU once, found 0 twice"]);
    }
    for both in [&["0,1"][..], &["0", "1"]] {
        eval(&[&cuda[..], both, &["--workers", "1"]].concat())
            .refuses(&["--workers: expected at least 2, the GPUs of --device, found 1"]);
    }
    eval(&[&cuda[..], &["0,x"]].concat()).refuses(&["--device", "x"]);
    eval(&["--engine", "cpu", "--device", "0,1"]).refuses(&["--device: expected with cuda"]);
}
