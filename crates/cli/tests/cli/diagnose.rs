//! `steady diagnose`, `record` and `faults`: causes that are known because they were put there.

use crate::support::{json, repo, steady};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use steadyhand_fidelity::format::reinterpret_bytes;
use steadyhand_fidelity::{Format, Trace, TraceWriter};

fn diagnosis(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("steady-out/diagnosis.json")).expect("written");
    serde_json::from_str(&text).expect("JSON")
}

fn diagnose(folder: &Path, engine: &str, more: &[&str]) -> (i32, Value) {
    let run = steady(folder, ["diagnose", "--b", engine].iter().chain(more));
    assert!(run.code <= 1, "{run:#?}");
    (run.code, diagnosis(folder))
}

fn expected(name: &str) -> String {
    format!("expected:{}#{name}", repo("tests/fixtures/demo_expected").display())
}

#[test]
fn a_misread_output_is_found_from_the_final_actions_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, found) = diagnose(folder.path(), &expected("misread"), &[]);
    assert_eq!((code, &found["verdict"]["status"]), (1, &"cause".into()), "{}", found["verdict"]);
    let cause = &found["hypotheses"][0];
    assert_eq!((&cause["kind"], &cause["place"]), (&"reinterpreted".into(), &"dit.output".into()));
    assert_eq!(cause["proven"], true);
    assert!(
        cause["residual"].as_f64() < Some(2.0 * found["actions"]["expected"].as_f64().expect("a number"))
    );
    let text = found["verdict"]["paragraph"].as_str().expect("a text");
    assert!(text.contains("bf16") && text.contains("fp16") && !text.contains("rounding error"), "{text}");
}

#[test]
fn the_official_results_are_healthy() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["f32", "bf16"] {
        let (code, found) = diagnose(folder.path(), &expected(name), &[]);
        assert_eq!(
            (code, &found["verdict"]["status"]),
            (0, &"no_fault".into()),
            "{name}: {}",
            found["verdict"]
        );
    }
}

#[test]
fn the_euler_split_explains_what_bf16_costs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, found) = diagnose(folder.path(), "cpu:bf16", &[]);
    assert_eq!(code, 0, "{}", found["verdict"]);
    let closure = found["euler"]["closure"].as_f64().expect("a number");
    assert!(closure < 0.1, "{closure}");
    assert_eq!(found["euler"]["steps"].as_array().map(Vec::len), Some(4));
}

#[test]
fn a_recorded_engine_is_examined_without_running_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let record = ["record", "--all", "--precision", "bf16", "--inferences", "2", "--out", "healthy"];
    steady(folder.path(), record).succeeds();
    let (code, found) = diagnose(folder.path(), "trace:healthy", &[]);
    assert_eq!((code, &found["verdict"]["status"]), (0, &"no_fault".into()), "{}", found["verdict"]);

    steady(folder.path(), ["record", "--inferences", "2", "--out", "stages"]).succeeds();
    misread_outputs(&folder.path().join("stages"), &folder.path().join("engine"));
    let (code, found) = diagnose(folder.path(), "trace:engine", &["--isolated"]);
    assert_eq!((code, &found["verdict"]["status"]), (1, &"cause".into()), "{}", found["verdict"]);
    let cause = &found["hypotheses"][0];
    assert_eq!((&cause["kind"], &cause["place"]), (&"reinterpreted".into(), &"dit.output".into()));
}

/// What an engine leaves whose bf16 outputs were read as fp16: its DiT outputs, and nothing else.
fn misread_outputs(stages: &Path, engine: &Path) {
    let trace = Trace::open(stages).expect("recorded");
    let mut writer = TraceWriter::create(engine, BTreeMap::new()).expect("a folder");
    for name in trace.names().filter(|name| name.ends_with(".dit.output")) {
        let values = trace.read(name).expect("a tensor");
        let misread = reinterpret_bytes(&values, Format::Bf16, Format::Fp16);
        writer.add(name, &trace.entry(name).expect("known").shape, &misread).expect("written");
    }
    writer.finish().expect("written");
}

#[test]
fn an_engine_that_rounds_more_than_it_says_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, found) = diagnose(folder.path(), "cpu:bf16", &["--b-precision", "f32"]);
    assert_eq!((code, &found["verdict"]["status"]), (1, &"cause".into()), "{}", found["verdict"]);
    assert_eq!(found["hypotheses"][0]["kind"], "narrow");
}

