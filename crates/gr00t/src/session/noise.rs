//! Where an episode's initial noise comes from: a seed, or a recording.

use super::tensors::{Tensor, Tensors};
use crate::noise::gaussian;
use crate::{Error, Matrix, Result};
use std::path::{Path, PathBuf};

/// The noise of every inference of an evaluation.
#[derive(Debug, Clone)]
pub enum NoiseSource {
    /// [`gaussian`] of this seed.
    Seed(u64),
    /// Tensor `noise` of `episode_NNNNNN.safetensors` in this folder.
    Recorded(PathBuf),
}

/// The noise of one episode's inferences.
#[derive(Debug)]
pub struct EpisodeNoise {
    episode: u32,
    horizon: usize,
    dim: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    Recorded(Tensor<f32>),
}

impl NoiseSource {
    /// Opens the noise of an episode that needs `inferences` matrices `[horizon, dim]`.
    ///
    /// # Errors
    /// A recording that is missing, of another shape, or shorter than the episode.
    pub fn open(
        &self,
        episode: usize,
        inferences: usize,
        horizon: usize,
        dim: usize,
    ) -> Result<EpisodeNoise> {
        let source = match self {
            NoiseSource::Seed(seed) => Source::Seed(*seed),
            NoiseSource::Recorded(folder) => {
                Source::Recorded(recorded(folder, episode, inferences, horizon, dim)?)
            }
        };
        Ok(EpisodeNoise { episode: counted(episode)?, horizon, dim, source })
    }
}

impl EpisodeNoise {
    /// The noise of inference `inference`, counted from 0 within the episode.
    pub fn get(&self, inference: usize) -> Matrix {
        match &self.source {
            Source::Seed(seed) => gaussian(*seed, self.episode, inference as u32, self.horizon, self.dim),
            Source::Recorded(tensor) => {
                let size = self.horizon * self.dim;
                let data = tensor.values[inference * size..(inference + 1) * size].to_vec();
                Matrix { rows: self.horizon, cols: self.dim, data }
            }
        }
    }
}

/// A number that noise is drawn by.
///
/// # Errors
/// It has more than 32 bits.
pub(super) fn counted(number: usize) -> Result<u32> {
    let what = |_| Error::input("noise", format!("expected a number below 2^32, found {number}"));
    u32::try_from(number).map_err(what)
}

fn recorded(
    folder: &Path,
    episode: usize,
    inferences: usize,
    horizon: usize,
    dim: usize,
) -> Result<Tensor<f32>> {
    let path = folder.join(format!("episode_{episode:06}.safetensors"));
    let noise = Tensors::read(&path)?.float("noise")?.clone();
    let fails = |what: String| Err(Error::file(&path, format!("noise: {what}")));
    match noise.shape[..] {
        [count, rows, cols] if count >= inferences && rows == horizon && cols == dim => {
            match noise.values.iter().position(|value| !value.is_finite()) {
                Some(place) => {
                    fails(format!("expected finite values, found {} at {place}", noise.values[place]))
                }
                None => Ok(noise),
            }
        }
        _ => {
            let found = &noise.shape;
            fails(format!("expected at least [{inferences}, {horizon}, {dim}], found {found:?}"))
        }
    }
}
