//! What is printed where nobody reads it, or where it cannot be written.

use crate::support::{Demo, repo};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Commands that print much, little, and to standard error too.
fn commands() -> Vec<Vec<String>> {
    let path = |path: &str| repo(path).to_str().expect("UTF-8").to_owned();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (checkpoint, dataset) = (path("demo/checkpoint"), path("demo/dataset"));
    vec![
        words(&format!("inspect dataset {dataset}")),
        words(&format!(
            "record --checkpoint {checkpoint} --dataset-path {dataset} --inferences 1 --out recorded"
        )),
        words(&format!("export onnx --checkpoint {checkpoint} --component dit --out dit.onnx")),
        words("precision show bf16"),
        words("doctor"),
        words("eval --checkpoint nowhere --dataset-path nowhere"),
    ]
}

fn steady(folder: &Path, args: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steady"));
    command.current_dir(folder).env("TMPDIR", folder).args(args).stdin(Stdio::null());
    command
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    for args in commands() {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            steady(folder.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let errors = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let errors: Vec<String> = errors.collect();
        let code = child.wait().unwrap().code();
        assert!(code.is_some_and(|code| code <= 2), "{args:?}: {code:?}");
        let bad = args.contains(&"nowhere".to_owned());
        assert!(errors.iter().all(|line| bad || !line.contains("rror")), "{args:?}: {errors:#?}");
        assert!(errors.iter().all(|line| !line.contains("panicked")), "{args:?}: {errors:#?}");
    }
}

#[test]
fn nobody_hears_standard_error() {
    for args in commands() {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            steady(folder.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        let code = child.wait().unwrap().code();
        assert!(code.is_some_and(|code| code <= 2), "{args:?}: {code:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    for args in commands() {
        let folder = tempfile::tempdir().unwrap();
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = steady(folder.path(), &args).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        if !args.contains(&"nowhere".to_owned()) {
            assert!(text.contains("standard output cannot be written: No space left"), "{args:?}: {text}");
        }
        let code = steady(folder.path(), &args).stdout(full()).stderr(full()).status().unwrap().code();
        assert_eq!(code, Some(2), "{args:?}");
    }
}

#[test]
fn the_demo_is_unpacked_where_nobody_else_writes() {
    let demo = Demo::copy();
    let caches = demo.folder().join("caches");
    let run = |home: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steady"));
        command.args(["precision", "show", "f32"]).env("TMPDIR", demo.folder()).env("XDG_CACHE_HOME", home);
        command.output().unwrap()
    };
    assert!(run(&caches).status.success());
    assert!(caches.join("steadyhand/demo/checkpoint/config.json").is_file());
    assert!(!demo.folder().join("steadyhand-demo").exists());
    // A place that is not the user's: a link to the files of another.
    #[cfg(unix)]
    {
        let victim = demo.folder().join("victim");
        std::fs::create_dir(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, demo.folder().join("steadyhand-demo")).unwrap();
        std::fs::write(demo.folder().join("taken"), "").unwrap();
        let refused = run(&demo.folder().join("taken/caches"));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{text}");
        assert!(text.contains("steadyhand-demo") && text.contains("TMPDIR"), "{text}");
        assert!(std::fs::read_dir(&victim).unwrap().next().is_none(), "written through a link");
    }
}

#[test]
fn files_of_others_are_refused_before_work_and_left_alone() {
    let demo = Demo::copy();
    let out = demo.folder().join("out");
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    let source = |command: &str| {
        let words = [command, "--checkpoint", checkpoint.to_str().unwrap(), "--dataset-path"];
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        words.extend([dataset.to_str().unwrap().to_owned(), "--out".to_owned()]);
        words.push(out.to_str().unwrap().to_owned());
        words
    };
    let with = |command: &str, more: &[&str]| {
        let more = more.iter().map(|word| (*word).to_owned());
        source(command).into_iter().chain(more).collect::<Vec<_>>()
    };
    let compare = with("compare", &["--b", "cpu:bf16"]);
    let diagnose = with("diagnose", &["--b", "cpu:bf16"]);
    let tune = with("tune", &["--target", "cpu"]);
    let cases = [
        (&compare, &["comparison.json", "comparison.png"][..]),
        (&diagnose, &["diagnosis.json", "diagnosis.html"]),
        (&tune, &["policy.toml", "tuning.json", "tuning.png", "calibration.json", "pareto/01-mine.toml"]),
        (&tune, &["state.jsonl"]),
    ];
    for (args, files) in cases {
        for file in files {
            let path = out.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "mine").unwrap();
            let run = steady(demo.folder(), args).output().unwrap();
            let text = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(2), "{args:?}: {text}");
            assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
            assert_eq!(std::fs::read(&path).unwrap(), b"mine");
            std::fs::remove_dir_all(&out).unwrap();
        }
        // A file in the folder's place.
        std::fs::write(&out, "mine").unwrap();
        let run = steady(demo.folder(), args).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "{args:?}");
        assert_eq!(std::fs::read(&out).unwrap(), b"mine");
        std::fs::remove_file(&out).unwrap();
    }
    let graph = demo.folder().join("policy.onnx");
    std::fs::write(demo.folder().join("policy.onnx.data"), "mine").unwrap();
    let words = ["export", "onnx", "--checkpoint", checkpoint.to_str().unwrap(), "--out"];
    let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
    args.push(graph.to_str().unwrap().to_owned());
    let run = steady(demo.folder(), &args).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("policy.onnx.data"));
    assert!(!graph.exists());
}

#[test]
fn own_outputs_are_replaced_and_no_part_is_left() {
    let demo = Demo::copy();
    let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
    for command in ["compare", "diagnose"] {
        for _ in 0..2 {
            let words = [command, "--checkpoint", checkpoint.to_str().unwrap(), "--dataset-path"];
            let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
            args.push(dataset.to_str().unwrap().to_owned());
            args.extend(["--b", "cpu:bf16", "--out", command].map(str::to_owned));
            let run = steady(demo.folder(), &args).output().unwrap();
            assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
        }
        let left = std::fs::read_dir(demo.folder().join(command)).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
