//! Long evaluations: what is done is kept whatever happens, and gone on from.

use crate::support::{Demo, Run, json, steady, timeless};
use serde_json::Value;
use std::fs;
use std::path::Path;

const EPISODES: usize = 12;
const OPTIONS: [&str; 4] = ["--traj-ids", "all", "--html-episodes", "0"];

/// A copy of the demo whose dataset has many episodes.
fn long() -> Demo {
    let demo = Demo::copy();
    demo.repeat_episodes(EPISODES);
    demo
}

fn report(demo: &Demo) -> Value {
    json(&demo.folder().join("steady-out/report.json"))
}

fn eval(demo: &Demo, more: &[&str]) -> Run {
    demo.eval(&[&OPTIONS[..], more].concat())
}

#[cfg(unix)]
mod killed {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    /// Episodes that are done.
    fn done(demo: &Demo) -> usize {
        let Ok(entries) = fs::read_dir(demo.folder().join("steady-out/episodes")) else { return 0 };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("episode_") && name.ends_with(".json")).count()
    }

    fn start(demo: &Demo, more: &[&str]) -> Child {
        Command::new(assert_cmd::cargo::cargo_bin!("steady"))
            .args(["eval", "--model-path", "checkpoint", "--dataset-path", "dataset", "--steps", "32"])
            .args(OPTIONS)
            .args(more)
            .current_dir(demo.folder())
            .env("TMPDIR", demo.folder())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Waits until so many episodes are done, or the process is.
    fn wait_for(demo: &Demo, child: &mut Child, count: usize) {
        while done(demo) < count && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn an_evaluation_that_was_killed_goes_on_where_it_was() {
        let (whole, killed) = (long(), long());
        let path = |demo: &Demo| demo.folder().display().to_string();
        whole.eval_here(&OPTIONS).succeeds();
        for (count, options) in [(1, &[][..]), (4, &["--resume"]), (5, &["--resume"]), (9, &["--resume"])] {
            let mut child = start(&killed, options);
            wait_for(&killed, &mut child, count);
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(9), "it ended before {count} episodes");
            assert!(done(&killed) >= count && done(&killed) < EPISODES);
        }
        let before = done(&killed);
        let run = killed.eval_here(&[&OPTIONS[..], &["--resume", "--actions", "a.csv"]].concat()).succeeds();
        assert!(run.stderr.contains(&format!("{before} episodes taken over")), "{}", run.stderr);
        assert_eq!(run.stdout.lines().filter(|line| line.contains(": MSE 0.")).count(), EPISODES - before);
        assert_eq!(timeless(report(&killed)), timeless(report(&whole)), "{}", path(&killed));
        // Actions of the episodes that were done before are there too.
        let rows = fs::read_to_string(killed.folder().join("a.csv")).unwrap().lines().count();
        assert_eq!(rows, 1 + EPISODES * 32);
    }

    #[test]
    fn a_signal_ends_it_with_what_is_done() {
        for (name, code) in [("-INT", 130), ("-TERM", 143)] {
            let demo = long();
            let mut child = start(&demo, &[]);
            wait_for(&demo, &mut child, 3);
            let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
            assert!(sent.success());
            assert_eq!(child.wait().unwrap().code(), Some(code));
            let report = report(&demo);
            assert_eq!(report["status"], "interrupted");
            assert_eq!(report["episodes"].as_array().unwrap().len(), done(&demo));
            assert!(done(&demo) >= 3 && done(&demo) < EPISODES);
            demo.eval_here(&[&OPTIONS[..], &["--resume"]].concat()).succeeds();
            assert_eq!(super::report(&demo)["status"], "complete");
        }
    }

    /// A folder for temporary files goes with the process, whatever it is doing.
    #[test]
    fn a_signal_removes_scratch_folders() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("steady"))
            .args(["diagnose", "--b", "cpu:bf16", "--inferences", "8", "--swaps", "--scratch", "scratch"])
            .current_dir(folder.path())
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let count = || fs::read_dir(&scratch).unwrap().count();
        while count() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(count() > 0, "it kept nothing");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        assert_eq!(count(), 0);
    }
}

#[test]
fn a_broken_episode_is_listed_and_left_out() {
    let demo = long();
    let whole = timeless(demo.report(&OPTIONS));
    fs::write(demo.video(5), b"no video").unwrap();
    let run = eval(&demo, &[]);
    assert_eq!(run.code, 3, "{run:#?}");
    assert!(run.stdout.contains("Skipped, 1 of 12 episodes:\n  episode 5: "), "{}", run.stdout);
    let partial = timeless(report(&demo));
    assert_eq!((&partial["status"], &partial["episodes_asked"]), (&"partial".into(), &12.into()));
    let episodes = |report: &Value| report["episodes"].as_array().unwrap().clone();
    let mut others = episodes(&whole);
    others.remove(5);
    assert_eq!(episodes(&partial), others);
    let failures = partial["failures"].as_array().unwrap();
    assert_eq!((failures.len(), &failures[0]["episode_index"]), (1, &5.into()));
    assert!(failures[0]["reason"].as_str().unwrap().contains("episode_000005.mp4"), "{failures:?}");

    let strict = eval(&demo, &["--strict"]).refuses(&["episode_000005.mp4"]);
    assert!(strict.stdout.contains("EVALUATION SUMMARY"), "{}", strict.stdout);
    assert_eq!(episodes(&timeless(report(&demo))), others[..5]);

    // Mended, it is all that is left to do.
    demo.repeat_episodes(EPISODES);
    eval(&demo, &[]);
    fs::write(demo.video(5), b"no video").unwrap();
    eval(&demo, &[]);
    fs::remove_file(demo.video(5)).unwrap();
    fs::copy(demo.video(1), demo.video(5)).unwrap();
    let run = eval(&demo, &["--resume"]).succeeds();
    assert!(run.stderr.contains("11 episodes taken over"), "{}", run.stderr);
    assert_eq!(timeless(report(&demo)), whole);
}

