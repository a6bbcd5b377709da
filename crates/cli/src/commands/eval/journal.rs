//! What an evaluation keeps of every episode as soon as it is done, to go on from after it was interrupted.
//!
//! Below the folder of a run, `episodes/` has `run.json`, which says what was evaluated how, and for each episode that is
//! done its results as `episode_NNNNNN.json` and its actions as `episode_NNNNNN.safetensors`. The JSON is written last:
//! an episode that has one is done. Every file is whole or not there.

use crate::report::EpisodeReport;
use crate::report::output::{WRITTEN_BY, write_file, write_json};
use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::session::Tensors;

/// What results depend on, by name. An evaluation goes on only from one of the same.
pub type Identity = Map<String, Value>;

/// The files of one run, which no other process writes meanwhile.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    _lock: File,
}

/// One episode that is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    written_by: String,
    /// Its results.
    pub report: EpisodeReport,
    /// Its joints and inferences.
    #[serde(flatten)]
    pub layout: CurveLayout,
}

/// What the columns and rows of an episode's actions are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurveLayout {
    /// Joint groups with the names of their joints, in the order of the columns.
    pub groups: Vec<(String, Vec<String>)>,
    /// Steps at which the policy was asked.
    pub inference_points: Vec<usize>,
}

/// Actions of one episode in physical units, `[steps, joints]` row by row.
#[derive(Debug, Clone)]
pub struct Curves {
    /// Joints.
    pub columns: usize,
    /// What the policy gave.
    pub predicted: Vec<f32>,
    /// What was recorded.
    pub recorded: Vec<f32>,
    /// The recorded states, where they have the actions' dimensions.
    pub state: Option<Vec<f32>>,
}

impl Curves {
    /// One joint over time.
    pub fn column(&self, values: &[f32], index: usize) -> Vec<f32> {
        values.iter().skip(index).step_by(self.columns.max(1)).copied().collect()
    }
}

impl Journal {
    /// Opens the journal in `folder`. What an earlier evaluation left is kept where it is gone on from, and removed
    /// otherwise.
    ///
    /// # Errors
    /// Another process writes there; it cannot be written; `resume` from an evaluation of something else.
    pub fn open(folder: &Path, identity: &Identity, resume: bool) -> Result<Self> {
        let folder = folder.join("episodes");
        fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        let lock = folder.join(".lock");
        let lock = File::create(&lock).with_context(|| format!("{}: cannot be written", lock.display()))?;
        ensure!(
            lock.try_lock().is_ok(),
            "{}: another steady is evaluating into this folder",
            folder.display()
        );
        let journal = Journal { folder, _lock: lock };
        journal.remove(|name| name.ends_with(".part"))?;
        let header = journal.folder.join("run.json");
        match resume {
            true => journal.check(&header, identity)?,
            false => journal.remove(|name| name == "run.json" || name.starts_with("episode_"))?,
        }
        let mut contents = Identity::new();
        contents.insert("written_by".to_owned(), WRITTEN_BY.into());
        contents.extend(identity.clone());
        write_json(&header, &contents)?;
        Ok(journal)
    }

    /// Fails where the folder holds an evaluation of something else. One that was not begun is no error.
    fn check(&self, header: &Path, identity: &Identity) -> Result<()> {
        let Ok(text) = fs::read(header) else { return self.remove(|name| name.starts_with("episode_")) };
        let found: Identity = serde_json::from_slice(&text).with_context(|| header.display().to_string())?;
        for (name, expected) in identity {
            let found = found.get(name).unwrap_or(&Value::Null);
            ensure!(
                found == expected,
                "--resume: {}: {name}: expected {expected}, as this evaluation has, found {found}; \
                 evaluate into another --out, or without --resume",
                header.display()
            );
        }
        Ok(())
    }

