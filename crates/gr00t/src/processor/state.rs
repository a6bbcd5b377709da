//! From raw joint groups to the model's padded state.
//!
//! Source: the official `StateActionProcessor.apply_state`
//! (`gr00t/data/state_action/state_action_processor.py`).

use super::config::{ModalityConfig, ProcessorConfig};
use super::statistics::{Rule, Scaler, Statistics};
use crate::{Error, Matrix, Observation, Result};

/// The state modality of one embodiment.
pub(super) struct StateEncoder {
    groups: Vec<StateGroup>,
    /// Time steps of every group.
    horizon: usize,
    /// Columns of the padded state.
    max_dim: usize,
}

struct StateGroup {
    key: String,
    encoding: Encoding,
    /// Raw values per time step; `None` for a group that needs no statistics and has none.
    dim: Option<usize>,
}

enum Encoding {
    /// The model is not shown the group: zeros.
    Excluded,
    /// All sines, then all cosines.
    SinCos,
    Scaled {
        scaler: Scaler,
        clip: bool,
    },
}

impl StateGroup {
    fn new(
        key: &str,
        config: &ProcessorConfig,
        modality: &ModalityConfig,
        statistics: &Statistics,
    ) -> Result<Self> {
        if config.exclude_state || modality.exclude_state {
            // Its values are not scaled: statistics tell its width where there are any.
            let dim = statistics.table("state", key, "min").ok().map(|table| table.cols);
            return Ok(StateGroup { key: key.to_string(), encoding: Encoding::Excluded, dim });
        }
        let sin_cos = config.apply_sincos_state_encoding && modality.is_sin_cos(key);
        if sin_cos && !statistics.has("state", key) {
            return Ok(StateGroup { key: key.to_string(), encoding: Encoding::SinCos, dim: None });
        }
        let mean_std = modality.is_mean_std(key);
        let rule = match (mean_std, config.use_percentiles) {
            (true, _) => Rule::MeanStd,
            (false, true) => Rule::Percentiles,
            (false, false) => Rule::MinMax,
        };
        let scaler = statistics.scaler("state", key, rule)?;
        let horizon = modality.delta_indices.len();
        if scaler.rows() != 1 && scaler.rows() != horizon {
            let what = format!("expected statistics for 1 or {horizon} time steps, found {}", scaler.rows());
            return Err(statistics.error("state", key, what));
        }
        let dim = Some(scaler.cols());
        let clip = config.clip_outliers && !mean_std;
        let encoding = if sin_cos { Encoding::SinCos } else { Encoding::Scaled { scaler, clip } };
        Ok(StateGroup { key: key.to_string(), encoding, dim })
    }

    /// Columns of the encoded group, where known beforehand.
    fn encoded_dim(&self) -> usize {
        let dim = self.dim.unwrap_or(0);
        if matches!(self.encoding, Encoding::SinCos) { 2 * dim } else { dim }
    }

    fn encode(&self, step: usize, raw: &[f32]) -> Vec<f32> {
        match &self.encoding {
            Encoding::Excluded => vec![0.0; raw.len()],
            Encoding::SinCos => raw.iter().map(|v| v.sin()).chain(raw.iter().map(|v| v.cos())).collect(),
            Encoding::Scaled { scaler, clip: false } => scaler.normalize(step, raw),
            Encoding::Scaled { scaler, clip: true } => {
                scaler.normalize(step, raw).into_iter().map(|v| v.clamp(-1.0, 1.0)).collect()
            }
        }
    }
}

impl StateEncoder {
    /// # Errors
    /// [`Error::File`] when statistics are missing or the groups exceed `max_state_dim`.
    pub fn new(config: &ProcessorConfig, modality: &ModalityConfig, statistics: &Statistics) -> Result<Self> {
        let group = |key: &String| StateGroup::new(key, config, modality, statistics);
        let groups = modality.modality_keys.iter().map(group).collect::<Result<Vec<_>>>()?;
        let total: usize = groups.iter().map(StateGroup::encoded_dim).sum();
        let max_dim = config.max_state_dim;
        if total > max_dim {
            let what = format!("groups have {total} values together, max_state_dim is {max_dim}");
            return Err(statistics.error("state", "*", what));
        }
        Ok(StateEncoder { groups, horizon: modality.delta_indices.len(), max_dim })
    }

    /// Columns of the padded state.
    pub fn max_dim(&self) -> usize {
        self.max_dim
    }

    /// Raw values per time step of a group; `None` when it is unknown or not a group of the state.
    pub fn dim(&self, key: &str) -> Option<usize> {
        self.groups.iter().find(|g| g.key == key).and_then(|g| g.dim)
    }

    /// Whether the state modality has this group.
    pub fn contains(&self, key: &str) -> bool {
        self.groups.iter().any(|g| g.key == key)
    }

    /// The observation's checked group: `[horizon, dim]`, finite.
    ///
    /// # Errors
    /// [`Error::Input`] about `state.<key>`: missing, of another shape, or not finite.
    pub fn group<'a>(&self, observation: &'a Observation, key: &str) -> Result<&'a Matrix> {
        let field = format!("state.{key}");
        let Some(matrix) = observation.state.get(key) else {
            let expected: Vec<&str> = self.groups.iter().map(|g| g.key.as_str()).collect();
            return Err(Error::input(field, format!("missing; expected groups: {}", expected.join(", "))));
        };
        check_matrix(&field, matrix)?;
        if matrix.rows != self.horizon {
            let what = format!("expected {} time steps, found {}", self.horizon, matrix.rows);
            return Err(Error::input(field, what));
        }
        if let Some(dim) = self.dim(key).filter(|&dim| dim != matrix.cols) {
            return Err(Error::input(
                field,
                format!("expected {dim} values (statistics.json), found {}", matrix.cols),
            ));
        }
        Ok(matrix)
    }

    /// The encoded state: `[horizon, max_state_dim]`, groups in the model's order, then zeros.
    ///
    /// # Errors
    /// As [`StateEncoder::group`].
    pub fn encode(&self, observation: &Observation) -> Result<Matrix> {
        let mut data = vec![0f32; self.horizon * self.max_dim];
        let mut column = 0;
        for group in &self.groups {
            let raw = self.group(observation, &group.key)?;
            let mut width = 0;
            for step in 0..self.horizon {
                let encoded = group.encode(step, raw.row(step));
                width = encoded.len();
                if column + width > self.max_dim {
                    let what = format!("exceeds max_state_dim {} at {}", self.max_dim, column + width);
                    return Err(Error::input(format!("state.{}", group.key), what));
                }
                data[step * self.max_dim + column..][..width].copy_from_slice(&encoded);
            }
            column += width;
        }
        Ok(Matrix { rows: self.horizon, cols: self.max_dim, data })
    }
}

/// Refuses a matrix whose data does not match its shape or is not finite.
pub(super) fn check_matrix(field: &str, matrix: &Matrix) -> Result<()> {
    let &Matrix { rows, cols, ref data } = matrix;
    if rows.checked_mul(cols) != Some(data.len()) {
        let what = format!("expected {rows} x {cols} values, found {}", data.len());
        return Err(Error::input(field, what));
    }
    match data.iter().position(|v| !v.is_finite()) {
        Some(at) => {
            let what = format!("value {} of time step {} is {}", at % cols, at / cols, data[at]);
            Err(Error::input(field, what))
        }
        None => Ok(()),
    }
}