/// Weights in 8 bits move results a hundred times further than f32 rounds; declared, that is what rounding gives. A
/// trace carries the policy that it was recorded at.
#[test]
fn an_engine_is_judged_by_the_weights_that_it_declares() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let policy = "base = \"f32\"\n[[site]]\npattern = \"{language,dit}\"\nweights = \"int8_per_channel\"\n";
    fs::write(folder.join("int8.toml"), policy).expect("written");
    let status = |found: &Value| found["verdict"]["status"].as_str().expect("a status").to_owned();
    let (code, found) = diagnose(folder, "cpu:int8.toml", &["--inferences", "2"]);
    assert_eq!((code, &*status(&found)), (0, "no_fault"), "{}", found["verdict"]);
    let (code, found) = diagnose(folder, "cpu:int8.toml", &["--inferences", "2", "--b-precision", "f32"]);
    assert_eq!((code, &*status(&found) == "no_fault"), (1, false), "{}", found["verdict"]);

    let record = ["record", "--inferences", "2", "--precision", "int8.toml", "--out", "recorded"];
    steady(folder, record).succeeds();
    fs::remove_file(folder.join("int8.toml")).expect("written before");
    let (code, found) = diagnose(folder, "trace:recorded", &["--inferences", "2"]);
    assert_eq!((code, &*status(&found)), (0, "no_fault"), "{}", found["verdict"]);
    assert!(found["verdict"]["headline"].as_str().expect("a text").contains("int8"), "{}", found["verdict"]);
    let other = ["diagnose", "--inferences", "2", "--b", "trace:recorded", "--b-precision", "bf16"];
    steady(folder, other).refuses(&["--b-precision", "int8_per_channel", "found bf16"]);
}

#[test]
fn a_place_is_not_sold_as_a_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, found) = diagnose(folder.path(), "fault:one-layer-with-old-weights", &[]);
    assert_eq!((code, &found["verdict"]["status"]), (1, &"place".into()), "{}", found["verdict"]);
    let first = &found["hypotheses"][0];
    assert_eq!((&first["place"], &first["proven"]), (&"dit.block.5.fc1".into(), &false.into()));
}

#[test]
fn two_engines_are_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let compare = |engine: &str| -> Value {
        steady(folder.path(), ["compare", "--b", engine, "--inferences", "2"]).succeeds();
        let text = fs::read_to_string(folder.path().join("steady-out/comparison.json")).expect("written");
        assert!(
            fs::metadata(folder.path().join("steady-out/comparison.png")).expect("a plot").len() > 10_000
        );
        serde_json::from_str(&text).expect("JSON")
    };
    let healthy = compare("cpu:bf16");
    assert!(healthy["first_above_rounding"].is_null(), "{}", healthy["first_above_rounding"]);
    assert!(healthy["taps"].as_array().is_some_and(|taps| taps.len() > 500));
    assert_eq!(healthy["actions"]["chunk_positions"].as_array().map(Vec::len), Some(16));
    let same = compare("cpu:f32");
    assert_eq!(same["actions"]["relative_l2"], 0.0);
    let faulty = compare("fault:low-precision-softmax");
    assert_eq!(faulty["first_above_rounding"], "step.0.dit.block.5.attention");
}

/// A part of the swaps: by component, the error where only it is b's and where all but it is b's.
fn exchanged(swaps: &Value) -> BTreeMap<String, [f64; 2]> {
    let error = |swap: &Value, name: &str| swap[name].as_f64().unwrap_or(f64::INFINITY);
    let of = |swap: &Value| [error(swap, "only_b"), error(swap, "all_but_b")];
    let components = swaps["components"].as_array().expect("components").iter();
    components.map(|swap| (swap["component"].as_str().expect("a name").to_owned(), of(swap))).collect()
}

