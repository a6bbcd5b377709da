//! Commands on policies that servers have: ours, and one in Python as NVIDIA's is, with recorded actions. That one needs
//! pyzmq, msgpack, msgpack-numpy and NumPy (`STEADY_PYTHON`, `python3` otherwise); where those are missing, its tests are
//! ignored by name.

#[path = "remote/server.rs"]
mod server;
#[path = "cli/support.rs"]
#[allow(dead_code)] // The other tests use the rest of it.
mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use server::Served;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use support::{Demo, json, repo, steady};

/// Servers in Python that are evaluated like the policy whose actions they have: their dialects.
const DIALECTS: [&str; 4] = ["npy", "npy-flat", "msgpack-numpy", "msgpack-numpy-flat"];
/// What is wrong with their actions, and what is said of it.
const FLAWS: [(&str, &str); 4] = [
    ("nan", "action.left_arm: expected finite values, found NaN at step 3, 0"),
    ("names", "action.left_arm: expected an array, found none; there are LEFT_ARM, RIGHT_ARM"),
    (
        "shapes",
        "action.left_arm: expected float32 or float64 [1, 16, D] or [16, D], found float32 [1, 15, 7]",
    ),
    ("lists", "action.left_arm: expected an array as .npy bytes or as msgpack-numpy has it, found a list"),
];

fn main() -> ExitCode {
    let python = std::env::var("STEADY_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imports = ["-c", "import msgpack, msgpack_numpy, numpy, zmq"];
    let imported = Command::new(&python).args(imports).stderr(Stdio::null()).status();
    let present = imported.is_ok_and(|status| status.success());
    let trial = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let mut tests = vec![
        trial("a_served_policy_is_evaluated_like_the_policy", a_served_policy_is_evaluated_like_the_policy),
        trial("what_is_no_such_server_is_told", what_is_no_such_server_is_told),
        trial("a_server_must_agree_with_the_checkpoint", a_server_must_agree_with_the_checkpoint),
        trial("chunks_that_go_on_jump_less", chunks_that_go_on_jump_less),
        trial("a_server_is_diagnosed_by_its_actions", a_server_is_diagnosed_by_its_actions),
        trial("a_recording_of_a_killed_server_is_diagnosed", a_recording_of_a_killed_server_is_diagnosed),
    ];
    let of_python = python.clone();
    let run = move || another_noise_is_not_diagnosed(&of_python);
    let of_python = python.clone();
    let drive = move || a_server_that_does_not_go_on_is_told(&of_python);
    tests.push(Trial::test("a_server_that_does_not_go_on_is_told", drive).with_ignored_flag(!present));
    tests.push(Trial::test("another_noise_is_not_diagnosed", run).with_ignored_flag(!present));
    for dialect in DIALECTS {
        let python = python.clone();
        let run = move || {
            recorded(&python, dialect, "none", |run, expected| {
                run.succeeds();
                assert_eq!(
                    errors(&json(&expected.join("served/report.json"))),
                    errors(&json(&expected.join("here/report.json")))
                );
            })
        };
        tests.push(Trial::test(format!("recorded_actions_in_{dialect}"), run).with_ignored_flag(!present));
    }
    for (flaw, words) in FLAWS {
        let python = python.clone();
        let run = move || recorded(&python, "npy", flaw, move |run, _| drop(run.refuses(&[words])));
        tests.push(Trial::test(format!("actions_with_{flaw}_are_refused"), run).with_ignored_flag(!present));
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Everything of a report that actions decide, to the bit.
fn errors(report: &Value) -> Vec<Value> {
    let mut found = vec![report["mse"].clone(), report["mae"].clone(), report["groups"].clone()];
    for episode in report["episodes"].as_array().expect("episodes") {
        for field in ["episode_index", "mse", "mae", "steps", "inferences", "instruction", "groups"] {
            found.push(episode[field].clone());
        }
    }
    found
}

/// `steady eval` of two inferences of two episodes of the demo, or of the first one alone.
fn eval(folder: &Path, out: &str, options: &[&str]) -> support::Run {
    let dataset = repo("demo/dataset");
    let dataset = dataset.to_str().expect("UTF-8");
    let both = if options.contains(&"--traj-ids") { &[][..] } else { &["--traj-ids", "0", "1"] };
    let fixed = ["eval", "--dataset-path", dataset, "--steps", "32", "--out", out, "--html-episodes", "0"];
    steady(folder, [&fixed[..], both, options].concat())
}

fn here(folder: &Path, actions: &str) -> support::Run {
    let checkpoint = repo("demo/checkpoint");
    let options =
        ["--engine", "cpu", "--model-path", checkpoint.to_str().expect("UTF-8"), "--actions", actions];
    eval(folder, "here", &options).succeeds()
}

/// Actions, errors and plots are those of the policy itself, with the noise that was asked for.
fn a_served_policy_is_evaluated_like_the_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("token"), "secret\n").expect("written");
    here(folder, "here.csv");
    let served = Served::start(folder, &["--api-token-file", "token"]);
    let port = served.port.to_string();
    let options = ["--engine", "remote", "--host", "127.0.0.1", "--port", &port, "--actions", "served.csv"];
    let run = eval(folder, "served", &[&options[..], &["--api-token", "secret"]].concat()).succeeds();
    assert!(run.stdout.contains("took that of seed 42"), "{run:#?}");
    let read = |name: &str| fs::read(folder.join(name)).expect("read");
    assert_eq!(read("here.csv"), read("served.csv"));
    let report = json(&folder.join("served/report.json"));
    assert_eq!(errors(&report), errors(&json(&folder.join("here/report.json"))));
    assert_eq!(report["episodes"][1]["noise_confirmed"], true);
    let spec = format!("remote:127.0.0.1:{port}");
    assert_eq!(report["checkpoint"], spec.as_str());
    // Without the token, and with another.
    for token in [&[][..], &["--api-token", "Secret"]] {
        let run = eval(folder, "refused", &[&["--engine", &spec], token].concat());
        run.refuses(&[&format!("127.0.0.1:{port}: get_modality_config: expected the server's api_token")]);
    }
}

fn what_is_no_such_server_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let spec = format!("remote:127.0.0.1:{port}");
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(b"SSH-2.0-OpenSSH_9.7\r\n").expect("sent");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    let run = eval(folder.path(), "out", &["--engine", &spec]);
    run.refuses(&[
        &spec[7..],
        "another protocol is spoken there",
        "ZeroMQ's greeting, found \"SSH-2.0-OpenSSH_9.7",
    ]);
    answering.join().expect("answered");
    let run = eval(folder.path(), "out", &["--engine", &spec]);
    run.refuses(&[&spec[7..], "expected a policy server, found none"]);
}

