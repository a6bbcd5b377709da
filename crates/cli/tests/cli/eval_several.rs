//! `steady eval` on several checkpoints, datasets and seeds, and the files that it leaves of them.

use crate::support::{Demo, copy, json, number};
use std::fs;

#[test]
fn seeds_give_a_mean_and_a_spread() {
    let demo = Demo::copy();
    let alone = demo.report(&["--seed", "8"]);
    let run = demo.eval(&["--seed", "7", "--seeds", "3"]).succeeds();
    let report = json(&demo.folder().join("steady-out/report.json"));
    assert_eq!(report["status"], "complete");
    let runs = report["runs"].as_array().unwrap();
    let mse: Vec<f64> = runs.iter().map(|run| number(&run["mse"])).collect();
    assert_eq!((runs.len(), &runs[1]["seed"], mse[1]), (3, &8.into(), number(&alone["mse"])));
    let spread = &report["summary"][0]["mse"];
    let mean = mse.iter().sum::<f64>() / 3.0;
    let deviation = (mse.iter().map(|mse| (mse - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
    assert!((number(&spread["mean"]) / mean - 1.0).abs() < 1e-12);
    assert!((number(&spread["standard_deviation"]) / deviation - 1.0).abs() < 1e-9);
    assert!(run.stdout.contains(&format!("{mean:.6} ± {deviation:.6}")), "{}", run.stdout);
    assert!(demo.folder().join("steady-out/seed8/episode000_output_cpu.png").is_file());
}

#[test]
fn every_checkpoint_is_put_beside_the_others() {
    let demo = Demo::copy();
    copy(&demo.checkpoint(), &demo.folder().join("other"));
    copy(&demo.dataset(), &demo.folder().join("again"));
    let run =
        demo.eval_named(&["checkpoint", "other"], &["dataset", "again"], &["--actions", "a.csv"]).succeeds();
    let report = json(&demo.folder().join("steady-out/report.json"));
    let rows = report["summary"].as_array().unwrap();
    let names: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["checkpoint"], row["dataset"])).collect();
    let expected = ["checkpoint dataset", "checkpoint again", "other dataset", "other again"];
    assert_eq!(
        names,
        expected.map(|names| names.split(' ').map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(" "))
    );
    assert!(rows.iter().all(|row| row["mse"]["mean"] == rows[0]["mse"]["mean"]));
    for label in ["checkpoint-dataset", "other-again"] {
        assert!(run.stdout.contains(label), "{}", run.stdout);
        assert!(demo.folder().join(format!("a_{label}.csv")).is_file());
    }
    // One that is broken is known before any is evaluated.
    fs::remove_file(demo.folder().join("other/model.safetensors")).unwrap();
    let run = demo.eval_named(&["checkpoint", "other"], &["dataset"], &[]).refuses(&["other"]);
    assert!(!run.stdout.contains("episode 0"), "{}", run.stdout);
}

#[test]
fn actions_by_name_and_step() {
    let demo = Demo::copy();
    let report = demo.report(&["--traj-ids", "1,3", "--actions", "actions.csv"]);
    let text = fs::read_to_string(demo.folder().join("actions.csv")).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(header[..4], ["episode", "step", "inference", "predicted.left_arm[0]"]);
    assert_eq!(header.len(), 3 + 2 * 26);
    let rows: Vec<Vec<f64>> = lines
        .map(|line| line.split(',').map(|cell| f64::from(cell.parse::<f32>().unwrap())).collect())
        .collect();
    assert_eq!(rows.len(), 2 * 32);
    assert_eq!((rows[32][0], rows[32 + 17][1], rows[32 + 17][2]), (3.0, 17.0, 1.0));
    // The errors of the report are those of the file.
    let squares =
        rows[32..].iter().flat_map(|row| (3..29).map(|column| (row[column] - row[column + 26]).powi(2)));
    let mse = squares.sum::<f64>() / (32.0 * 26.0);
    assert!((mse / number(&report["episodes"][1]["mse"]) - 1.0).abs() < 1e-9, "{mse}");
    for name in ["actions.npz", "actions.parquet"] {
        demo.eval(&["--actions", name]).succeeds();
        assert!(fs::metadata(demo.folder().join(name)).unwrap().len() > 5_000);
    }
    demo.eval(&["--actions", "actions.txt"]).refuses(&["--actions", ".parquet, .csv or .npz"]);
}

#[test]
fn episodes_are_named_in_ranges_and_counted_once() {
    let demo = Demo::copy();
    let indices = |options: &[&str]| -> Vec<u64> {
        let report = demo.report(options);
        report["episodes"].as_array().unwrap().iter().map(|e| e["episode_index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indices(&["--traj-ids", "2-3", "0,2", "--steps", "16"]), [2, 3, 0]);
    assert_eq!(indices(&["--traj-ids", "1", "--traj-ids", "1", "--steps", "16"]), [1]);
    demo.eval(&["--traj-ids", "2-9"]).refuses(&["--traj-ids", "expected 0 to 3", "found 9"]);
    demo.eval(&["--traj-ids", "first"]).refuses(&["a range such as 0-3", "found `first`"]);
    demo.eval(&["--seed", "1", "--noise", "dir"]).refuses(&["--seed", "--noise"]);
}

#[test]
fn the_page_draws_the_episodes_and_their_camera() {
    let demo = Demo::copy();
    let run = demo.eval(&["--traj-ids", "0-2", "--html-episodes", "2"]).succeeds();
    assert!(run.stdout.contains("Page: steady-out/report.html"), "{}", run.stdout);
    let page = fs::read_to_string(demo.folder().join("steady-out/report.html")).unwrap();
    assert_eq!(page.matches("<section class=\"episode\"").count(), 2);
    assert_eq!(page.matches("<figure class=\"joint\">").count(), 2 * 26);
    assert_eq!(page.matches("data:image/png;base64,").count(), 2);
    assert!(page.contains("left_arm[0]") && !page.contains("NaN"));
    let run = demo.eval(&["--html-episodes", "0", "--out", "none"]).succeeds();
    assert!(!run.stdout.contains("Page:") && !demo.folder().join("none/report.html").exists());
}
