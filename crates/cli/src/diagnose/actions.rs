//! The actions of both engines, and what rounding alone does to them.

use super::scene::Scene;
use super::stored::Scratch;
use super::taps::Rounding;
use super::types::{ActionError, Trajectory};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{ActionChunk, Matrix};
use steadyhand_gr00t_lab::diagnosis::{Examination, Inputs, Observed};

/// Rounding at random is run with so many seeds.
const REPLICAS: u64 = 3;
/// Relative L2 of normalized actions between two correct f32 engines: measured 3.6e-7 between the official code
/// and the reference on the demo; times 4.
pub const F32_ACTIONS: f64 = 1.5e-6;
/// An engine is healthy up to so many times the error that rounding gives: engines that fuse other operations
/// round in other places. The official bf16 run lies 0.95 to 1.09
/// times the emulated error from f32 on the goldens.
pub const MARGIN: f64 = 2.0;

/// The f32 reference, and what rounding moves it by.
pub struct Reference {
    /// Normalized, one matrix an inference.
    pub actions: Vec<Matrix>,
    /// The same rounded to the nearest, then at random.
    rounded: Vec<Vec<Matrix>>,
    /// The tensors of the last inference, where they were asked for.
    pub taps: Option<Rounding>,
}

impl Reference {
    /// Runs the f32 reference, the same at `policy`, and at `policy` rounding at random. With `scratch`, the last
    /// inference's tensors are kept there and those of the rounded runs compared with them.
    ///
    /// # Errors
    /// An input does not fit the model; the tensors cannot be kept.
    pub fn run(scene: &Scene, policy: &PrecisionPolicy, scratch: Option<&Scratch>) -> Result<Self> {
        let engine =
            |policy: PrecisionPolicy| CpuEngine::new(scene.model.clone(), policy, scene.denoising_steps);
        let Some((last, before)) = scene.inputs.split_last() else {
            bail!("expected an inference, found none")
        };
        let mut reference = engine(PrecisionPolicy::preset("f32")?);
        let mut actions = reference.infer(before, None)?;
        let mut taps = None;
        match scratch {
            Some(scratch) => {
                let (last, stored) = scratch.record(&mut reference, last)?;
                actions.push(last);
                taps = Some(Rounding::new(stored));
            }
            None => actions.extend(reference.infer(std::slice::from_ref(last), None)?),
        }
        let mut policies = vec![policy.clone()];
        policies.extend((0..REPLICAS).map(|seed| policy.clone().stochastic(seed)));
        let mut rounded = Vec::new();
        for (index, policy) in policies.into_iter().enumerate() {
            let mut engine = engine(policy);
            let mut actions = engine.infer(before, None)?;
            // One run to the nearest and one at random: what the others would add is not worth their reading.
            let probe = taps.as_mut().filter(|_| index < 2).map(|taps| taps as &mut dyn Probe);
            actions.extend(engine.infer(std::slice::from_ref(last), probe)?);
            rounded.push(actions);
        }
        Ok(Reference { actions, rounded, taps })
    }

    /// Relative L2 of an engine's actions over all inferences.
    pub fn distance(&self, actions: &[Matrix]) -> f64 {
        relative_l2(&flat(actions), &flat(&self.actions))
    }

    /// Relative L2 that rounding gives over all inferences.
    pub fn expected(&self) -> f64 {
        self.rounded.iter().map(|rounded| self.distance(rounded)).fold(F32_ACTIONS, f64::max)
    }

    /// Relative L2 that rounding gives in the last inference.
    pub fn expected_of_last(&self) -> f64 {
        let last = |actions: &[Matrix]| flat(&actions[actions.len().saturating_sub(1)..]);
        let right = last(&self.actions);
        self.rounded.iter().map(|rounded| relative_l2(&last(rounded), &right)).fold(F32_ACTIONS, f64::max)
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
    Ok(examination.localize()?.actions)
}

/// Errors of b's actions against a's by joint group and chunk position, and of both against the recording.
/// `expected` is what rounding gives.
///
/// # Errors
/// The actions do not fit the processor.
pub fn compare(scene: &Scene, a: &[Matrix], b: &[Matrix], expected: f64) -> Result<ActionError> {
    let (chunks_a, chunks_b) = (physical(scene, a)?, physical(scene, b)?);
    let mut groups: Vec<(String, f64)> = Vec::new();
    for (index, (name, _)) in chunks_a[0].groups.iter().enumerate() {
        let differences = chunks_a.iter().zip(&chunks_b).flat_map(|(a, b)| {
            a.groups[index].1.data.iter().zip(&b.groups[index].1.data).map(|(a, b)| f64::from((a - b).abs()))
        });
        let differences: Vec<f64> = differences.collect();
        groups.push((name.clone(), differences.iter().sum::<f64>() / differences.len() as f64));
    }
    let at = |matrices: &[Matrix], row: usize| -> Vec<f32> {
        matrices.iter().flat_map(|matrix| matrix.row(row)).copied().collect()
    };
    Ok(ActionError {
        relative_l2: relative_l2(&flat(b), &flat(a)),
        expected,
        groups,
        chunk_positions: (0..a[0].rows).map(|row| relative_l2(&at(b, row), &at(a, row))).collect(),
        mse_a: mse(scene, &chunks_a),
        mse_b: mse(scene, &chunks_b),
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

/// Against the recorded actions; none where nothing was recorded.
fn mse(scene: &Scene, chunks: &[ActionChunk]) -> Option<f64> {
    let (mut squares, mut count) = (0.0, 0);
    for (chunk, step) in chunks.iter().zip(&scene.steps) {
        for (index, recorded) in scene.recorded.iter().skip(*step).take(chunk.groups[0].1.rows).enumerate() {
            for (a, b) in row(chunk, index).iter().zip(recorded) {
                squares += (f64::from(*a) - f64::from(*b)).powi(2);
                count += 1;
            }
        }
    }
    (count > 0).then(|| squares / f64::from(count))
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
