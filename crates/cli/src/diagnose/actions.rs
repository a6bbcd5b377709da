//! The actions of both engines, and what rounding alone does to them.

use super::scene::Scene;
use super::types::{ActionError, Trajectory};
use anyhow::Result;
use std::collections::BTreeMap;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::diagnosis::{Examination, Inputs, Observed};
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{ActionChunk, Matrix};

/// Rounding at random is run with so many seeds.
const REPLICAS: u64 = 3;
/// Relative L2 of normalized actions between two correct f32 engines: measured 3.6e-7 between the official code
/// and the reference on the demo; times 4.
pub const F32_ACTIONS: f64 = 1.5e-6;
/// An engine is healthy up to so many times the error that rounding gives: engines that fuse other operations
/// round in other places. The official bf16 run lies 0.95 to 1.09
/// times the emulated error from f32 on the goldens.
pub const MARGIN: f64 = 2.0;

/// The reference's actions, and the error to expect of an engine at another precision.
pub struct Reference {
    /// Normalized, one matrix an inference.
    pub actions: Vec<Matrix>,
    /// Relative L2 that rounding gives over all inferences.
    pub expected: f64,
}

impl Reference {
    /// Runs the f32 reference, the same at `policy`, and at `policy` rounding at random.
    ///
    /// # Errors
    /// An input does not fit the model.
    pub fn run(scene: &Scene, policy: &PrecisionPolicy) -> Result<Self> {
        let run = |policy: PrecisionPolicy| {
            CpuEngine::new(scene.model.clone(), policy, scene.denoising_steps).infer(&scene.inputs, None)
        };
        let mut reference =
            Reference { actions: run(PrecisionPolicy::preset("f32")?)?, expected: F32_ACTIONS };
        let mut policies = vec![policy.clone()];
        policies.extend((0..REPLICAS).map(|seed| policy.clone().stochastic(seed)));
        for policy in policies {
            reference.expected = reference.expected.max(reference.distance(&run(policy)?));
        }
        Ok(reference)
    }

    /// Relative L2 of an engine's actions over all inferences.
    pub fn distance(&self, actions: &[Matrix]) -> f64 {
        relative_l2(&flat(actions), &flat(&self.actions))
    }
}

fn flat(actions: &[Matrix]) -> Vec<f32> {
    actions.iter().flat_map(|matrix| &matrix.data).copied().collect()
}

/// The actions that a trace ends in: its own, or the reference's behind the last tensor that it holds.
///
/// # Errors
/// The input does not fit the model.
pub fn of_trace(
    scene: &Scene,
    policy: &PrecisionPolicy,
    inference: usize,
    taps: &dyn Observed,
) -> Result<Matrix> {
    let [rows, cols] = [scene.model.config.action_horizon, scene.model.config.max_action_dim];
    if let Some((_, data)) = taps.read("action_pred").filter(|(_, data)| data.len() == rows * cols) {
        return Ok(Matrix { rows, cols, data });
    }
    let examination = Examination {
        model: &scene.model,
        policy,
        denoising_steps: scene.denoising_steps,
        input: &scene.inputs[inference],
        observed: taps,
        // Tensors of stages that ran by themselves are handed on here, as they would be in a deployment.
        inputs: Inputs::Own,
        expected: &BTreeMap::new(),
    };
    Ok(examination.localize(None)?.actions)
}

/// Errors by joint group and chunk position, and of both engines against the recording.
///
/// # Errors
/// The actions do not fit the processor.
pub fn compare(scene: &Scene, reference: &Reference, actions: &[Matrix]) -> Result<ActionError> {
    let (a, b) = (physical(scene, &reference.actions)?, physical(scene, actions)?);
    let mut groups: Vec<(String, f64)> = Vec::new();
    for (index, (name, _)) in a[0].groups.iter().enumerate() {
        let differences = a.iter().zip(&b).flat_map(|(a, b)| {
            a.groups[index].1.data.iter().zip(&b.groups[index].1.data).map(|(a, b)| f64::from((a - b).abs()))
        });
        let differences: Vec<f64> = differences.collect();
        groups.push((name.clone(), differences.iter().sum::<f64>() / differences.len() as f64));
    }
    let horizon = reference.actions[0].rows;
    let at = |matrices: &[Matrix], row: usize| -> Vec<f32> {
        matrices.iter().flat_map(|matrix| matrix.row(row)).copied().collect()
    };
    Ok(ActionError {
        relative_l2: reference.distance(actions),
        expected: reference.expected,
        groups,
        chunk_positions: (0..horizon)
            .map(|row| relative_l2(&at(actions, row), &at(&reference.actions, row)))
            .collect(),
        mse_a: mse(scene, &a),
        mse_b: mse(scene, &b),
    })
}

/// Physical actions. Values that are not finite, which a processor refuses, become zero: the error is told
/// by the normalized actions.
fn physical(scene: &Scene, actions: &[Matrix]) -> Result<Vec<ActionChunk>> {
    let decode = |(actions, observation): (&Matrix, _)| {
        let mut actions = actions.clone();
        actions.data.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        Ok(scene.processor.decode(&actions, observation)?)
    };
    actions.iter().zip(&scene.observations).map(decode).collect()
}

/// One row of a chunk, its groups side by side.
fn row(chunk: &ActionChunk, row: usize) -> Vec<f32> {
    chunk.groups.iter().flat_map(|(_, actions)| actions.row(row)).copied().collect()
}

fn mse(scene: &Scene, chunks: &[ActionChunk]) -> f64 {
    let (mut squares, mut count) = (0.0, 0);
    for (chunk, step) in chunks.iter().zip(&scene.steps) {
        for (index, recorded) in scene.recorded.iter().skip(*step).take(chunk.groups[0].1.rows).enumerate() {
            for (a, b) in row(chunk, index).iter().zip(recorded) {
                squares += (f64::from(*a) - f64::from(*b)).powi(2);
                count += 1;
            }
        }
    }
    squares / f64::from(count.max(1))
}

/// The first chunk, dimension by dimension.
///
/// # Errors
/// The actions do not fit the processor.
pub fn trajectories(scene: &Scene, reference: &Reference, actions: &[Matrix]) -> Result<Vec<Trajectory>> {
    let (a, b) = (physical(scene, &reference.actions[..1])?, physical(scene, &actions[..1])?);
    let rows = a[0].groups[0].1.rows;
    let column =
        |chunk: &ActionChunk, column: usize| (0..rows).map(|index| row(chunk, index)[column]).collect();
    let recorded = |column: usize| {
        scene
            .recorded
            .iter()
            .skip(scene.steps[0])
            .take(rows)
            .filter_map(|row| row.get(column))
            .copied()
            .collect()
    };
    let named = scene.names.iter().enumerate();
    Ok(named
        .map(|(index, name)| Trajectory {
            name: name.clone(),
            recorded: recorded(index),
            a: column(&a[0], index),
            b: column(&b[0], index),
        })
        .collect())
}