    /// Removes those of the journal's own files whose names are such.
    fn remove(&self, such: impl Fn(&str) -> bool) -> Result<()> {
        let entries = fs::read_dir(&self.folder).with_context(|| self.folder.display().to_string())?;
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if such(&path.file_name().unwrap_or_default().to_string_lossy()) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    fn path(&self, episode: usize, extension: &str) -> PathBuf {
        self.folder.join(format!("episode_{episode:06}.{extension}"))
    }

    /// An episode that was done before; `None` where it has yet to be.
    pub fn done(&self, episode: usize) -> Option<Done> {
        let text = fs::read(self.path(episode, "json")).ok()?;
        self.path(episode, "safetensors").is_file().then_some(())?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps an episode. Once this returns it will not be evaluated again.
    ///
    /// # Errors
    /// A file cannot be written, as on a full disk: the episode is not done then.
    pub fn keep(&self, report: &EpisodeReport, layout: CurveLayout, curves: &Curves) -> Result<Done> {
        let bytes =
            |values: &[f32]| -> Vec<u8> { values.iter().copied().flat_map(f32::to_le_bytes).collect() };
        let mut tensors =
            vec![("predicted", bytes(&curves.predicted)), ("recorded", bytes(&curves.recorded))];
        tensors.extend(curves.state.as_deref().map(|state| ("state", bytes(state))));
        let shape = vec![curves.predicted.len() / curves.columns.max(1), curves.columns];
        let views = tensors.iter().map(|(name, bytes)| {
            Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes).context("actions as safetensors")?))
        });
        let contents =
            serialize(views.collect::<Result<Vec<_>>>()?, None).context("actions as safetensors")?;
        let episode = report.episode_index;
        write_file(&self.path(episode, "safetensors"), &contents)?;
        let done = Done { written_by: WRITTEN_BY.to_owned(), report: report.clone(), layout };
        write_json(&self.path(episode, "json"), &done)?;
        Ok(done)
    }

    /// The actions of an episode that is done.
    ///
    /// # Errors
    /// Its file is damaged or gone.
    pub fn curves(&self, episode: usize) -> Result<Curves> {
        let path = self.path(episode, "safetensors");
        let tensors = Tensors::read(&path)?;
        let (predicted, recorded) = (tensors.float("predicted")?, tensors.float("recorded")?);
        let [_, columns] = predicted.shape[..] else {
            bail!("{}: predicted: expected [steps, joints], found {:?}", path.display(), predicted.shape);
        };
        ensure!(
            predicted.shape == recorded.shape,
            "{}: predicted and recorded differ in shape",
            path.display()
        );
        let state = tensors.float("state").ok().map(|state| state.values.clone());
        Ok(Curves { columns, predicted: predicted.values.clone(), recorded: recorded.values.clone(), state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u64) -> Identity {
        Identity::from_iter([("seed".to_owned(), seed.into())])
    }

    fn report(episode_index: usize) -> EpisodeReport {
        EpisodeReport {
            episode_index,
            mse: 0.1 + 0.2,
            mae: 1e-300,
            steps: 2,
            inferences: 1,
            instruction: "pick".to_owned(),
            decoded_by: "native".to_owned(),
            plot: None,
            episode_load_seconds: 0.5,
            data_preparation_seconds: vec![],
            inference_seconds: vec![0.1],
            groups: vec![],
            noise_confirmed: None,
        }
    }

    fn keep(journal: &Journal, episode: usize) {
        let layout =
            CurveLayout { groups: vec![("arm".into(), vec!["a".into()])], inference_points: vec![0] };
        let curves = Curves { columns: 1, predicted: vec![1.0, 2.0], recorded: vec![3.0, 4.0], state: None };
        journal.keep(&report(episode), layout, &curves).unwrap();
    }

    #[test]
    fn what_is_kept_comes_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), &identity(1), false).unwrap();
        keep(&journal, 7);
        drop(journal);
        let journal = Journal::open(folder.path(), &identity(1), true).unwrap();
        let done = journal.done(7).unwrap();
        assert_eq!((done.report.mse, done.report.mae), (0.1 + 0.2, 1e-300));
        assert_eq!(journal.curves(7).unwrap().recorded, [3.0, 4.0]);
        assert!(journal.done(8).is_none());
    }

    #[test]
    fn only_the_same_evaluation_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        keep(&Journal::open(folder.path(), &identity(1), false).unwrap(), 7);
        let error = Journal::open(folder.path(), &identity(2), true).unwrap_err().to_string();
        assert!(error.contains("seed: expected 2") && error.contains("found 1"), "{error}");
        assert!(Journal::open(folder.path(), &identity(2), false).unwrap().done(7).is_none());
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Journal::open(folder.path(), &identity(1), false).unwrap();
        let error = Journal::open(folder.path(), &identity(1), true).unwrap_err().to_string();
        assert!(error.contains("another steady"), "{error}");
    }
}
