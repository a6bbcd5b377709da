//! One episode: run, measured, drawn.

use super::journal::{CurveLayout, Curves};
use super::subject::About;
use crate::interrupt;
use crate::report::metrics::{self, Errors};
use crate::report::plot::{EpisodePlot, Panel, write_png};
use crate::report::{EpisodeReport, GroupError};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Instant;
use steadyhand_gr00t::Error;
use steadyhand_gr00t::session::{Actor, NoiseSource, Rollout, RolloutConfig, rollout};
use steadyhand_lerobot::{Dataset, Kind};

/// How an episode is run and timed.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Most steps of it.
    pub steps: usize,
    /// Steps taken of each action chunk before the next inference.
    pub action_horizon: usize,
    /// Inferences at its start that the timings leave out.
    pub skip_timing_steps: usize,
}

/// What an episode gave.
pub struct Evaluated {
    pub report: EpisodeReport,
    pub layout: CurveLayout,
    pub curves: Curves,
    /// Whether all actions started from the noise that was asked for.
    pub asked_noise: bool,
}

/// Why an episode gave nothing.
pub enum Failure {
    /// It cannot be evaluated; others may.
    Episode(anyhow::Error),
    /// The engine failed: another episode would fare no better.
    Engine(anyhow::Error),
    /// A signal came.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match interrupt::signal().is_some() {
            true => Failure::Interrupted,
            false if of_the_engine(&error) => Failure::Engine(error.into()),
            false => Failure::Episode(error.into()),
        }
    }
}

fn of_the_engine(error: &Error) -> bool {
    match error {
        Error::Engine(_) => true,
        Error::At { source, .. } => of_the_engine(source),
        _ => false,
    }
}

/// Runs an episode and measures it; `progress` is told of each inference.
///
/// # Errors
/// As [`rollout::run`]; actions that are not finite.
pub fn evaluate<A: Actor>(
    pace: Pace,
    actor: &mut A,
    dataset: &Dataset,
    index: usize,
    noise: &NoiseSource,
    progress: &dyn Fn(),
) -> Result<Evaluated, Failure> {
    let loading = Instant::now();
    let episode = dataset.episode(index).map_err(Error::from)?;
    let episode_load_seconds = loading.elapsed().as_secs_f64();
    let config =
        RolloutConfig { steps: pace.steps, action_horizon: pace.action_horizon, noise: noise.clone() };
    let rollout = rollout::run(actor, &episode, &config, &mut || {
        progress();
        match interrupt::signal() {
            Some(_) => Err(Error::input("episode", "left before its end")),
            None => Ok(()),
        }
    })?;
    let layout = CurveLayout {
        groups: rollout.groups.iter().map(|(name, dim)| (name.clone(), names(dataset, name, *dim))).collect(),
        inference_points: rollout.inference_points.clone(),
    };
    let measured = || -> Result<(Errors, Vec<GroupError>)> {
        expect_finite(&rollout, index)?;
        let columns = rollout.ground_truth[0].len();
        let all = metrics::errors(&rollout.prediction, &rollout.ground_truth, 0..columns)?;
        Ok((all, group_errors(&rollout)?))
    };
    let (Errors { mse, mae }, groups) = measured().map_err(Failure::Episode)?;
    let timed = |seconds: &[f64]| seconds.iter().skip(pace.skip_timing_steps).copied().collect();
    let report = EpisodeReport {
        episode_index: index,
        mse,
        mae,
        steps: rollout.prediction.len(),
        inferences: rollout.inference_points.len(),
        instruction: rollout.instruction.clone(),
        decoded_by: episode.decoded_by().name().to_owned(),
        plot: None,
        episode_load_seconds,
        data_preparation_seconds: timed(&rollout.data_preparation_seconds),
        inference_seconds: timed(&rollout.inference_seconds),
        groups,
        noise_confirmed: None,
    };
    let curves = Curves {
        columns: rollout.ground_truth[0].len(),
        predicted: rollout.prediction.concat(),
        recorded: rollout.ground_truth.concat(),
        state: rollout.state.map(|state| state.concat()),
    };
    Ok(Evaluated { report, layout, curves, asked_noise: rollout.asked_noise })
}

/// Joint names of a group; its name and a number where the dataset has none.
fn names(dataset: &Dataset, group: &str, dim: usize) -> Vec<String> {
    let known = dataset.dimension_names(Kind::Action, group);
    (0..dim).map(|joint| known.get(joint).cloned().unwrap_or_else(|| format!("{group}[{joint}]"))).collect()
}

/// An error over what is no number is none.
fn expect_finite(rollout: &Rollout, episode: usize) -> Result<()> {
    for (what, rows) in [("predicted", &rollout.prediction), ("recorded", &rollout.ground_truth)] {
        for (step, row) in rows.iter().enumerate() {
            let Some(place) = row.iter().position(|value| !value.is_finite()) else { continue };
            let (mut group, mut column) = ("", place);
            for (name, dim) in &rollout.groups {
                group = name;
                if column < *dim {
                    break;
                }
                column -= dim;
            }
            bail!(
                "episode {episode}, step {step}: action.{group}: expected finite {what} values, found {} at {column}",
                row[place]
            );
        }
    }
    Ok(())
}

fn group_errors(rollout: &Rollout) -> Result<Vec<GroupError>> {
    let mut first = 0;
    let mut errors = Vec::new();
    for (name, dim) in &rollout.groups {
        let Errors { mse, mae } =
            metrics::errors(&rollout.prediction, &rollout.ground_truth, first..first + dim)?;
        errors.push(GroupError { name: name.clone(), mse, mae });
        first += dim;
    }
    Ok(errors)
}

/// Draws an episode into `path`.
///
/// # Errors
/// It cannot be written.
pub fn plot(evaluated: &Evaluated, about: &About, path: &Path) -> Result<()> {
    let Evaluated { report, layout, curves, .. } = evaluated;
    let columns = |values: &[f32]| -> Vec<Vec<f32>> {
        (0..curves.columns).map(|column| curves.column(values, column)).collect()
    };
    let (truth, prediction) = (columns(&curves.recorded), columns(&curves.predicted));
    let state = curves.state.as_deref().map(columns);
    let joints = layout.groups.iter().flat_map(|(group, names)| names.iter().map(move |name| (group, name)));
    let mut panels = Vec::with_capacity(curves.columns);
    for (column, (group, name)) in joints.enumerate() {
        let rows = |values: &[f32]| -> Vec<[f32; 1]> { values.iter().map(|value| [*value]).collect() };
        panels.push(Panel {
            group,
            title: name.clone(),
            state: state.as_ref().map(|state| &state[column][..]),
            ground_truth: &truth[column],
            prediction: &prediction[column],
            mse: metrics::errors(&rows(&prediction[column]), &rows(&truth[column]), 0..1)?.mse,
        });
    }
    let plot = EpisodePlot {
        episode_index: report.episode_index,
        instruction: &report.instruction,
        engine: &about.engine,
        precision: &about.precision,
        mse: report.mse,
        mae: report.mae,
        panels,
        inference_points: &layout.inference_points,
    };
    write_png(&plot, path)
}
