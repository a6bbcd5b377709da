//! `steady tune`: what it keeps, where it goes on, what it refuses.

use crate::support::{Demo, Run, Tensors, json, number, steady};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The block whose value projection is scaled up.
const BLOCK: usize = 3;
/// By what power of two: beyond fp16 for values around 1.
const POWER: i16 = 20;
/// Two of its 128 features.
const CHANNELS: [usize; 2] = [5, 40];

/// Multiplies elements of a bf16 tensor by a power of two, exactly.
fn scale(tensors: &mut Tensors, name: &str, power: i16, chosen: impl Fn(usize, &[usize]) -> bool) {
    let path = format!("action_head.model.transformer_blocks.{BLOCK}.attn1.{name}");
    let (_, shape, bytes) = tensors.get_mut(&path).expect("a tensor");
    for (index, raw) in bytes.chunks_exact_mut(2).enumerate().filter(|(index, _)| chosen(*index, shape)) {
        let bits = u16::from_le_bytes([raw[0], raw[1]]);
        let exponent = (bits >> 7 & 0xff) as i16;
        let moved = exponent + power;
        if exponent > 0 {
            assert!((1..255).contains(&moved), "{path}[{index}] leaves the range of bf16");
            raw.copy_from_slice(&(bits & 0x807f | (moved as u16) << 7).to_le_bytes());
        }
    }
}

/// The same function with values that fp16 does not hold: some rows of the value projection times 2^20, the matching
/// columns of the output projection divided by it.
fn plant(tensors: &mut Tensors) {
    let in_rows = |index: usize, shape: &[usize]| CHANNELS.contains(&(index / shape.get(1).unwrap_or(&1)));
    let in_columns = |index: usize, shape: &[usize]| CHANNELS.contains(&(index % shape[1]));
    scale(tensors, "to_v.weight", POWER, in_rows);
    scale(tensors, "to_v.bias", POWER, in_rows);
    scale(tensors, "to_out.0.weight", -POWER, in_columns);
}

/// Distance of a policy's actions from those of f32, on frames that nothing was tuned on.
fn distance(demo: &Demo, policy: &str) -> f64 {
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let engine = format!("cpu:{policy}");
    let mut args = vec!["compare", "--b", &engine, "--out", "compared", "--traj-id", "1"];
    args.extend(["--checkpoint", checkpoint.to_str().expect("UTF-8")]);
    args.extend(["--dataset", dataset.to_str().expect("UTF-8")]);
    let run = steady(demo.folder(), args).succeeds();
    let words = run.stdout.split_once("Actions: ").expect("a distance").1;
    words.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
}

fn tune_demo(demo: &Demo, options: &[&str]) -> Run {
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let mut args = vec!["tune", "--target", "cpu", "--out", "tuned", "--time-limit", "1h"];
    args.extend(["--checkpoint", checkpoint.to_str().expect("UTF-8")]);
    args.extend(["--dataset", dataset.to_str().expect("UTF-8")]);
    steady(demo.folder(), args.iter().chain(options))
}

#[test]
fn a_layer_that_overflows_is_found_and_kept() {
    let demo = Demo::copy();
    let before: Vec<f64> = ["bf16", "fp16"].map(|precision| distance(&demo, precision)).into();
    demo.rewrite_weights(plant);
    assert_eq!(distance(&demo, "bf16"), before[0], "the function in bf16 is the same");
    assert!(distance(&demo, "fp16") > 100.0 * before[1], "fp16 overflows");

    let run = tune_demo(&demo, &["--frames", "2"]).succeeds();
    let found = json(&demo.folder().join("tuned/tuning.json"));
    let block = format!("dit.block.{BLOCK}");
    let overflows = |site: &str, tensor: &str| {
        let ranges = found["ranges"].as_array().expect("findings");
        ranges.iter().any(|range| {
            range["path"] == format!("{block}.{site}")
                && range["tensor"] == tensor
                && range["format"] == "fp16"
                && range["damage"] == "overflow"
        })
    };
    for (site, tensor) in [("value", "results"), ("attention", "operands"), ("attention_output", "operands")]
    {
        assert!(overflows(site, tensor), "{site} {tensor} in {}", found["ranges"]);
    }
    assert!(run.stdout.contains(&format!("{block}.attention in bf16, not fp16")), "{}", run.stdout);

    let shown = steady(demo.folder(), ["precision", "show", "tuned/policy.toml", "--json"]);
    // The policy's calibration is of the copy, the listing's model is the demo's own.
    shown.refuses(&["calibration.json", "checkpoint: expected"]);
    let checkpoint = demo.checkpoint();
    let show = ["precision", "show", "tuned/policy.toml", "--json", "--checkpoint"];
    let shown = steady(demo.folder(), show.iter().copied().chain(checkpoint.to_str())).succeeds();
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    for path in ["attention", "attention_output"] {
        let site = format!("{block}.{path}");
        let sites = shown["sites"].as_array().expect("sites");
        let compute = &sites.iter().find(|found| found["path"] == site).expect("the site")["compute"];
        assert!(compute == "bf16" || compute == "f32", "{site}: {compute}");
    }

    let measured = |name: &str| {
        let policies = found["policies"].as_array().expect("policies");
        policies.iter().find(|policy| policy["name"] == name).expect("measured").clone()
    };
    let chosen = &found["policies"][found["chosen"].as_u64().expect("an index") as usize];
    assert!(number(&chosen["error"]) <= number(&measured("bf16")["error"]));
    assert!(number(&chosen["cost"]) < number(&measured("bf16")["cost"]));
    // On other frames the error is another; 1.2 is what the budget of 1.0 may be missed by.
    let tuned = distance(&demo, "tuned/policy.toml");
    assert!(tuned <= 1.2 * before[0], "{tuned} against {}", before[0]);

    // Without the finding the policy would be worth nothing.
    let text = fs::read_to_string(demo.folder().join("tuned/policy.toml")).expect("the policy");
    let forced = format!("{text}\n[[site]]\npattern = \"{block}.attention\"\ncompute = \"fp16\"\n");
    fs::write(demo.folder().join("tuned/forced.toml"), forced).expect("written");
    let forced = distance(&demo, "tuned/forced.toml");
    assert!(forced > 20.0 * tuned, "{forced} against {tuned}");
}

