//! What the tests share: runs of the binary, places of fixtures, copies to damage.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A path from the repository's root.
pub fn repo(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository").join(path)
}

/// What a run of the binary left.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `steady` in `folder`, which also takes its temporary files.
pub fn steady<A: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = A>) -> Run {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("steady");
    let output = command
        .current_dir(folder)
        .env("TMPDIR", folder)
        .env("COLUMNS", "1000")
        .args(args)
        .output()
        .expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let run = Run {
        code: output.status.code().expect("ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!run.stderr.contains("panicked"), "{run:#?}");
    run
}

impl Run {
    /// The run did its work.
    #[track_caller]
    pub fn succeeds(self) -> Run {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// The run refused its input, with these parts in the message.
    #[track_caller]
    pub fn refuses(self, parts: &[&str]) -> Run {
        assert_eq!(self.code, 2, "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }
}

/// Runs `steady verify` on fixtures of the repository.
pub fn verify(fixtures: &[&Path], options: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = fixtures.iter().map(|path| path.as_os_str());
    let options = options.iter().map(std::ffi::OsStr::new);
    steady(folder.path(), ["verify".as_ref()].into_iter().chain(fixtures).chain(options))
}

/// The last line of a run that has lines.
pub fn last_line(run: &Run) -> &str {
    run.stdout.trim_end().lines().last().unwrap()
}

/// The two numbers of `NAME: 3 of 4 comparisons hold`.
pub fn numbers(line: &str) -> [usize; 2] {
    let words: Vec<&str> = line.split(' ').collect();
    [words[1], words[3]].map(|word| word.parse().unwrap())
}

/// Runs `steady inspect`.
pub fn inspect(what: &str, path: &Path) -> Run {
    let folder = tempfile::tempdir().unwrap();
    steady(folder.path(), ["inspect".as_ref(), what.as_ref(), path.as_os_str()])
}

/// Whether some line has these words in this order, whatever stands between them.
#[track_caller]
pub fn has_line(run: &Run, words: &[&str]) {
    let holds = |line: &str| {
        let mut rest = line.split_whitespace();
        words.iter().all(|word| rest.any(|found| found.trim_end_matches(',') == *word))
    };
    assert!(run.stdout.lines().any(holds), "no line {words:?} in {}\n{}", run.stdout, run.stderr);
}

/// A copy of the demo to damage, and a folder to run in.
pub struct Demo {
    folder: TempDir,
}

impl Demo {
    pub fn copy() -> Demo {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&repo("demo"), folder.path());
        Demo { folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    pub fn dataset(&self) -> PathBuf {
        self.folder.path().join("dataset")
    }

    pub fn video(&self, episode: usize) -> PathBuf {
        let name = format!("episode_{episode:06}.mp4");
        self.dataset().join("videos/chunk-000/observation.images.ego_view").join(name)
    }

    pub fn parquet(&self, episode: usize) -> PathBuf {
        self.dataset().join(format!("data/chunk-000/episode_{episode:06}.parquet"))
    }

    /// `steady eval` on the copy, two inferences unless the options say otherwise.
    pub fn eval(&self, options: &[&str]) -> Run {
        let (checkpoint, dataset) = (self.checkpoint(), self.dataset());
        let mut args = vec![OsStr::new("eval"), "--model-path".as_ref(), checkpoint.as_ref()];
        args.extend([OsStr::new("--dataset-path"), dataset.as_ref()]);
        if !options.contains(&"--steps") {
            args.extend(["--steps", "32"].map(OsStr::new));
        }
        args.extend(options.iter().map(OsStr::new));
        steady(self.folder(), args)
    }

    /// The same from within the folder, so that reports of several copies name the same paths.
    pub fn eval_here(&self, options: &[&str]) -> Run {
        let steps = ["--steps", "32"];
        self.eval_named(&["checkpoint"], &["dataset"], &[&steps[..], options].concat())
    }

    /// `steady eval` of these checkpoints on these datasets, below the copy's folder.
    pub fn eval_named(&self, checkpoints: &[&str], datasets: &[&str], options: &[&str]) -> Run {
        let steps: &[&str] = if options.contains(&"--steps") { &[] } else { &["--steps", "32"] };
        let words = [&["eval", "--model-path"], checkpoints, &["--dataset-path"], datasets, steps, options];
        steady(self.folder(), words.concat())
    }

    /// Makes a dataset of many episodes of the four.
    pub fn repeat_episodes(&self, count: usize) {
        let meta = self.dataset().join("meta");
        let text = fs::read_to_string(meta.join("episodes.jsonl")).expect("read");
        let four: Vec<Value> =
            text.lines().take(4).map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let mut lines = String::new();
        for episode in 0..count {
            let mut line = four[episode % 4].clone();
            line["episode_index"] = episode.into();
            lines += &format!("{line}\n");
            if episode >= 4 {
                fs::copy(self.video(episode % 4), self.video(episode)).expect("copied");
                fs::copy(self.parquet(episode % 4), self.parquet(episode)).expect("copied");
            }
        }
        fs::write(meta.join("episodes.jsonl"), lines).expect("written");
        let mut info = json(&meta.join("info.json"));
        info["total_episodes"] = count.into();
        fs::write(meta.join("info.json"), info.to_string()).expect("written");
    }

    /// The report of such a run.
    #[track_caller]
    pub fn report(&self, options: &[&str]) -> Value {
        self.eval(options).succeeds();
        json(&self.folder().join("steady-out/report.json"))
    }

    /// Changes the weights.
    pub fn rewrite_weights(&self, change: impl FnOnce(&mut Tensors)) {
        let path = self.checkpoint().join("model.safetensors");
        let mut tensors = read_tensors(&path);
        change(&mut tensors);
        write_tensors(&path, &tensors);
    }

    /// Changes a JSON file of the checkpoint.
    pub fn rewrite_json(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.checkpoint().join(name);
        let mut value = json(&path);
        change(&mut value);
        fs::write(path, value.to_string()).expect("written");
    }
}

pub fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// A number of a report.
#[track_caller]
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// A report without what differs from run to run: times.
pub fn timeless(mut report: Value) -> Value {
    let remove = |value: &mut Value, names: &[&str]| {
        let fields = value.as_object_mut().expect("an object");
        fields.retain(|name, _| !names.contains(&name.as_str()));
    };
    remove(&mut report, &["timings"]);
    for episode in report["episodes"].as_array_mut().expect("episodes") {
        remove(episode, &["episode_load_seconds", "data_preparation_seconds", "inference_seconds"]);
    }
    report
}

/// Cuts a file to `part` of its length.
pub fn truncate(path: &Path, part: f64) {
    let contents = fs::read(path).expect("read");
    fs::write(path, &contents[..(contents.len() as f64 * part) as usize]).expect("written");
}

/// Copies a folder; the copy may be written to whatever the original allows.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => fs::write(target, fs::read(path).expect("read")).expect("written"),
        }
    }
}

/// Tensors by name: element type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub fn read_tensors(path: &Path) -> Tensors {
    let contents = fs::read(path).expect("read");
    let parsed = SafeTensors::deserialize(&contents).expect("safetensors");
    parsed
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}
