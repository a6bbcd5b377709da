//! Observations of one episode, and the noise that the actions start from.

use super::source::SourceArgs;
use anyhow::{Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use steadyhand_gr00t::session::{Frames, NoiseSource, Scene};
use steadyhand_serve::Recording;

/// The seed where none is given.
const SEED: u64 = 42;

/// Observations of one episode, and the noise that the actions start from.
#[derive(Debug, Clone, Args)]
pub struct ObservationArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Episode to observe. [default: 0]
    #[arg(long, value_name = "ID")]
    pub traj_id: Option<usize>,
    /// Observations to take, from the episode's start.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub inferences: u16,
    /// Steps between two observations. [default: 16]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub action_horizon: Option<u16>,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub denoising_steps: u16,
    /// Seed of the initial noise, unless --noise gives it; with a synthetic checkpoint, of everything. [default: 42]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Read the noise from tensor `noise` [inferences, horizon, dim] of DIR/episode_NNNNNN.safetensors.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Take fixed scales of activations although they were found on another dataset; said when it happens.
    #[arg(long)]
    pub allow_stale_calibration: bool,
}

impl ObservationArgs {
    /// The seed of what is made up.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(SEED)
    }

    /// The observations that clients sent a server, the noise of their actions with them. They are shown to the model of the
    /// checkpoint that was served.
    ///
    /// # Errors
    /// An option that has something else observed; another checkpoint or embodiment than was served; a recording of
    /// nothing.
    pub fn scene_of(&self, recording: &Recording) -> Result<Scene> {
        let path = recording.path().display();
        for (option, given) in [
            ("--dataset-path", self.source.dataset_path.is_some()),
            ("--video-decoder", self.source.video.video_decoder.is_some()),
            ("--traj-id", self.traj_id.is_some()),
            ("--action-horizon", self.action_horizon.is_some()),
            ("--seed", self.seed.is_some()),
            ("--noise", self.noise.is_some()),
        ] {
            ensure!(!given, "{option}: expected without {path}, which has its own observations and noise");
        }
        ensure!(!recording.is_empty(), "{path}: expected at least one request, found none");
        let session = self.source.open_alone(recording.embodiment_tag())?;
        let parts = &session.parts;
        let (found, served) = (parts.fingerprint(), recording.fingerprint());
        ensure!(
            found == served,
            "--checkpoint: expected that of {path}, whose weights are {served}, found {} with {found}",
            parts.name()
        );
        let processor = Arc::clone(&parts.processor);
        let members = (0..recording.len().min(usize::from(self.inferences))).map(|index| {
            let recorded = recording.get(index, processor.modalities())?;
            let input = recorded.input(&processor)?;
            Ok((recorded.observation, input))
        });
        let members = members.collect::<Result<Vec<_>>>()?;
        Ok(session.given(format!("requests recorded in {path}"), members))
    }

    /// Opens the session and takes the observations. `recorded` is the noise that came with an engine's recording, taken
    /// where the options name none.
    ///
    /// # Errors
    /// An option that does not go with synthetic weights; as [`SourceArgs::open`] and
    /// [`Session::scene`](steadyhand_gr00t::Session::scene).
    pub fn scene(&self, recorded: Option<NoiseSource>) -> Result<Scene> {
        let session = self.source.open(self.seed(), self.allow_stale_calibration)?;
        ensure!(
            self.seed.is_none() || self.noise.is_none() || session.dataset().is_none(),
            "--seed: expected without --noise, which gives what the seed would make"
        );
        if session.dataset().is_none() {
            let name = session.parts.name();
            for (option, given) in
                [("--traj-id", self.traj_id.is_some()), ("--action-horizon", self.action_horizon.is_some())]
            {
                ensure!(!given, "{option}: expected with a checkpoint folder, found with {name}");
            }
        }
        let noise = self.noise.clone().map(NoiseSource::Recorded).or(recorded);
        Ok(session.scene(Frames::Along {
            episode: self.traj_id.unwrap_or(0),
            count: usize::from(self.inferences),
            spacing: usize::from(self.action_horizon.unwrap_or(16)),
            noise: &noise.unwrap_or(NoiseSource::Seed(self.seed())),
        })?)
    }
}
