//! What goes into a policy and what comes out of it, in the units of the robot.

use std::collections::BTreeMap;

/// An 8-bit RGB image, rows from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` bytes: row, column, channel (R, G, B).
    pub rgb: Vec<u8>,
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

/// What the robot sees at one moment, keyed by the embodiment's modality keys.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Camera view → frames, oldest first, one per video delta index.
    pub images: BTreeMap<String, Vec<Image>>,
    /// Joint group → `[state_horizon, dim]` in physical units, one row per state delta index.
    pub state: BTreeMap<String, Matrix>,
    /// The task in natural language.
    pub instruction: String,
}

/// Physical actions for the next steps, one `[action_horizon, dim]` matrix per joint group,
/// in the order of the embodiment's action modality keys.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActionChunk {
    /// Joint group name and its actions: absolute, un-normalized.
    pub groups: Vec<(String, Matrix)>,
}
