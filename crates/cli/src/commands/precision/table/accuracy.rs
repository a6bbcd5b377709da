//! What a policy costs: an engine's actions on whole episodes, against the recording and against the reference's.

use crate::report::metrics::{self, Errors};
use anyhow::Result;
use serde::Serialize;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::session::{Rollout, RolloutConfig, rollout};
use steadyhand_lerobot::Episode;

/// What every engine is shown: the same observations and the same noise, as `steady eval` runs them.
pub struct Trial {
    pub episodes: Vec<Episode>,
    pub config: RolloutConfig,
}

/// What an engine gave on one episode.
pub struct EpisodeRun(Rollout);

impl Trial {
    /// Inferences of one run over all episodes.
    pub fn inferences(&self) -> usize {
        let steps = self.episodes.iter().map(|episode| episode.len().min(self.config.steps));
        steps.map(|steps| steps.div_ceil(self.config.action_horizon)).sum()
    }

    /// Runs a policy over all episodes; `progress` is told of each inference done.
    ///
    /// # Errors
    /// As [`rollout::run`].
    pub fn run(
        &self,
        policy: &mut Policy,
        progress: &mut dyn FnMut(),
    ) -> steadyhand_gr00t::Result<Vec<EpisodeRun>> {
        let run = |episode| {
            Ok(EpisodeRun(rollout::run(policy, episode, &self.config, &mut || {
                progress();
                Ok(())
            })?))
        };
        self.episodes.iter().map(run).collect()
    }
}

/// How good actions are, and how far from the f32 reference's.
#[derive(Debug, Clone, Serialize)]
pub struct Accuracy {
    /// Against the recorded actions, in physical units; means over episodes, as `steady eval` gives them.
    pub mse: f64,
    pub mae: f64,
    /// Normalized actions of all inferences from those of the f32 reference on the CPU.
    pub relative_l2: f64,
    pub groups: Vec<GroupDeviation>,
    pub episodes: Vec<EpisodeAccuracy>,
}

/// How far the executed physical actions of a joint group lie from the f32 reference's, in the group's units.
#[derive(Debug, Clone, Serialize)]
pub struct GroupDeviation {
    pub name: String,
    /// 95th percentile over the steps, of the joint where it is largest.
    pub p95: f64,
    /// The largest of all joints and steps.
    pub largest: f64,
}

/// [`Accuracy`] of one episode.
#[derive(Debug, Clone, Serialize)]
pub struct EpisodeAccuracy {
    pub mse: f64,
    pub mae: f64,
    pub relative_l2: f64,
}

impl Accuracy {
    /// Of `runs` against the reference's runs of the same trial.
    ///
    /// # Errors
    /// The runs are of different trials.
    pub fn of(runs: &[EpisodeRun], reference: &[EpisodeRun]) -> Result<Self> {
        let mut episodes = Vec::with_capacity(runs.len());
        for (run, reference) in runs.iter().zip(reference) {
            let Rollout { prediction, ground_truth, .. } = &run.0;
            let Errors { mse, mae } = metrics::errors(prediction, ground_truth, 0..ground_truth[0].len())?;
            let relative_l2 = relative_l2(&flat([run]), &flat([reference]));
            episodes.push(EpisodeAccuracy { mse, mae, relative_l2 });
        }
        let mean = |value: fn(&EpisodeAccuracy) -> f64| {
            episodes.iter().map(value).sum::<f64>() / episodes.len() as f64
        };
        Ok(Accuracy {
            mse: mean(|episode| episode.mse),
            mae: mean(|episode| episode.mae),
            relative_l2: relative_l2(&flat(runs), &flat(reference)),
            groups: groups(runs, reference),
            episodes,
        })
    }
}

/// The normalized actions of all inferences, one after the other.
fn flat<'r>(runs: impl IntoIterator<Item = &'r EpisodeRun>) -> Vec<f32> {
    runs.into_iter().flat_map(|run| &run.0.normalized).flat_map(|matrix| &matrix.data).copied().collect()
}

fn groups(runs: &[EpisodeRun], reference: &[EpisodeRun]) -> Vec<GroupDeviation> {
    let deviations = |column: usize| -> Vec<f64> {
        let pairs = runs.iter().zip(reference);
        let rows = pairs.flat_map(|(a, b)| a.0.prediction.iter().zip(&b.0.prediction));
        rows.map(|(a, b)| (f64::from(a[column]) - f64::from(b[column])).abs()).collect()
    };
    let mut first = 0;
    let mut groups = Vec::new();
    for (name, dim) in reference.iter().take(1).flat_map(|run| &run.0.groups) {
        let joints: Vec<Vec<f64>> = (first..first + dim).map(deviations).collect();
        let p95 = joints.iter().filter_map(|joint| metrics::percentile(joint, 95.0)).fold(0.0, f64::max);
        let largest = joints.iter().flatten().copied().fold(0.0, f64::max);
        groups.push(GroupDeviation { name: name.clone(), p95, largest });
        first += dim;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::Matrix;

    /// An episode of two steps, one inference each, with two groups of one and two joints.
    fn run(actions: [[f32; 3]; 2]) -> EpisodeRun {
        let rows: Vec<Vec<f32>> = actions.iter().map(|row| row.to_vec()).collect();
        let normalized = |row: &Vec<f32>| Matrix { rows: 1, cols: 3, data: row.clone() };
        EpisodeRun(Rollout {
            normalized: rows.iter().map(normalized).collect(),
            asked_noise: true,
            groups: vec![("gripper".to_owned(), 1), ("arm".to_owned(), 2)],
            prediction: rows,
            ground_truth: vec![vec![0.0; 3]; 2],
            state: None,
            inference_points: vec![0, 1],
            instruction: String::new(),
            data_preparation_seconds: Vec::new(),
            inference_seconds: Vec::new(),
        })
    }

    #[test]
    fn known_distances() {
        let reference = [run([[1.0, 2.0, 2.0], [0.0, 4.0, 0.0]]), run([[1.0; 3]; 2])];
        let found = [run([[1.0, 2.0, 2.5], [0.0, 5.0, 0.0]]), run([[1.0; 3]; 2])];
        let accuracy = Accuracy::of(&found, &reference).expect("the same trial");
        let expected = (1.25f64 / 31.0).sqrt();
        assert!((accuracy.relative_l2 - expected).abs() < 1e-12, "{accuracy:?}");
        assert_eq!(accuracy.episodes[1].relative_l2, 0.0);
        let first = (1.0 + 4.0 + 6.25 + 25.0) / 6.0;
        assert!((accuracy.mse - (first + 1.0) / 2.0).abs() < 1e-12, "{accuracy:?}");
        assert_eq!((accuracy.groups[0].largest, accuracy.groups[1].largest), (0.0, 1.0));
        // Four steps of the joint that is 1 away once: numpy.percentile([0, 0, 0, 1], 95).
        assert!((accuracy.groups[1].p95 - 0.85).abs() < 1e-12, "{accuracy:?}");
    }
}
