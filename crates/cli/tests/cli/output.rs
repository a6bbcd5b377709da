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
            assert!(text.contains("No space left"), "{args:?}: {text}");
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
