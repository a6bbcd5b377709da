//! What goes into a policy and what comes out of it, in the units of the robot.

use crate::{Error, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An 8-bit RGB image, rows from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes: row, column, channel (R, G, B). A `Vec` becomes them without a copy, and so does a part of
    /// a larger message that holds several frames.
    pub rgb: Bytes,
}

/// A row-major `[rows, cols]` matrix of f32; rows are time steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    /// Number of rows (time steps).
    pub rows: usize,
    /// Number of columns (dimensions of the joint group).
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Matrix {
    /// One row, `cols` values. `row` must be below `self.rows`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }
}

impl From<Vec<f32>> for Matrix {
    /// One row: the values of one time step.
    fn from(data: Vec<f32>) -> Self {
        Matrix { rows: 1, cols: data.len(), data }
    }
}

/// What the robot sees at one moment, keyed by the embodiment's modality keys.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Camera view → frames, oldest first, one per video delta index. Shared with engines that process them.
    pub images: BTreeMap<String, Vec<Arc<Image>>>,
    /// Joint group → `[state_horizon, dim]` in physical units, one row per state delta index.
    pub state: BTreeMap<String, Matrix>,
    /// The task in natural language.
    pub instruction: String,
}

impl Observation {
    /// An observation without images and states.
    pub fn new(instruction: impl Into<String>) -> Self {
        Observation { instruction: instruction.into(), ..Observation::default() }
    }

    /// The same with one more frame of a camera view, newer than those before it.
    #[must_use]
    pub fn with_image(mut self, view: impl Into<String>, frame: impl Into<Arc<Image>>) -> Self {
        self.images.entry(view.into()).or_default().push(frame.into());
        self
    }

    /// The same with the state of a joint group in physical units: `[state_horizon, dim]`, or a `Vec` for one row.
    #[must_use]
    pub fn with_state(mut self, group: impl Into<String>, values: impl Into<Matrix>) -> Self {
        self.state.insert(group.into(), values.into());
        self
    }
}

/// Physical actions for the next steps, one `[action_horizon, dim]` matrix per joint group,
/// in the order of the embodiment's action modality keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActionChunk {
    /// Joint group name and its actions: absolute, un-normalized.
    pub groups: Vec<(String, Matrix)>,
}

impl ActionChunk {
    /// The actions of a joint group: `[action_horizon, dim]`, absolute, in physical units; row 0 is the next step.
    ///
    /// # Errors
    /// The embodiment has no such group; those it has are listed.
    pub fn group(&self, name: &str) -> Result<&Matrix> {
        let found = self.groups.iter().find(|(group, _)| group == name);
        found.map(|(_, actions)| actions).ok_or_else(|| {
            let known: Vec<&str> = self.groups.iter().map(|(group, _)| group.as_str()).collect();
            Error::input(format!("action.{name}"), format!("expected one of {}", known.join(", ")))
        })
    }
}
