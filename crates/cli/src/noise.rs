//! Where an episode's initial noise comes from: a seed, or a recording.

use crate::tensors::{Tensor, Tensors};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::{Matrix, noise};

/// The noise of every inference of an evaluation.
#[derive(Debug, Clone)]
pub enum NoiseSource {
    /// [`noise::gaussian`] of this seed.
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
        Ok(EpisodeNoise { episode: u32::try_from(episode)?, horizon, dim, source })
    }
}

impl EpisodeNoise {
    /// The noise of inference `inference`, counted from 0 within the episode.
    pub fn get(&self, inference: usize) -> Matrix {
        match &self.source {
            Source::Seed(seed) => {
                noise::gaussian(*seed, self.episode, inference as u32, self.horizon, self.dim)
            }
            Source::Recorded(tensor) => {
                let size = self.horizon * self.dim;
                let data = tensor.values[inference * size..(inference + 1) * size].to_vec();
                Matrix { rows: self.horizon, cols: self.dim, data }
            }
        }
    }
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
    match noise.shape[..] {
        [count, rows, cols] if count >= inferences && rows == horizon && cols == dim => {
            match noise.values.iter().position(|value| !value.is_finite()) {
                Some(place) => bail!(
                    "{}: noise: expected finite values, found {} at {place}",
                    path.display(),
                    noise.values[place]
                ),
                None => Ok(noise),
            }
        }
        _ => bail!(
            "{}: noise: expected at least [{inferences}, {horizon}, {dim}], found {:?}",
            path.display(),
            noise.shape
        ),
    }
}
