//! The actions of both engines in physical units.

use super::Observed;
use super::baseline::flat;
use super::report::{ActionError, Trajectory};
use super::setup::Setup;
use super::teacher_forced::{Examination, Inputs};
use crate::Result;
use std::collections::BTreeMap;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{ActionChunk, Matrix};

/// The actions that a trace ends in: its own, or the reference's behind the last tensor that it holds.
///
/// # Errors
/// The input does not fit the model.
pub(super) fn of_trace(
    setup: &Setup,
    policy: &PrecisionPolicy,
    inference: usize,
    taps: &dyn Observed,
) -> Result<Matrix> {
    let [rows, cols] = [setup.model.config.action_horizon, setup.model.config.max_action_dim];
    if let Some((_, data)) = taps.read("action_pred").filter(|(_, data)| data.len() == rows * cols) {
        return Ok(Matrix { rows, cols, data });
    }
    let examination = Examination {
        model: setup.model,
        policy,
        denoising_steps: setup.denoising_steps,
        input: &setup.inputs[inference],
        observed: taps,
        // Tensors of stages that ran by themselves are handed on here, as they would be in a deployment.
        inputs: Inputs::Own,
        expected: &BTreeMap::new(),
        made_otherwise: &[],
    };
    Ok(examination.localize()?.actions)
}

/// Errors of b's actions against a's by joint group and chunk position, and of both against the recording.
/// `expected` is what rounding gives.
///
/// # Errors
/// The actions do not fit the processor.
pub(super) fn compare(setup: &Setup, a: &[Matrix], b: &[Matrix], expected: f64) -> Result<ActionError> {
    let (chunks_a, chunks_b) = (physical(setup, a)?, physical(setup, b)?);
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
        mse_a: mse(setup, &chunks_a),
        mse_b: mse(setup, &chunks_b),
    })
}

/// Physical actions. Values that are not finite, which a processor refuses, become zero: the error is told
/// by the normalized actions.
fn physical(setup: &Setup, actions: &[Matrix]) -> Result<Vec<ActionChunk>> {
    let decode = |(actions, observation): (&Matrix, _)| {
        let mut actions = actions.clone();
        actions.data.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        Ok(setup.processor.decode(&actions, observation)?)
    };
    actions.iter().zip(setup.observations).map(decode).collect()
}

/// One row of a chunk, its groups side by side.
fn row(chunk: &ActionChunk, row: usize) -> Vec<f32> {
    chunk.groups.iter().flat_map(|(_, actions)| actions.row(row)).copied().collect()
}

/// Against the recorded actions; none where nothing was recorded.
fn mse(setup: &Setup, chunks: &[ActionChunk]) -> Option<f64> {
    let (mut squares, mut count) = (0.0, 0);
    for (chunk, step) in chunks.iter().zip(setup.steps) {
        for (index, recorded) in setup.recorded.iter().skip(*step).take(chunk.groups[0].1.rows).enumerate() {
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
pub(super) fn trajectories(
    setup: &Setup,
    reference: &[Matrix],
    actions: &[Matrix],
) -> Result<Vec<Trajectory>> {
    let (a, b) = (physical(setup, &reference[..1])?, physical(setup, &actions[..1])?);
    let rows = a[0].groups[0].1.rows;
    let column =
        |chunk: &ActionChunk, column: usize| (0..rows).map(|index| row(chunk, index)[column]).collect();
    let recorded = |column: usize| {
        setup
            .recorded
            .iter()
            .skip(setup.steps[0])
            .take(rows)
            .filter_map(|row| row.get(column))
            .copied()
            .collect()
    };
    let named = setup.names.iter().enumerate();
    Ok(named
        .map(|(index, name)| Trajectory {
            name: name.clone(),
            recorded: recorded(index),
            a: column(&a[0], index),
            b: column(&b[0], index),
        })
        .collect())
}
