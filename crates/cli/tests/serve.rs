//! `steady serve` and clients as robots have them. They need Python with pyzmq, msgpack, msgpack-numpy and NumPy, those of
//! OpenPI websockets too (`STEADY_PYTHON`, `python3` otherwise); where those are missing, tests are ignored by name.

#[path = "cli/support.rs"]
#[allow(dead_code)] // The other tests use the rest of it.
mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::rc::Rc;
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::{Image, Observation, Policy};
use steadyhand_serve::Recording;
use support::{repo, steady};

/// Tests of `serve/client.py`, and the options of their server.
const TESTS: &[(&str, &[&str])] = &[
    ("both_dialects_and_all_forms", &[]),
    ("all_endpoints", &["--verify"]),
    ("wrong_tokens", &["--api-token-file", "token"]),
    ("damaged_requests", &[]),
    ("broken_connections", &[]),
    ("several_clients_at_once", &["--max-batch", "4", "--max-wait-ms", "5"]),
    ("requests_ahead", &[]),
    ("going_on", &[]),
    ("one_queue_for_two_engines", &["--replicas", "2"]),
    ("models_by_name", &["--models", "models.toml", "--record", "recordings"]),
    ("two_embodiments", &["--checkpoint", "two", "--embodiment-tag", "new_embodiment", "gr1"]),
    ("kill", &["--allow-kill"]),
];

/// Tests of `serve/openpi.py`, likewise; they need websockets too.
const OPENPI_TESTS: &[(&str, &[&str])] = &[
    ("openpi_clients", &["--openpi-port", "0", "--max-message-mib", "1"]),
    ("openpi_names", &["--openpi-port", "0"]),
    ("openpi_tokens", &["--openpi-port", "0", "--api-token-file", "token"]),
];

/// Tests of `serve/ros2.py`: docs/ros2_node.py.
const ROS2_TESTS: &[(&str, &[&str])] = &[("ros2_node_drives", &[]), ("ros2_node_refuses", &[])];

/// Those of `serve/openpi.py` too, with OpenPI's own client.
const OWN_CLIENT_TESTS: &[(&str, &[&str])] =
    &[("openpi_own_client", &["--openpi-port", "0", "--api-token-file", "token"])];

fn main() -> ExitCode {
    let python = std::env::var("STEADY_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = |modules: &str| {
        let import = ["-c", &format!("import {modules}")];
        let status = Command::new(&python).args(import).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let basic = "msgpack, msgpack_numpy, numpy, zmq";
    let mut tests = Vec::new();
    let websockets = format!("{basic}, websockets");
    for (script, list, modules) in [
        ("client.py", TESTS, basic.to_owned()),
        ("ros2.py", ROS2_TESTS, basic.to_owned()),
        ("openpi.py", OPENPI_TESTS, websockets.clone()),
        ("openpi.py", OWN_CLIENT_TESTS, format!("{websockets}, openpi_client.websocket_client_policy")),
    ] {
        let present = has(&modules);
        tests.extend(list.iter().map(|(name, options)| {
            let python = python.clone();
            let run = move || with_server(name, script, options, &python);
            Trial::test(*name, run).with_ignored_flag(!present)
        }));
    }
    tests.push(Trial::test("bad_options_are_refused", || {
        bad_options_are_refused();
        Ok(())
    }));
    tests.push(Trial::test("documented_servers_take_their_options", || {
        documented_servers_take_their_options();
        Ok(())
    }));
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// A server of the demo's policy, ended when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_server(name: &str, script: &str, options: &[&str], python: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("token"), "secret\n")?;
    std::fs::write(folder.path().join("expected.f32"), expected(&repo("demo/checkpoint"), "new_embodiment"))?;
    if name == "models_by_name" || name == "two_embodiments" {
        let two = folder.path().join("two");
        two_embodiments(&two)?;
        std::fs::write(folder.path().join("expected.gr1.f32"), expected(&two, "gr1"))?;
        std::fs::write(folder.path().join("models.toml"), models())?;
    }
    let mut server = Server(
        Command::new(assert_cmd::cargo::cargo_bin!("steady"))
            .args(["serve", "--engine", "cpu", "--port", "0", "--frame", "256x256"])
            .args(options)
            .current_dir(folder.path())
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?,
    );
    let (mut line, mut output) = (String::new(), BufReader::new(server.0.stdout.take().ok_or("no output")?));
    // What its clients connect to stands in the last line.
    for _ in 0..1 + usize::from(options.contains(&"--openpi-port")) {
        line.clear();
        output.read_line(&mut line)?;
    }
    let port = line
        .split(':')
        .nth(2)
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or(format!("found {line:?}"))?;
    let script = repo("crates/cli/tests/serve").join(script);
    let client = Command::new(python).arg(script).args([name, port]).arg(folder.path()).output()?;
    if !client.status.success() {
        return Err(String::from_utf8_lossy(&client.stderr).into_owned().into());
    }
    if name != "kill" {
        let told = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status()?;
        assert!(told.success());
    }
    let status = server.0.wait()?;
    let mut errors = String::new();
    server.0.stderr.take().ok_or("no errors")?.read_to_string(&mut errors)?;
    assert!(status.success() && !errors.contains("panicked"), "{status}\n{errors}");
    if name == "models_by_name" {
        // Each model has a recording of its own, of its weights and embodiment.
        for (model, tag, observations) in [("left", "new_embodiment", 4), ("right", "gr1", 4)] {
            let trace = Trace::open(folder.path().join("recordings").join(model))?;
            let recording = Recording::of(Rc::new(trace)).ok_or("no recording")?;
            assert_eq!((recording.embodiment_tag(), recording.len()), (tag, observations), "{model}");
        }
    }
    Ok(())
}

/// The demo's checkpoint with a second embodiment: the same in the model's other slot.
fn two_embodiments(folder: &Path) -> Result<(), Failed> {
    std::fs::create_dir(folder)?;
    let demo = repo("demo/checkpoint");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(demo.join(file), folder.join(file))?;
    }
    std::fs::write(folder.join("embodiment_id.json"), r#"{"new_embodiment": 0, "gr1": 1}"#)?;
    for (file, place) in
        [("processor_config.json", "/processor_kwargs/modality_configs"), ("statistics.json", "")]
    {
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(demo.join(file))?)?;
        let tags = json.pointer_mut(place).and_then(|tags| tags.as_object_mut()).ok_or("no tags")?;
        let own = tags.get("new_embodiment").ok_or("no such tag")?.clone();
        tags.insert("gr1".to_owned(), own);
        std::fs::write(folder.join(file), serde_json::to_vec(&json)?)?;
    }
    Ok(())
}