#[test]
fn exchanged_components_name_the_faulty_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let faults = [
        ("fault:bf16-read-as-fp16", "dit"),
        ("fault:norm-statistics-in-a-narrow-format", "language"),
        ("fault:channel-order-or-resize-of-the-image-wrong", "vision"),
        ("fault:output-of-the-previous-call", "dit"),
        ("fault:unpaired-noise", "noise"),
    ];
    for (fault, component) in faults {
        let (_, found) = diagnose(folder.path(), fault, &["--inferences", "2"]);
        let swaps = &found["swaps"];
        assert_eq!(swaps["located"], serde_json::json!([component]), "{fault}: {swaps}");
        let floor = swaps["floor"].as_f64().expect("a number");
        let others = exchanged(swaps).into_iter().filter(|(name, _)| name != component);
        for (name, [only_b, all_but_b]) in others {
            assert!(only_b <= floor && all_but_b > floor, "{fault}, {name}: {swaps}");
        }
    }
}

#[test]
fn exchanged_components_of_a_healthy_engine_err_as_rounding_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, found) = diagnose(folder.path(), "cpu:bf16", &["--inferences", "2", "--swaps"]);
    assert_eq!((code, &found["swaps"]["located"]), (0, &serde_json::json!([])));
    let floor = found["swaps"]["floor"].as_f64().expect("a number");
    let components = exchanged(&found["swaps"]);
    assert_eq!(components.len(), 9);
    assert!(components.values().flatten().all(|error| *error <= floor), "{}", found["swaps"]);
    assert!(components["dit"][0] > 0.0, "bf16 rounds in the dit");
    let (_, found) = diagnose(folder.path(), "cpu:bf16", &["--inferences", "2"]);
    assert!(found["swaps"].is_null(), "without an error there is nothing to look for");
}

/// Random weights of a small size, and nothing recorded to compare with.
#[test]
fn a_synthetic_policy_is_compared_and_diagnosed() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = ["--checkpoint", "synth:tiny", "--inferences", "2", "--scratch", "."];
    steady(folder.path(), ["compare", "--b", "cpu:bf16"].iter().chain(&options)).succeeds();
    let found = json(&folder.path().join("steady-out/comparison.json"));
    assert!(found["first_above_rounding"].is_null() && found["actions"]["mse_b"].is_null(), "{found}");
    assert_eq!(found["checkpoint"], "synth:tiny");
    if cfg!(target_os = "linux") {
        assert!(found["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    }
    let (code, found) = diagnose(folder.path(), "fault:erf-and-tanh-GELU-confused", &options);
    assert_eq!((code, &found["hypotheses"][0]["kind"]), (1, &"swapped-gelu".into()), "{}", found["verdict"]);
    let left =
        fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("steady-scratch")));
}

#[test]
fn what_cannot_be_examined_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |engine: &str| steady(folder.path(), ["diagnose", "--b", engine]);
    run("fault:none-such").refuses(&["expected one of", "bf16-read-as-fp16", "none-such"]);
    run("trace:none").refuses(&["none"]);
    run(&expected("tensorrt")).refuses(&["known names", "misread", "normalized_actions.tensorrt"]);
    run("gpu").refuses(&["expected cpu:PRECISION"]);
    steady(folder.path(), ["diagnose", "--isolated", "--b", "cpu:f32"]).refuses(&["--isolated"]);
    steady(folder.path(), ["diagnose", "--swaps", "--b", &expected("f32")])
        .refuses(&["--swaps", "expected:"]);
    let synthetic = |more: &[&str]| {
        let args = ["compare", "--b", "cpu:bf16", "--checkpoint", "synth:tiny"];
        steady(folder.path(), args.iter().chain(more))
    };
    synthetic(&["--traj-id", "0"]).refuses(&["--traj-id", "synth:tiny"]);
    synthetic(&["--dataset-path", "d"]).refuses(&["--dataset-path", "synth:tiny"]);
    synthetic(&["--scratch", "none/such"]).refuses(&["none/such", "--scratch"]);
}

/// Where there is no GPU, or no compiler for it, that is said.
#[test]
fn an_engine_on_a_gpu_is_healthy_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = steady(folder.path(), ["diagnose", "--b", "cuda:bf16"]);
    if run.code == 2 {
        run.refuses(&["cuda:bf16 cannot run: "]);
    } else {
        run.succeeds();
    }
}

/// The whole suite: the right cause first for every fault, and no alarm on healthy engines.
#[test]
fn known_faults_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = steady(folder.path(), ["faults"]).succeeds();
    assert!(run.stdout.contains("right cause first: 24 of 24 strong, 24 of 24 weak"), "{}", run.stdout);
    assert!(run.stdout.contains("false alarms: 0 of 22 healthy engines"), "{}", run.stdout);
}