fn a_server_must_agree_with_the_checkpoint() {
    let demo = Demo::copy();
    demo.rewrite_json("processor_config.json", |config| {
        let modalities = &mut config["processor_kwargs"]["modality_configs"];
        let (_, one) = modalities.as_object_mut().expect("a map").iter_mut().next().expect("one");
        one["state"]["modality_keys"].as_array_mut().expect("keys").swap(0, 1);
    });
    let served = Served::start(demo.folder(), &[]);
    let spec = format!("remote:127.0.0.1:{}", served.port);
    let run = |checkpoint: &Path| {
        eval(demo.folder(), "out", &["--engine", &spec, "--model-path", checkpoint.to_str().expect("UTF-8")])
    };
    run(&demo.checkpoint()).refuses(&[
        &spec[7..],
        "state.modality_keys: expected [\"right_arm\",\"left_arm\",\"left_hand\",\"right_hand\"] as the checkpoint has",
    ]);
    run(&repo("demo/checkpoint")).succeeds();
}

/// Evaluates a server in Python that has the actions which the policy gave here.
fn recorded(
    python: &str,
    dialect: &str,
    flaw: &str,
    check: impl Fn(support::Run, &Path),
) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let checkpoint = repo("demo/checkpoint");
    let options =
        ["--engine", "cpu", "--model-path", checkpoint.to_str().ok_or("UTF-8")?, "--actions", "a.npz"];
    // One episode: what the server answers depends on the inference alone.
    eval(folder, "here", &[&options[..], &["--traj-ids", "0"]].concat()).succeeds();
    let script = repo("crates/cli/tests/serve/recorded_server.py");
    let mut command = Command::new(python);
    command.arg(script).args([dialect, flaw]).arg(folder.join("a.npz"));
    let served = Served::of(command, |line| line.trim().parse().ok());
    let spec = format!("remote:127.0.0.1:{}", served.port);
    let run = eval(folder, "served", &["--engine", &spec, "--traj-ids", "0"]);
    if flaw == "none" {
        let said = "did not say that it took that of seed 42";
        assert!(run.stdout.contains(said), "{run:#?}");
    }
    check(run, folder);
    Ok(())
}