/// A file for --models: one checkpoint twice, and another one.
fn models() -> &'static str {
    r#"
[[model]]
name = "left"
checkpoint = "two"
embodiment_tag = "new_embodiment"

[[model]]
name = "small"
checkpoint = "synth:tiny"
precision = "bf16"
replicas = 2

[[model]]
name = "right"
checkpoint = "two"
embodiment_tag = "gr1"
"#
}

/// What `Policy::act` gives for the observations of `client.py`.
fn expected(checkpoint: &Path, tag: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for k in 0..4 {
        let mut policy = Policy::builder(checkpoint).embodiment_tag(tag).open().expect("opens");
        let rgb = (0..256 * 256 * 3).map(|i| ((i * 31 + k * 17) % 251) as u8).collect();
        let mut observation = Observation::new("pick up the squash")
            .with_image("ego_view", Image { width: 256, height: 256, rgb });
        let groups = [("left_arm", 7), ("right_arm", 7), ("left_hand", 6), ("right_hand", 6)];
        for (g, (group, dim)) in groups.into_iter().enumerate() {
            let value = |j: usize| ((j * 7 + k * 3 + g * 5) % 13) as f32 - 6.0;
            let values: Vec<f32> = (0..dim).map(|j| value(j) / 10.0).collect();
            observation = observation.with_state(group, values);
        }
        let chunk = policy.act(&observation).expect("acts");
        bytes
            .extend(chunk.groups.iter().flat_map(|(_, actions)| &actions.data).flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// What a service of systemd and a container start is understood: only the files of their machines are missing here.
fn documented_servers_take_their_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |file: &str, start: &str| -> String {
        let text = std::fs::read_to_string(repo(file)).expect("a file");
        let line = text.lines().find_map(|line| line.strip_prefix(start)).expect("a command");
        line.to_owned()
    };
    let unit = line("docs/steady-serve.service", "ExecStart=/usr/local/bin/steady ");
    let container: Vec<String> =
        serde_json::from_str(&line("docs/Containerfile", "CMD ")).expect("the words of a command");
    for options in [unit.split(' ').map(str::to_owned).collect(), container] {
        let at = options.iter().position(|option| option == "--api-token-file").expect("a token");
        steady(folder.path(), &options).refuses(&[&format!("{}: cannot be read", options[at + 1])]);
    }
}

fn bad_options_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |options: &[&str], words: &str| {
        steady(Path::new(folder.path()), [&["serve", "--engine", "cpu", "--port", "0"], options].concat())
            .refuses(&[words]);
    };
    refused(&["--api-token-file", "none"], "--api-token-file none: cannot be read");
    std::fs::write(folder.path().join("empty"), "\n").expect("written");
    refused(&["--api-token-file", "empty"], "expected a token in line 1");
    refused(&["--max-batch", "2", "--max-wait-ms", "NaN"], "--max-wait-ms: expected 0 to 60000");
    refused(&["--max-wait-ms", "1"], "--max-wait-ms: expected with --max-batch above 1");
    refused(&["--host", "no such host"], "--host no such host: no address");
    refused(&["--max-batch", "0"], "1..=64");
    refused(&["--max-batch", "65"], "1..=64");
    refused(&["--replicas", "0"], "1..=64");
    for (numbers, words) in [
        ("0,0", "expected each GPU once, found 0 twice"),
        ("0,", "expected numbers of GPUs, such as 0,1"),
        ("a", "expected numbers of GPUs, such as 0,1"),
    ] {
        refused(&["--device", numbers], words);
    }
    // Other commands take one.
    steady(folder.path(), ["bench", "--device", "0,1"]).refuses(&["expected the number of one GPU"]);
    refused(&["--models", "none.toml"], "--models none.toml: cannot be read");
    for (text, words) in [
        ("model = []", "model: expected at least one"),
        ("[[model]]\nname = \"a\"", "missing field `checkpoint`"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\ncolour = 1", "unknown field `colour`"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\ndevice = [0, 0]", "device: expected different numbers"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\ndevice = 1", "--device: expected with"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\nreplicas = 0", "replicas: expected 1 to 64"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\nengine = \"gpu\"", "engine: expected"),
        ("[[model]]\ncheckpoint = \"synth:tiny\"\nname = \"a/b\"", "model name: expected"),
        (
            "[[model]]\ncheckpoint = \"synth:tiny\"\n[[model]]\ncheckpoint = \"synth:tiny\"",
            "new_embodiment twice",
        ),
    ] {
        std::fs::write(folder.path().join("models.toml"), text).expect("written");
        refused(&["--models", "models.toml"], words);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = taken.local_addr().expect("an address").port().to_string();
    let run =
        steady(Path::new(folder.path()), ["serve", "--engine", "cpu", "--frame", "64x64", "--port", &port]);
    run.refuses(&["cannot be listened on"]);
}
