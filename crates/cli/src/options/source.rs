//! Where the policy comes from and what it is shown.

use super::demo::{self, Demo};
use super::video::VideoArgs;
use crate::output::note;
use anyhow::{Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::Session;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::session::{self, Stale};

/// Of synthetic weights where no option names a seed.
const SEED: u64 = 42;

/// A checkpoint and a dataset.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Checkpoint folder, the embedded demo's otherwise. compare, diagnose, record and tune also take synth:n1.6 and
    /// synth:n1.7, random weights of the published sizes on observations of random pixels, and synth:tiny and
    /// synth:tiny-n1.7, very small models.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// LeRobot dataset folder (v2.0, v2.1 or v3.0); the embedded demo's otherwise.
    #[arg(long, visible_alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
    /// Embodiment tag; may be left out where the checkpoint has only one.
    #[arg(long, value_name = "TAG")]
    pub embodiment_tag: Option<String>,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub video: VideoArgs,
}

impl SourceArgs {
    /// Whether neither checkpoint nor dataset is named.
    pub fn is_demo(&self) -> bool {
        self.checkpoint.is_none() && self.dataset_path.is_none()
    }

    /// Opens the checkpoint alone, or the embedded demo's where none is named; `tag` is the embodiment unless an option says
    /// another.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_alone(&self, tag: &str) -> Result<Session> {
        let checkpoint = match &self.checkpoint {
            Some(checkpoint) => checkpoint.clone(),
            None => demo::of_user()?.checkpoint,
        };
        let name = checkpoint.to_str().unwrap_or_default();
        // Made-up weights have one embodiment.
        let made_up = steadyhand_gr00t::synthetic::config(name)?.is_some();
        let options = session::Options {
            embodiment_tag: self.embodiment_tag.clone().or_else(|| (!made_up).then(|| tag.to_owned())),
            tokenizer: self.tokenizer.clone(),
            seed: SEED,
            ..session::Options::default()
        };
        Ok(Session::open(&checkpoint, &options)?)
    }

    /// Opens checkpoint and dataset, or the embedded demo's where neither is named. Calibrations of another dataset are
    /// an error unless `allow_stale`; `seed` is that of everything that is made up.
    ///
    /// # Errors
    /// Only one of the two was named, but for synthetic weights, which have no dataset; as [`Session::open`].
    pub fn open(&self, seed: u64, allow_stale: bool) -> Result<Session> {
        let options = session::Options {
            dataset: self.dataset_path.clone(),
            embodiment_tag: self.embodiment_tag.clone(),
            tokenizer: self.tokenizer.clone(),
            video_decoder: self.video.decoder(),
            seed,
            stale: stale(allow_stale),
            ..session::Options::default()
        };
        let name = self.checkpoint.as_deref().and_then(Path::to_str).unwrap_or_default();
        if let (Some(checkpoint), Some(_)) = (&self.checkpoint, steadyhand_gr00t::synthetic::config(name)?) {
            ensure!(
                self.video.video_decoder.is_none(),
                "--video-decoder: expected with a dataset, found with {name}"
            );
            return Ok(Session::open(checkpoint, &options)?);
        }
        let Demo { checkpoint, dataset } =
            demo::unless_given(self.checkpoint.as_deref(), self.dataset_path.as_deref())?;
        Ok(Session::open(&checkpoint, &session::Options { dataset: Some(dataset), ..options })?)
    }
}

/// The model of a checkpoint folder, or of synthetic sizes at their usual seed, with what tells its weights from others.
///
/// # Errors
/// A checkpoint that cannot be loaded, an unknown name of sizes.
pub fn model(checkpoint: &Path) -> Result<(Model, String)> {
    let name = checkpoint.to_str().unwrap_or_default();
    if steadyhand_gr00t::synthetic::config(name)?.is_some() {
        let options = session::Options { seed: SEED, ..session::Options::default() };
        let parts = Session::open(checkpoint, &options)?.parts;
        let fingerprint = parts.fingerprint();
        return Ok((parts.model, fingerprint));
    }
    let model = load_model(checkpoint)?;
    let fingerprint = model.checkpoint().map(Checkpoint::fingerprint).unwrap_or_default();
    Ok((model, fingerprint))
}

/// What to do with calibrations of another dataset.
pub fn stale(allow: bool) -> Stale {
    match allow {
        true => Stale::Allow(|what| note!("stale calibration, as allowed: {what}")),
        false => Stale::Refuse,
    }
}