/// `steady diagnose` of a served policy of the smallest size.
fn diagnosed(folder: &Path, engine: &str, options: &[&str]) -> support::Run {
    let served = Served::start(folder, &["--checkpoint", "synth:tiny", "--engine", engine]);
    let spec = format!("remote:127.0.0.1:{}", served.port);
    let fixed = ["diagnose", "--checkpoint", "synth:tiny", "--inferences", "2", "--b", &spec];
    steady(folder, [&fixed, options].concat())
}

/// Healthy servers are told from wrong ones, whatever precision they say that they run at.
fn a_server_is_diagnosed_by_its_actions() {
    let folder = tempfile::tempdir().expect("a folder");
    for engine in ["cpu", "cpu:bf16"] {
        let run = diagnosed(folder.path(), engine, &[]).succeeds();
        assert!(run.stdout.contains("NO FAULT"), "{run:#?}");
        assert!(run.stdout.contains("known in physical units: "), "{run:#?}");
    }
    let run = diagnosed(folder.path(), "fault:timestep-off-or-folded", &[]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("sees the first step's timestep in every Euler step"), "{run:#?}");
    diagnosed(folder.path(), "cpu:bf16", &["--b-precision", "f32"]).refuses(&[
        "--b-precision: expected",
        "which remote:127.0.0.1:",
        "says the engine ran at",
    ]);
    diagnosed(folder.path(), "cpu", &["--noise", "n"]).refuses(&["n"]);
}

/// Without the same noise there is nothing to hold actions against.
fn another_noise_is_not_diagnosed(python: &str) -> Result<(), Failed> {
    recorded(python, "npy", "none", |_, folder| {
        let script = repo("crates/cli/tests/serve/recorded_server.py");
        let mut command = Command::new(python);
        command.arg(script).args(["npy", "none"]).arg(folder.join("a.npz"));
        let served = Served::of(command, |line| line.trim().parse().ok());
        let spec = format!("remote:127.0.0.1:{}", served.port);
        let run = steady(folder, ["diagnose", "--inferences", "1", "--b-precision", "f32", "--b", &spec]);
        run.refuses(&[
            "the server does not say that it started from the noise",
            "expected:DIR#NAME or trace:DIR",
        ]);
    })
}

