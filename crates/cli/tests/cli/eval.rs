//! `steady eval`: its numbers, and what each option changes in them.

use crate::support::{Demo, json, number, repo};

/// How far an episode's MSE may be from that of the official f32 code on the same noise.
const MSE_TOLERANCE: f64 = 1e-3;

#[test]
fn recorded_noise_reproduces_the_official_errors() {
    let demo = Demo::copy();
    let noise = repo("tests/fixtures/demo_expected");
    let options = ["--noise", noise.to_str().unwrap(), "--steps", "200", "--traj-ids", "0", "1", "2", "3"];
    let report = demo.report(&options);
    let official = json(&noise.join("summary.json"));
    assert_eq!(report["noise"], noise.to_str().unwrap());
    for episode in report["episodes"].as_array().unwrap() {
        let name = format!("episode_{:06}", episode["episode_index"].as_u64().unwrap());
        for error in ["mse", "mae"] {
            let (found, expected) = (number(&episode[error]), number(&official[&name]["f32"][error]));
            let change = (found - expected).abs() / expected;
            assert!(change < MSE_TOLERANCE, "{name}: {error} is {found}, official {expected}");
        }
    }
    let mean = number(&official["mean"]["f32"]["mse"]);
    assert!((number(&report["mse"]) - mean).abs() / mean < MSE_TOLERANCE);
}

#[test]
fn options_may_be_written_with_underscores() {
    let demo = Demo::copy();
    let dashes = demo.report(&["--traj-ids", "1", "--action-horizon", "8", "--denoising-steps", "2"]);
    let underscores = demo.report(&[
        "--traj_ids",
        "1",
        "--action_horizon=8",
        "--denoising_steps",
        "2",
        "--embodiment_tag=NEW_EMBODIMENT",
    ]);
    assert_eq!(dashes["mse"], underscores["mse"]);
    assert_eq!(underscores["embodiment_tag"], "new_embodiment");
}

#[test]
fn the_seed_alone_decides_the_noise() {
    let demo = Demo::copy();
    let mse = |options: &[&str]| number(&demo.report(options)["mse"]);
    let first = mse(&["--seed", "7"]);
    assert_eq!(mse(&["--seed", "7"]), first);
    assert_ne!(mse(&["--seed", "8"]), first);
    assert_eq!(mse(&[]), mse(&["--seed", "42"]));
}

#[test]
fn an_episode_does_not_depend_on_those_before_it() {
    let demo = Demo::copy();
    let alone = demo.report(&["--traj-ids", "2"]);
    let after = demo.report(&["--traj-ids", "0", "2"]);
    assert_eq!(after["episodes"][1]["episode_index"], 2);
    assert_eq!(after["episodes"][1]["mse"], alone["episodes"][0]["mse"]);
}

#[test]
fn steps_bound_the_episode() {
    let demo = Demo::copy();
    for (steps, evaluated, inferences) in [("1", 1, 1), ("17", 17, 2), ("1000", 260, 17)] {
        let report = demo.report(&["--traj-ids", "2", "--steps", steps]);
        let episode = &report["episodes"][0];
        assert_eq!((&episode["steps"], &episode["inferences"]), (&evaluated.into(), &inferences.into()));
        assert_eq!(report["steps"].to_string(), steps);
    }
}

#[test]
fn the_action_horizon_sets_how_often_the_policy_is_asked() {
    let demo = Demo::copy();
    let (long, short) = (demo.report(&[]), demo.report(&["--action-horizon", "5"]));
    assert_eq!((&long["action_horizon"], &long["episodes"][0]["inferences"]), (&16.into(), &2.into()));
    assert_eq!((&short["action_horizon"], &short["episodes"][0]["inferences"]), (&5.into(), &7.into()));
    assert_eq!(short["episodes"][0]["steps"], 32);
    assert_ne!(long["mse"], short["mse"]);
}

#[test]
fn denoising_steps_change_the_actions() {
    let demo = Demo::copy();
    let (four, one) = (demo.report(&[]), demo.report(&["--denoising-steps", "1"]));
    assert_eq!((&four["denoising_steps"], &one["denoising_steps"]), (&4.into(), &1.into()));
    assert_ne!(four["mse"], one["mse"]);
}

#[test]
fn the_precision_changes_the_actions_a_little() {
    let demo = Demo::copy();
    let reference = demo.report(&[]);
    for precision in ["bf16", "fp16", "mixed"] {
        let report = demo.report(&["--precision", precision]);
        assert_eq!(report["precision"], precision);
        let change = (number(&report["mse"]) / number(&reference["mse"]) - 1.0).abs();
        assert!(change > 0.0 && change < 0.05, "{precision}: the MSE changes by {change}");
    }
}

#[test]
fn the_errors_of_the_groups_make_up_the_whole() {
    let report = Demo::copy().report(&[]);
    let episode = &report["episodes"][0];
    let dims = [("left_arm", 7.0), ("right_arm", 7.0), ("left_hand", 6.0), ("right_hand", 6.0)];
    for error in ["mse", "mae"] {
        let groups = episode["groups"].as_array().unwrap().iter().zip(dims);
        let sum: f64 = groups
            .map(|(group, (name, dim))| {
                assert_eq!(group["name"], name);
                number(&group[error]) * dim
            })
            .sum();
        let whole = number(&episode[error]);
        assert!((sum / 26.0 / whole - 1.0).abs() < 1e-6, "{error}: {sum} of 26 dims, {whole}");
    }
}

#[test]
fn skipped_inferences_are_run_but_not_timed() {
    let demo = Demo::copy();
    for (skip, timed) in [("0", 4), ("1", 2), ("9", 0)] {
        let report = demo.report(&["--skip-timing-steps", skip, "--traj-ids", "0", "1"]);
        let inference = &report["timings"]["inference"];
        assert_eq!(inference["steps"], timed);
        assert_eq!(report["episodes"][0]["inferences"], 2);
        assert_eq!(inference["average"].is_null(), timed == 0);
        let prepared = &report["episodes"][1]["data_preparation_seconds"];
        assert_eq!(prepared.as_array().unwrap().len(), timed / 2);
    }
    let run = demo.eval(&["--skip-timing-steps", "9"]).succeeds();
    assert!(run.stdout.contains("n/a") && !run.stdout.contains("NaN"), "{}", run.stdout);
}
