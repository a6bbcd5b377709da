//! What an evaluation leaves behind: its numbers as JSON, its summary as text, one picture an episode.

use serde::{Deserialize, Serialize};
use steadyhand_gr00t::session::CalibrationUsed;

pub mod axis;
pub mod canvas;
pub mod cost;
mod grid;
pub mod growth;
pub mod html;
pub mod memory;
pub mod metrics;
pub mod output;
pub mod plot;
pub mod summary;
pub mod table;

/// How far an evaluation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every episode was evaluated.
    Complete,
    /// Some could not be evaluated: `failures` says why.
    Partial,
    /// A signal or a failure ended it early.
    Interrupted,
    /// It goes on, or was killed.
    Running,
}

/// One evaluation of one engine on one dataset.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub written_by: &'static str,
    pub status: Status,
    /// Episodes that were asked for.
    pub episodes_asked: usize,
    pub failures: Vec<Failed>,
    pub engine: String,
    pub precision: String,
    pub checkpoint: String,
    pub dataset: String,
    pub embodiment_tag: String,
    pub seed: u64,
    /// The file the initial noise was read from; without one, `seed` made it.
    pub noise: Option<String>,
    /// Most steps evaluated in an episode.
    pub steps: usize,
    pub action_horizon: usize,
    /// None where a server chooses them.
    pub denoising_steps: Option<usize>,
    /// Where the precision's scales of activations come from, where it has fixed ones.
    pub calibration: Option<CalibrationUsed>,
    /// Mean of the episodes' errors, each episode counting the same whatever its length; absent without episodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    /// The same by joint group.
    pub groups: Vec<GroupError>,
    pub episodes: Vec<EpisodeReport>,
    /// How chunks follow each other, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunking: Option<Vec<Chunking>>,
    pub timings: Timings,
}

/// How the chunks of one action group follow each other: means over episodes, steps and joints, in the joints' units.
#[derive(Clone, Debug, Serialize)]
pub struct Chunking {
    pub name: String,
    /// From the last action of a chunk to the first of the next.
    pub boundary_jump: Option<f64>,
    /// From one action to the next, within chunks.
    pub step: Pair,
    /// What three actions of a chunk bend by: the second difference.
    pub jitter: Pair,
    /// Errors of the first and of the last row that is taken of a chunk: drift is what they differ by.
    pub error_of_first_row: Option<f64>,
    pub error_of_last_row: Option<f64>,
}

/// A measure of predicted actions beside that of the recorded ones.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pair {
    pub predicted: Option<f64>,
    pub recorded: Option<f64>,
}

/// An episode that could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub episode_index: usize,
    pub reason: String,
}

/// Errors and times of one episode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EpisodeReport {
    pub episode_index: usize,
    pub mse: f64,
    pub mae: f64,
    pub steps: usize,
    /// All inferences, those skipped in the timings included.
    pub inferences: usize,
    pub instruction: String,
    /// `native`, or `ffmpeg` where FFmpeg's program decoded frames.
    pub decoded_by: String,
    pub plot: Option<String>,
    pub episode_load_seconds: f64,
    /// One entry an inference, without the skipped ones.
    pub data_preparation_seconds: Vec<f64>,
    /// One entry an inference, without the skipped ones.
    pub inference_seconds: Vec<f64>,
    pub groups: Vec<GroupError>,
    /// Of a server: whether it said of every inference that it started from the noise that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_confirmed: Option<bool>,
}

/// Errors of one action group (an arm, a hand) in one episode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupError {
    pub name: String,
    pub mse: f64,
    pub mae: f64,
}

impl GroupError {
    /// The mean of each group's errors over the episodes, in the order of the first.
    pub fn means(episodes: &[EpisodeReport]) -> Vec<GroupError> {
        let groups = episodes.first().map_or(&[][..], |first| &first.groups);
        let mean = |name: &str, value: fn(&GroupError) -> f64| {
            let of =
                |episode: &EpisodeReport| episode.groups.iter().find(|group| group.name == name).map(value);
            let values: Vec<f64> = episodes.iter().filter_map(of).collect();
            metrics::mean(&values).unwrap_or_default()
        };
        let group = |GroupError { name, .. }: &GroupError| GroupError {
            name: name.clone(),
            mse: mean(name, |group| group.mse),
            mae: mean(name, |group| group.mae),
        };
        groups.iter().map(group).collect()
    }
}

/// Where the time went, over all episodes. Averages of nothing are absent, never NaN.
#[derive(Clone, Debug, Serialize)]
pub struct Timings {
    pub model_loading_seconds: f64,
    pub dataset_loader_seconds: f64,
    /// Absent while it goes on.
    pub evaluating: Option<Evaluating>,
    /// Average: an episode.
    pub episode_loading: Total,
    /// Average: a timed inference.
    pub data_preparation: Total,
    pub inference: InferenceTimings,
    /// Inferences at the start of each episode that are not timed (warm-up).
    pub skip_timing_steps: usize,
}

/// The time that passed while episodes were evaluated; those that were done before took none of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Evaluating {
    pub seconds: f64,
    /// Policies that evaluated at the same time.
    pub workers: usize,
}

/// A total of seconds and its average.
#[derive(Clone, Debug, Serialize)]
pub struct Total {
    pub total: f64,
    pub average: Option<f64>,
}

/// Statistics of the timed inferences, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct InferenceTimings {
    pub steps: usize,
    pub total: f64,
    pub average: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub p90: Option<f64>,
}

impl Total {
    fn of(seconds: &[f64]) -> Self {
        // An empty float sum is -0.0, which would be printed as such.
        Self { total: seconds.iter().sum::<f64>() + 0.0, average: metrics::mean(seconds) }
    }
}

impl Timings {
    /// Gathers the episodes' times; the first `skip_timing_steps` inferences are already left out of them.
    pub fn new(
        model_loading_seconds: f64,
        dataset_loader_seconds: f64,
        episodes: &[EpisodeReport],
        skip_timing_steps: usize,
    ) -> Self {
        let loading: Vec<f64> = episodes.iter().map(|episode| episode.episode_load_seconds).collect();
        let preparation: Vec<f64> =
            episodes.iter().flat_map(|episode| &episode.data_preparation_seconds).copied().collect();
        let inference: Vec<f64> =
            episodes.iter().flat_map(|episode| &episode.inference_seconds).copied().collect();
        let Total { total, average } = Total::of(&inference);
        Self {
            model_loading_seconds,
            dataset_loader_seconds,
            evaluating: None,
            episode_loading: Total::of(&loading),
            data_preparation: Total::of(&preparation),
            inference: InferenceTimings {
                steps: inference.len(),
                total,
                average,
                min: inference.iter().copied().reduce(f64::min),
                max: inference.iter().copied().reduce(f64::max),
                p90: metrics::percentile(&inference, 90.0),
            },
            skip_timing_steps,
        }
    }
}

#[cfg(test)]
mod tests;