/// What a server recorded is diagnosed after it was killed, without a dataset; a planted fault is found in it.
fn a_recording_of_a_killed_server_is_diagnosed() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let served = Served::start(folder, &["--record", "healthy"]);
    let spec = format!("remote:127.0.0.1:{}", served.port);
    eval(folder, "out", &["--engine", &spec]).succeeds();
    wait_for(&folder.join("healthy"), 4);
    // The drop kills it.
    drop(served);
    let diagnose = ["diagnose", "--a", "cpu", "--b"];
    let run = steady(folder, [&diagnose[..], &["trace:healthy"]].concat()).succeeds();
    assert!(run.stdout.contains("NO FAULT") && run.stdout.contains("lie 0.00e0"), "{run:#?}");
    let compared = steady(folder, ["compare", "--b", "trace:healthy"]).succeeds();
    assert!(compared.stdout.contains("Actions: 0.000e0 apart"), "{compared:#?}");
    // What was answered, held against the dataset that was asked about.
    let checkpoint = repo("demo/checkpoint");
    let replayed = ["--engine", "trace:healthy", "--model-path", checkpoint.to_str().expect("UTF-8")];
    eval(folder, "replayed", &replayed).succeeds();
    let reports = ["out", "replayed"].map(|out| errors(&json(&folder.join(out).join("report.json"))));
    assert_eq!(reports[0], reports[1]);
    eval(folder, "refused", &[&replayed[..], &["--seed", "1"]].concat())
        .refuses(&["healthy: seed 1, episode 0, inference 0: expected a request, found none"]);
    eval(folder, "refused", &replayed[..2]).refuses(&["--checkpoint: expected that which was served"]);
    for option in ["--traj-id", "--seed"] {
        let words = [option, "1"];
        steady(folder, [&diagnose[..], &["trace:healthy"], &words].concat()).refuses(&[option, "healthy"]);
    }
    steady(folder, [&diagnose[..], &["trace:healthy", "--checkpoint", "synth:tiny"]].concat())
        .refuses(&["--checkpoint: expected that of healthy, whose weights are"]);

    let fault =
        ["--checkpoint", "synth:tiny", "--engine", "fault:timestep-off-or-folded", "--record", "wrong"];
    let served = Served::start(folder, &fault);
    let spec = format!("remote:127.0.0.1:{}", served.port);
    let asked = ["diagnose", "--checkpoint", "synth:tiny", "--inferences", "2", "--b"];
    // A comparison asks as much as a diagnosis, and searches for nothing.
    steady(folder, [&["compare"], &asked[1..], &[&spec]].concat()).succeeds();
    wait_for(&folder.join("wrong"), 2);
    drop(served);
    let run = steady(folder, [&asked[..], &["trace:wrong"]].concat());
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("sees the first step's timestep in every Euler step"), "{run:#?}");
}

/// Waits until a recording has so many observations: it is written beside the replies.
fn wait_for(folder: &Path, observations: usize) {
    let last = format!("{:03}/action_pred", observations - 1);
    for _ in 0..2000 {
        let listed = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default().contains(&last);
        if listed("manifest.json") || listed("manifest.jsonl") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no {last} in {}", folder.display());
}

/// With replies 100 ms late jumps fall to a third, also those that come behind the switch; twice the same numbers.
fn chunks_that_go_on_jump_less() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let served = Served::start(folder, &[]);
    let port = served.port.to_string();
    let drive = |out: &str, options: &[&str]| {
        let fixed = ["drive", "--port", &port, "--without-clock", "--execution-horizon", "4", "--out", out];
        steady(folder, [&fixed[..], options].concat())
    };
    for out in ["first", "second"] {
        drive(out, &["--ramp-rate", "0.1"]).succeeds();
    }
    let [first, second] = ["first", "second"].map(|out| json(&folder.join(out).join("drive.json")));
    assert_eq!(first, second);
    for field in ["jumps_fall_by", "largest_steps_fall_by"] {
        let factor = support::number(&first[field]);
        assert!((3.0..100.0).contains(&factor), "{field}: {factor}");
    }
    for course in first["courses"].as_array().expect("two") {
        assert_eq!((&course["held"], &course["delay_steps"]), (&0.into(), &3.into()));
    }
    let picture = fs::read(folder.join("first/drive.png")).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{}", picture.len());
    // Steps pass as they do for a robot.
    let clocked = ["drive", "--port", &port, "--steps", "60", "--out", "clocked"];
    steady(folder, clocked).succeeds();
    drive("refused", &["--steps", "5"]).refuses(&["--steps: expected enough for a second chunk, found 5"]);
    steady(folder, ["drive", "--port", &port, "--execution-horizon", "17"])
        .refuses(&["--execution-horizon: expected at most 16"]);
}

fn a_server_that_does_not_go_on_is_told(python: &str) -> Result<(), Failed> {
    recorded(python, "npy", "none", |_, folder| {
        let script = repo("crates/cli/tests/serve/recorded_server.py");
        let mut command = Command::new(python);
        command.arg(script).args(["npy", "none"]).arg(folder.join("a.npz"));
        let served = Served::of(command, |line| line.trim().parse().ok());
        let port = served.port.to_string();
        let drive =
            ["drive", "--port", &port, "--steps", "20", "--execution-horizon", "12", "--without-clock"];
        steady(folder, drive).refuses(&["the server does not say that it went on from the chunk before"]);
    })
}
