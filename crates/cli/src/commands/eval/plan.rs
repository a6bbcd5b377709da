//! What is evaluated: every checkpoint on every dataset with every seed.

use super::args::EvalArgs;
use super::journal::Identity;
use crate::report::output::WRITTEN_BY;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use steadyhand_gr00t::session::NoiseSource;

/// One checkpoint on one dataset from one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Place of the checkpoint among those that were named.
    pub checkpoint: usize,
    /// Place of the dataset among those that were named.
    pub dataset: usize,
    /// Of the noise, unless it was recorded.
    pub seed: u64,
    /// What tells it from the others, as a file's name may hold it; `None` where it is the only one.
    pub label: Option<String>,
}

impl Run {
    /// All runs, those of one checkpoint together.
    ///
    /// # Errors
    /// As [`EvalArgs::subjects`].
    pub fn all(args: &EvalArgs) -> Result<Vec<Run>> {
        let (checkpoints, datasets) = (short_names(&args.subjects()?), short_names(&args.dataset_path));
        let mut runs = Vec::new();
        for (checkpoint, of_checkpoint) in checkpoints.iter().enumerate() {
            for (dataset, of_dataset) in datasets.iter().enumerate() {
                for seed in args.seed..=args.seed + (args.seeds - 1) {
                    let parts = [
                        (checkpoints.len() > 1).then(|| of_checkpoint.clone()),
                        (datasets.len() > 1).then(|| of_dataset.clone()),
                        (args.seeds > 1).then(|| format!("seed{seed}")),
                    ];
                    let label = parts.into_iter().flatten().collect::<Vec<_>>().join("-");
                    let label = Some(label).filter(|label| !label.is_empty());
                    runs.push(Run { checkpoint, dataset, seed, label });
                }
            }
        }
        Ok(runs)
    }

    /// Where its noise comes from.
    pub fn noise(&self, args: &EvalArgs) -> NoiseSource {
        args.noise.clone().map_or(NoiseSource::Seed(self.seed), NoiseSource::Recorded)
    }

    /// Where its episodes are kept.
    pub fn folder(&self, args: &EvalArgs) -> PathBuf {
        args.out.join(self.label.as_deref().unwrap_or_default())
    }

    /// What its results depend on. `engine` is what runs, `precision` its formats; those of a server are its own.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn identity(&self, args: &EvalArgs, tag: &str, engine: &str, precision: &str) -> Result<Identity> {
        let checkpoint = args.checkpoint.get(self.checkpoint);
        let dataset = &args.dataset_path[self.dataset];
        let path = |path: &PathBuf| Value::from(absolute(path));
        let noise = args.noise.as_ref();
        let fields = [
            ("program", WRITTEN_BY.into()),
            ("checkpoint", checkpoint.map_or(Value::Null, path)),
            ("checkpoint_files", checkpoint.map_or(Ok(Value::Null), |folder| files(folder))?),
            ("dataset", path(dataset)),
            ("dataset_files", files(&dataset.join("meta"))?),
            ("embodiment_tag", tag.into()),
            ("tokenizer", args.tokenizer.as_ref().map_or(Value::Null, path)),
            ("engine", engine.into()),
            ("precision", precision.into()),
            ("seed", noise.map_or_else(|| self.seed.into(), |_| Value::Null)),
            ("noise", noise.map_or(Value::Null, path)),
            ("steps", args.steps.into()),
            ("action_horizon", args.action_horizon.into()),
            ("video_decoder", args.video.decoder().name().into()),
            ("denoising_steps", args.denoising_steps().into()),
            ("skip_timing_steps", args.skip_timing_steps.into()),
        ];
        Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

fn absolute(path: &Path) -> String {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// The files of a folder with their lengths and the times of their last change: cheaper than reading what may be
/// gigabytes, and different wherever a file was replaced.
fn files(folder: &Path) -> Result<Value> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let path = entry.path();
        let data = fs::metadata(&path).with_context(|| path.display().to_string())?;
        if data.is_file() {
            let changed = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let changed = changed.map_or(0, |time| time.as_nanos());
            found.push(format!("{}, {} bytes, {changed}", entry.file_name().to_string_lossy(), data.len()));
        }
    }
    found.sort();
    Ok(found.into())
}

/// The last part of each path, with a number where another has the same.
pub fn short_names(paths: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        let whole = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let name = whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned();
        let taken = |name: &String| names.contains(name);
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = [name.clone()].into_iter().chain(numbered).find(|name| !taken(name));
        names.push(free.unwrap_or(name));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::words_of;

    fn args(words: &[&str]) -> EvalArgs {
        words_of(words.iter().map(Into::into)).unwrap()
    }

    #[test]
    fn every_checkpoint_meets_every_dataset_and_seed() {
        let both = args(&["--checkpoint", "a/x", "b/x", "--dataset", "d", "--seeds", "2", "--seed", "7"]);
        let labels: Vec<_> = Run::all(&both).unwrap().into_iter().filter_map(|run| run.label).collect();
        assert_eq!(labels, ["x-seed7", "x-seed8", "x-2-seed7", "x-2-seed8"]);
        let one = Run::all(&args(&["--checkpoint", "a", "--dataset", "d"])).unwrap();
        assert_eq!(one, [Run { checkpoint: 0, dataset: 0, seed: 42, label: None }]);
        let served = ["--engine", "remote:robot:5555", "--dataset", "d", "--seeds", "2"];
        let labels: Vec<_> =
            Run::all(&args(&served)).unwrap().into_iter().filter_map(|run| run.label).collect();
        assert_eq!(labels, ["seed42", "seed43"]);
    }
}