const TINY: [&str; 7] = ["tune", "--checkpoint", "synth:tiny", "--target", "cpu", "--frames", "2"];

fn tune_tiny(folder: &Path, options: &[&str]) -> Run {
    steady(folder, TINY.iter().chain(options))
}

/// Everything that a run leaves but for where it started from.
fn left(out: &Path) -> (String, Vec<String>, Value) {
    let mut names: Vec<_> = fs::read_dir(out.join("pareto"))
        .expect("policies")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    let texts = names.iter().map(|path| fs::read_to_string(path).expect("a policy")).collect();
    let mut evidence = json(&out.join("tuning.json"));
    evidence["taken_over"] = Value::Null;
    (fs::read_to_string(out.join("policy.toml")).expect("the choice"), texts, evidence)
}

#[test]
fn a_run_that_was_cut_short_goes_on_to_the_same_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    tune_tiny(folder.path(), &["--out", "whole"]).succeeds();
    let state = fs::read_to_string(whole.join("state.jsonl")).expect("the measurements");
    let lines: Vec<&str> = state.split_inclusive('\n').collect();
    assert!(lines.len() > 40, "{}", lines.len());

    // What a kill in the middle of a line leaves.
    let torn = folder.path().join("torn");
    fs::create_dir(&torn).expect("a folder");
    fs::write(torn.join("state.jsonl"), lines[..30].concat() + &lines[30][..20]).expect("written");
    let run = tune_tiny(folder.path(), &["--out", "torn"]).succeeds();
    for part in ["the last line was cut short and is dropped", "29 measurements taken over"] {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
    assert_eq!(left(&torn), left(&whole));
    assert_eq!(fs::read_to_string(torn.join("state.jsonl")).expect("read"), state);

    // A kill.
    let killed = folder.path().join("killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_steady"))
        .args(TINY)
        .args(["--out", "killed"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let measured = || fs::read_to_string(killed.join("state.jsonl")).map_or(0, |text| text.lines().count());
    while measured() < 10 && child.try_wait().expect("asked").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let run = tune_tiny(folder.path(), &["--out", "killed"]).succeeds();
    assert!(run.stderr.contains("measurements taken over"), "{}", run.stderr);
    assert_eq!(left(&killed), left(&whole));
}

#[test]
fn measurements_of_something_else_and_damaged_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("out/state.jsonl");
    let run = |options: &[&str]| {
        tune_tiny(folder.path(), &[&["--out", "out", "--time-limit", "1s"], options].concat())
    };
    run(&[]).succeeds();
    run(&["--seed", "43"]).refuses(&[
        "state.jsonl: line 1: checkpoint: expected synth:tiny of seed 43, found synth:tiny of seed 42",
    ]);
    run(&["--denoising-steps", "2"]).refuses(&["line 1: denoising_steps: expected 2, found 4"]);
    let text = fs::read_to_string(&state).expect("read");
    let second = text.lines().nth(1).expect("a measurement");
    fs::write(&state, text.replacen(second, &second[..second.len() / 2], 1)).expect("written");
    run(&[]).refuses(&["state.jsonl: line 2: expected {\"checksum\":"]);
    fs::write(&state, text.replacen("amax\":", "amax\":1", 1)).expect("written");
    run(&[]).refuses(&["state.jsonl: line 2: checksum: expected"]);
    fs::write(&state, &text).expect("written");
    run(&[]).succeeds();
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |options: &[&str], parts: &[&str]| {
        steady(folder.path(), ["tune"].iter().chain(options)).refuses(parts);
    };
    refused(&[], &["--target"]);
    let cpu = ["--target", "cpu"];
    let with = |options: &[&'static str]| [&cpu[..], options].concat();
    for budget in ["latency<=8ms", "error<=1.0x f32", "error<1x bf16", "error<=0x bf16", "error<=1x fp4"] {
        refused(&with(&["--budget", budget]), &["--budget", "error<=1.0x bf16", budget]);
    }
    refused(&with(&["--time-limit", "10"]), &["--time-limit", "90s"]);
    refused(&with(&["--frames", "0"]), &["--frames"]);
    refused(&with(&["--device", "0"]), &["--device", "--target cuda"]);
    refused(&with(&["--kernel-cache", "x"]), &["--kernel-cache", "--target cuda"]);
    refused(&with(&["--dataset", "x"]), &["--dataset-path", "--checkpoint"]);
    refused(&with(&["--checkpoint", "x"]), &["--dataset"]);
    refused(&with(&["--checkpoint", "synth:tiny", "--dataset", "x"]), &["--dataset", "synth:tiny"]);
    refused(&with(&["--checkpoint", "synth:small"]), &["synth:n1.6"]);
}
