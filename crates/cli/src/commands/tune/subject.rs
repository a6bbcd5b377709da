//! What is tuned: a checkpoint on a dataset, the embedded demo, or random weights on random observations.

use super::args::TuneArgs;
use anyhow::Result;
use std::collections::BTreeSet;
use steadyhand_gr00t::Session;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::session::{Frame, Frames};
use steadyhand_gr00t_lab::tuning::Spread;
use steadyhand_lerobot::{Dataset, Kind};

/// A policy and the frames that it is measured on.
pub struct Loaded {
    pub session: Session,
    pub frames: Vec<Frame>,
    pub spread: Option<Spread>,
    /// As it was asked for.
    pub name: String,
}

impl Loaded {
    /// Loads or makes up what the options ask for.
    ///
    /// # Errors
    /// A checkpoint or dataset that cannot be loaded, an option that does not go with it.
    pub fn load(args: &TuneArgs) -> Result<Self> {
        // Nothing here is calibrated yet: a calibration cannot be of another dataset.
        let session = args.source.open(args.seed, false)?;
        let frames =
            session.frames(Frames::Spread { episodes: &[], count: args.frames as usize, seed: args.seed })?;
        let keys = &session.parts.processor.modalities().action.modality_keys;
        let spread = session.dataset().map(|dataset| spread(dataset, keys, &frames)).transpose()?;
        let name = match args.source.is_demo() {
            true => "the embedded demo".to_owned(),
            false => session.parts.name(),
        };
        Ok(Loaded { session, frames, spread, name })
    }

    /// The observations as model input.
    ///
    /// # Errors
    /// One that does not fit the processor.
    pub fn inputs(&self) -> Result<Vec<ModelInput>> {
        let processor = &self.session.parts.processor;
        self.frames.iter().map(|frame| Ok(frame.input(processor)?)).collect()
    }
}

/// How far the recorded actions of the frames' episodes spread, by joint group.
fn spread(dataset: &Dataset, keys: &[String], frames: &[Frame]) -> Result<Spread> {
    let mut actions: Vec<(Vec<f32>, usize)> = vec![Default::default(); keys.len()];
    let episodes: BTreeSet<usize> = frames.iter().map(|frame| frame.episode).collect();
    for index in episodes {
        let episode = dataset.episode(index)?;
        for (key, (values, cols)) in keys.iter().zip(&mut actions) {
            let group = episode.group(Kind::Action, key)?;
            *cols = group.cols;
            values.extend(group.data);
        }
    }
    let groups = keys.iter().zip(&actions).map(|(key, (values, cols))| (key.as_str(), &values[..], *cols));
    Ok(Spread::of("standard deviation of the dataset's actions", groups))
}