#[test]
fn another_evaluation_is_not_gone_on_with() {
    let demo = Demo::copy();
    demo.eval(&[]).succeeds();
    demo.eval(&["--resume", "--seed", "7"]).refuses(&["run.json", "seed", "expected 7", "found 42"]);
    demo.eval(&["--resume", "--steps", "16"]).refuses(&["steps", "expected 16", "found 32"]);
    // More episodes of the same are no other evaluation.
    let run = demo.eval(&["--resume", "--traj-ids", "0-2"]).succeeds();
    assert!(run.stderr.contains("1 episode taken over"), "{}", run.stderr);
}

#[test]
fn what_is_no_number_is_no_result() {
    let demo = Demo::copy();
    demo.rewrite_weights(|tensors| {
        let name = tensors.keys().find(|name| name.contains("action_decoder")).unwrap().clone();
        let (_, _, bytes) = tensors.get_mut(&name).unwrap();
        // An infinity of bf16.
        bytes[..2].copy_from_slice(&[0x80, 0x7f]);
    });
    let run = demo.eval(&["--engine", "cpu"]);
    run.refuses(&["no episode was evaluated", "action_decoder", "expected finite weights, found inf"]);
    let text = fs::read_to_string(demo.folder().join("steady-out/report.json")).unwrap();
    assert!(!text.contains("\"mse\": null") && text.contains("\"failures\""), "{text}");
}

#[test]
fn a_file_that_is_not_ours_is_not_replaced() {
    let demo = Demo::copy();
    let config = demo.checkpoint().join("config.json");
    let before = fs::read(&config).unwrap();
    for option in ["--json", "--html"] {
        demo.eval(&[option, "checkpoint/config.json"]).refuses(&["config.json", "no output of steady"]);
    }
    demo.eval(&["--actions", "dataset/data/chunk-000/episode_000000.parquet"])
        .refuses(&["episode_000000.parquet", "no output of steady"]);
    assert_eq!(fs::read(&config).unwrap(), before);
    fs::create_dir_all(demo.folder().join("steady-out")).unwrap();
    fs::write(demo.folder().join("steady-out/episode000_output_cpu.png"), b"a photograph").unwrap();
    demo.eval(&["--engine", "cpu"]).refuses(&["episode000_output_cpu.png", "no output of steady"]);
    fs::remove_file(demo.folder().join("steady-out/episode000_output_cpu.png")).unwrap();
    // What it wrote itself it replaces.
    demo.eval(&["--actions", "a.parquet"]).succeeds();
    demo.eval(&["--actions", "a.parquet"]).succeeds();
}

#[test]
fn record_refuses_a_folder_that_exists() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("there")).unwrap();
    steady(folder.path(), ["record", "--inferences", "1", "--out", "there"])
        .refuses(&["there", "expected a folder that does not exist yet"]);
}

/// A disk that is full loses nothing that was printed, and what was there before stays whole.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_keeps_what_was_printed() {
    let demo = long();
    let disk = demo.folder().join("disk");
    fs::create_dir(&disk).unwrap();
    let binary = assert_cmd::cargo::cargo_bin!("steady").display().to_string();
    // A file system of its own, in a name space where that takes no privilege.
    let script = format!(
        "mount -t tmpfs -o size=1200k tmpfs disk || exit 99\n\
         {binary} eval --model-path checkpoint --dataset-path dataset --steps 32 --out disk {} > printed 2> said\n\
         code=$?\ncp -r disk kept\nexit $code",
        OPTIONS.join(" ")
    );
    let run = |program: &mut std::process::Command| {
        program
            .current_dir(demo.folder())
            .env("TMPDIR", demo.folder())
            .output()
            .ok()
            .and_then(|o| o.status.code())
    };
    let mut spaced = std::process::Command::new("unshare");
    let code = run(spaced.args(["-rm", "sh", "-c", &script]));
    let Some(code) = code.filter(|_| !kept_nothing(demo.folder())) else {
        eprintln!("skipped: this system allows no file system of one's own (unshare -rm, mount -t tmpfs)");
        return;
    };
    let said = fs::read_to_string(demo.folder().join("said")).unwrap();
    assert!(code == 2 && said.contains("No space left"), "{code}: {said}");
    let printed = fs::read_to_string(demo.folder().join("printed")).unwrap();
    let episodes: Vec<usize> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("episode ")?.split_once(": MSE")?.0.parse().ok())
        .collect();
    assert!(!episodes.is_empty() && episodes.len() < EPISODES, "{printed}");
    for episode in episodes {
        json(&demo.folder().join(format!("kept/episodes/episode_{episode:06}.json")));
    }
    let parts = fs::read_dir(demo.folder().join("kept/episodes")).unwrap();
    assert!(
        parts.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_string_lossy().ends_with(".part"))
    );
}

#[cfg(target_os = "linux")]
fn kept_nothing(folder: &Path) -> bool {
    !folder.join("kept/episodes").is_dir()
}
