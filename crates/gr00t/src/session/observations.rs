//! Observations out of a dataset's episodes, in the terms of an embodiment.

use crate::processor::{EmbodimentModalities, ModalityConfig};
use crate::{Error, Image, Matrix, Observation, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use steadyhand_lerobot::{Episode, FrameStream, Kind};

/// Decoded frames that wait for the inference at hand to end.
const FRAMES_AHEAD: usize = 2;

/// Observations of one episode at chosen steps, in order, frames being decoded ahead.
pub struct Observations<'a> {
    modalities: &'a EmbodimentModalities,
    episode: &'a Episode,
    state: BTreeMap<String, Matrix>,
    video: Vec<(String, FrameStream)>,
    steps: std::vec::IntoIter<usize>,
}

impl<'a> Observations<'a> {
    /// Opens the episode's videos and reads its states.
    ///
    /// # Errors
    /// The dataset lacks a view or a joint group of the embodiment, or a video is missing or too short.
    pub fn open(
        modalities: &'a EmbodimentModalities,
        episode: &'a Episode,
        steps: Vec<usize>,
    ) -> Result<Self> {
        let mut state = BTreeMap::new();
        for key in &modalities.state.modality_keys {
            state.insert(key.clone(), matrix(episode.group(Kind::State, key)?));
        }
        let mut video = Vec::new();
        for view in &modalities.video.modality_keys {
            let rows = |step: &usize| rows(&modalities.video, *step, episode.len());
            let frames = episode.video(view)?.stream(steps.iter().flat_map(rows).collect(), FRAMES_AHEAD);
            video.push((view.clone(), frames));
        }
        Ok(Observations { modalities, episode, state, video, steps: steps.into_iter() })
    }

    fn observe(&mut self, step: usize) -> Result<Observation> {
        let modalities = self.modalities;
        let mut images = BTreeMap::new();
        for (view, frames) in &mut self.video {
            let count = modalities.video.delta_indices.len();
            let stack = frames.take(count).map(|frame| {
                let frame = frame?;
                Ok(Arc::new(Image { width: frame.width, height: frame.height, rgb: frame.rgb.into() }))
            });
            images.insert(view.clone(), stack.collect::<Result<Vec<_>>>()?);
        }
        let rows = rows(&modalities.state, step, self.episode.len());
        let state = self.state.iter().map(|(key, values)| (key.clone(), gather(values, &rows))).collect();
        let key = modalities.language.modality_keys.first();
        let key = key.ok_or_else(|| Error::input("language.modality_keys", "expected one, found none"))?;
        let horizon = modalities.action.delta_indices.len();
        let instruction = self.episode.instruction(key, step, horizon)?;
        Ok(Observation { images, state, instruction })
    }
}

impl Iterator for Observations<'_> {
    /// A step and what is observed there.
    type Item = Result<(usize, Observation)>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.next()?;
        let episode = self.episode.index();
        let observation =
            self.observe(step).map_err(|error| error.at(format!("episode {episode}, step {step}")));
        Some(observation.map(|observation| (step, observation)))
    }
}

/// Joint groups side by side: `[len, dims of all groups]`, one vector a step.
///
/// # Errors
/// The dataset lacks a group.
pub fn concatenated(episode: &Episode, kind: Kind, keys: &[String]) -> Result<Vec<Vec<f32>>> {
    let groups = keys.iter().map(|key| Ok(episode.group(kind, key)?)).collect::<Result<Vec<_>>>()?;
    Ok((0..episode.len())
        .map(|row| groups.iter().flat_map(|group| group.row(row)).copied().collect())
        .collect())
}

/// Rows of the time steps that a modality asks for, held at the episode's ends. (The official loader
/// wraps around to the episode's end where a history reaches before its start.)
fn rows(modality: &ModalityConfig, step: usize, len: usize) -> Vec<usize> {
    let last = len.saturating_sub(1) as i64;
    modality.delta_indices.iter().map(|delta| (step as i64 + delta).clamp(0, last) as usize).collect()
}

fn gather(values: &Matrix, rows: &[usize]) -> Matrix {
    let data = rows.iter().flat_map(|row| values.row(*row)).copied().collect();
    Matrix { rows: rows.len(), cols: values.cols, data }
}

fn matrix(matrix: steadyhand_lerobot::Matrix) -> Matrix {
    Matrix { rows: matrix.rows, cols: matrix.cols, data: matrix.data }
}
