//! Summary text, JSON shape and pictures of a small made-up evaluation.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::plot::{EpisodePlot, Panel, write_png};
use super::*;

fn episode(episode_index: usize, inference_seconds: &[f64]) -> EpisodeReport {
    EpisodeReport {
        episode_index,
        mse: 0.25,
        mae: 0.5,
        steps: 48,
        inferences: 1 + inference_seconds.len(),
        instruction: "Pick up the yellow bottle on the table.".into(),
        decoded_by: "native".to_owned(),
        plot: Some(format!("plots/episode_{episode_index:06}.png")),
        episode_load_seconds: 0.5,
        data_preparation_seconds: vec![0.001; inference_seconds.len()],
        inference_seconds: inference_seconds.to_vec(),
        groups: vec![GroupError { name: "left_arm".into(), mse: 0.25, mae: 0.5 }],
        noise_confirmed: None,
    }
}

fn report(episodes: Vec<EpisodeReport>) -> Report {
    Report {
        written_by: output::WRITTEN_BY,
        status: Status::Complete,
        episodes_asked: episodes.len(),
        failures: Vec::new(),
        engine: "cpu".into(),
        precision: "bf16".into(),
        checkpoint: "demo/checkpoint".into(),
        dataset: "demo/dataset".into(),
        embodiment_tag: "unitree_g1".into(),
        seed: 42,
        noise: None,
        steps: 200,
        action_horizon: 16,
        denoising_steps: Some(4),
        calibration: None,
        mse: Some(0.0043666),
        mae: Some(0.0390334),
        groups: GroupError::means(&episodes),
        chunking: None,
        timings: Timings::new(1.5, 0.25, &episodes, 1),
        episodes,
    }
}

fn summary(report: &Report) -> String {
    let mut text = Vec::new();
    summary::write_summary(report, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn the_summary_is_the_official_block() {
    let report = report(vec![episode(0, &[0.010, 0.020]), episode(3, &[0.030, 0.040])]);
    let expected = "
================================================================================
=== EVALUATION SUMMARY ===
================================================================================

Metrics:
  Average MSE across all trajs: 0.004367
  Average MAE across all trajs: 0.039033

================================================================================
=== DETAILED TIMING SUMMARY ===
================================================================================

Initialization:
  Model loading time:          1.5000s
  Dataset loader creation:     0.2500s

Per-Trajectory Timings (2 trajectories):
  Total episode loading:       1.0000s  (avg: 0.5000s)
  Total data preparation:      0.0040s  (avg: 0.0010s per step)
  Total inference:             0.1000s  (avg: 0.0250s per step)

Inference Statistics:
  Total inference steps:       4
  Avg inference time per step: 0.0250s
  Min inference time:          0.0100s
  Max inference time:          0.0400s
  P90 inference time:          0.0370s

Plots:
  plots/episode_000000.png
  plots/episode_000003.png
================================================================================
";
    assert_eq!(summary(&report), expected);
}

#[test]
fn statistics_of_nothing_are_not_available() {
    let text = summary(&report(vec![EpisodeReport { plot: None, ..episode(0, &[]) }]));
    for line in [
        "Total data preparation:      0.0000s  (avg: n/a)\n",
        "Total inference:             0.0000s  (avg: n/a)\n",
        "Total inference steps:       0\n",
        "Avg inference time per step: n/a\n",
        "P90 inference time:          n/a\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("NaN") && !text.contains("Plots"), "{text}");
}

#[test]
fn the_json_has_the_report_and_null_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/report.json");
    output::write_json(&path, &report(vec![episode(7, &[])])).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();

    assert_eq!(json["engine"], "cpu");
    assert_eq!(json["noise"], serde_json::Value::Null);
    assert_eq!(json["episodes"][0]["episode_index"], 7);
    assert_eq!(json["episodes"][0]["groups"][0]["name"], "left_arm");
    assert_eq!(json["timings"]["skip_timing_steps"], 1);
    let empty = serde_json::json!(
        { "steps": 0, "total": 0.0, "average": null, "min": null, "max": null, "p90": null }
    );
    assert_eq!(json["timings"]["inference"], empty);
}

/// Width, height and number of colours of a PNG file.
fn measure(path: &Path) -> (u32, u32, usize) {
    let file = std::io::BufReader::new(fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let colors: HashSet<&[u8]> = pixels.chunks_exact(3).collect();
    (info.width, info.height, colors.len())
}

fn panel<'a>(title: &str, ground_truth: &'a [f32], prediction: &'a [f32]) -> Panel<'a> {
    Panel { group: "arm", title: title.into(), state: None, ground_truth, prediction, mse: 0.0021 }
}

fn plot<'a>(panels: Vec<Panel<'a>>) -> EpisodePlot<'a> {
    EpisodePlot {
        episode_index: 1,
        instruction: "wave",
        engine: "cpu",
        precision: "f32",
        mse: 0.0021,
        mae: 0.04,
        panels,
        inference_points: &[0, 16, 32, 48],
    }
}

#[test]
fn a_picture_has_its_size_and_its_curves() {
    let folder = tempfile::tempdir().unwrap();
    let wave: Vec<f32> = (0..60).map(|step| (step as f32 / 9.0).sin()).collect();
    let late: Vec<f32> = (0..60).map(|step| (step as f32 / 9.0 - 0.3).sin()).collect();
    for count in [1, 26] {
        let path = folder.path().join(format!("{count}.png"));
        write_png(&plot((0..count).map(|_| panel("arm[0]", &wave, &late)).collect()), &path).unwrap();
        let (width, height, colors) = measure(&path);
        assert!((2400..2800).contains(&width), "{width}");
        let aspect = f64::from(width) / f64::from(height);
        assert!(aspect > 4.0 / 3.0 && aspect < 16.0 / 10.0, "{aspect}");
        assert!(colors > 100, "{colors}");
    }
}

#[test]
fn awkward_series_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("awkward.png");
    let gaps = [0.1, f32::NAN, 0.2, 0.3, f32::INFINITY, f32::NEG_INFINITY];
    let panels = vec![
        panel("constant", &[0.5; 6], &[0.5; 6]),
        panel("gaps", &[0.1, 0.1, 0.2, 0.2, 0.3, 0.3], &gaps),
        panel("nothing finite", &[f32::NAN; 6], &[f32::NAN; 6]),
        panel("the whole of f32", &[0.0; 6], &[f32::MAX, f32::MIN, 0.0, 1.0, f32::MAX, f32::MIN]),
        panel("one step", &[1.0], &[2.0]),
        panel("no step", &[], &[]),
        panel("a title that is far too long for the width of its panel, whatever its width", &gaps, &gaps),
    ];
    write_png(&plot(panels), &path).unwrap();
    assert!(measure(&path).2 > 100);
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("a file");
    fs::write(&blocked, "").unwrap();
    let path = blocked.join("plot.png");
    for result in [
        write_png(&plot(vec![panel("x", &[0.0], &[0.0])]), &path),
        output::write_json(&path, &report(vec![])),
    ] {
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(blocked.to_str().unwrap()), "{error}");
    }
    let error = format!("{:#}", write_png(&plot(vec![]), &path).unwrap_err());
    assert!(error.contains("plot.png") && error.contains("no action dimension"), "{error}");
}
