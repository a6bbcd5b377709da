//! Runs of the binary with what is not in the repository: the real tokenizer, a v3.0 recording, and Python
//! with ONNX Runtime. Each test is ignored where that is absent.

#[allow(dead_code)] // Only a part is used here.
#[path = "../cli/support.rs"]
mod support;

use libtest_mimic::{Arguments, Trial};
use std::path::Path;
use std::process::{Command, ExitCode};
use support::{Demo, has_line, inspect, last_line, numbers, repo, steady, verify};

/// A test that is ignored, by name, where its data in the folder of shared data is absent.
fn trial(name: &str, data: &str, test: fn(&Path)) -> Trial {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(data);
    let absent = !path.exists();
    let run = move || {
        assert!(!absent, "{} is absent", path.display());
        test(&path);
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(absent)
}

fn main() -> ExitCode {
    let tests = vec![
        trial("processor_goldens_hold", "tokenizer/eagle", processor_goldens_hold),
        trial("processor_goldens_of_n1_7_hold", "golden_processor_n1d7", processor_goldens_of_n1_7_hold),
        trial(
            "a_tokenizer_of_another_model_does_not_fit",
            "tokenizer/eagle",
            a_tokenizer_of_another_model_does_not_fit,
        ),
        trial(
            "a_dataset_of_another_robot_does_not_fit",
            "datasets/v3_record_test",
            a_dataset_of_another_robot_does_not_fit,
        ),
        trial("a_dataset_without_its_videos", "datasets/v3_record_test", a_dataset_without_its_videos),
        trial("model_goldens_of_n1_7_hold", "golden_n1d7", model_goldens_of_n1_7_hold),
        Trial::test("the_documented_script_runs_an_engine", || {
            the_documented_script_runs_an_engine();
            Ok(())
        })
        .with_ignored_flag(!python("import numpy, onnxruntime, safetensors")),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn processor_goldens_hold(tokenizer: &Path) {
    let goldens = repo("tests/fixtures/golden_processor");
    let run = verify(&[&goldens], &["--tokenizer", tokenizer.to_str().unwrap()]).succeeds();
    let held = run.stdout.lines().filter(|line| line.ends_with("comparisons hold")).map(numbers);
    let held: Vec<[usize; 2]> = held.collect();
    assert!(held.len() == 7 && held.iter().all(|[held, of]| held == of && *held >= 6), "{}", run.stdout);
    assert!(last_line(&run).starts_with("worst relative L2"), "{}", run.stdout);
}

fn processor_goldens_of_n1_7_hold(goldens: &Path) {
    let tokenizer = goldens.join("../tokenizer/qwen3vl");
    let run = verify(&[goldens], &["--tokenizer", tokenizer.to_str().unwrap()]).succeeds();
    let held = run.stdout.lines().filter(|line| line.ends_with("comparisons hold")).map(numbers);
    let held: Vec<[usize; 2]> = held.collect();
    assert!(held.len() >= 10 && held.iter().all(|[held, of]| held == of && *held >= 8), "{}", run.stdout);
}

/// One and two views, mixed image sizes, frames and states of the past, a model without self-attention over the features,
/// and a chunk that goes on from the one before.
fn model_goldens_of_n1_7_hold(goldens: &Path) {
    for precision in ["f32", "bf16"] {
        let run = verify(&[goldens], &["--precision", precision]).succeeds();
        let held = run.stdout.lines().filter(|line| line.ends_with("comparisons hold")).map(numbers);
        let held: Vec<[usize; 2]> = held.collect();
        assert!(held.len() == 6 && held.iter().all(|[held, of]| held == of && *held >= 2), "{}", run.stdout);
    }
}

fn a_tokenizer_of_another_model_does_not_fit(other: &Path) {
    Demo::copy().eval(&["--tokenizer", other.to_str().unwrap()]).refuses(&["input_ids"]);
}

fn a_dataset_of_another_robot_does_not_fit(dataset: &Path) {
    let demo = Demo::copy();
    let (checkpoint, dataset) = (demo.checkpoint(), dataset.to_str().unwrap());
    let args =
        ["eval", "--model-path", checkpoint.to_str().unwrap(), "--dataset-path", dataset, "--steps", "16"];
    steady(demo.folder(), args).refuses(&["v3_record_test", "group", "left_arm", "known"]);
}

fn a_dataset_without_its_videos(dataset: &Path) {
    let run = inspect("dataset", dataset).succeeds();
    has_line(&run, &["version", "v3.0"]);
    has_line(&run, &["action", "action", "6", "0..6"]);
    has_line(&run, &["front", "-", "missing"]);
    has_line(&run, &["top", "-", "missing"]);
}

/// Whether Python runs this.
fn python(code: &str) -> bool {
    let run = Command::new("python3").args(["-c", code]).output();
    run.is_ok_and(|output| output.status.success())
}

/// A foreign engine, run by the script in the documentation, is healthy; with its bytes read as another type
/// it is diagnosed without being linked to.
fn the_documented_script_runs_an_engine() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| steady(folder.path(), args);
    run(&["record", "--inferences", "2", "--out", "recorded"]).succeeds();
    let checkpoint = repo("demo/checkpoint");
    let export = ["--component", "dit", "--io-names", "nvidia", "--out", "dit.onnx", "--checkpoint"];
    run(&[&["export", "onnx"][..], &export, &[checkpoint.to_str().unwrap()]].concat()).succeeds();
    let script = Command::new("python3")
        .arg(repo("docs/run_engine.py"))
        .args(["dit.onnx", "recorded", "engine"])
        .current_dir(folder.path())
        .output()
        .expect("python3");
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    run(&["diagnose", "--b", "trace:engine", "--b-precision", "f32", "--isolated"]).succeeds();

    let misread = "import numpy as np, pathlib; from safetensors.numpy import load_file, save_file\n\
                   pathlib.Path('misread').mkdir()\n\
                   for file in pathlib.Path('engine').glob('*.safetensors'):\n    \
                   bf16 = lambda x: ((x.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)\n    \
                   read = {name: bf16(x).view(np.float16) for name, x in load_file(file).items()}\n    \
                   save_file(read, pathlib.Path('misread') / file.name)";
    let script =
        Command::new("python3").args(["-c", misread]).current_dir(folder.path()).output().expect("python3");
    assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
    let run = run(&["diagnose", "--b", "trace:misread", "--isolated"]);
    assert_eq!(run.code, 1, "{run:#?}");
    let cause = "CAUSE FOUND: the engine writes bf16 at `dit.output` and the bytes are read as fp16";
    assert!(run.stdout.starts_with(cause), "{}", run.stdout);
}
