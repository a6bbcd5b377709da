//! From the model's normalized actions to physical, absolute ones.
//!
//! Source: the official `Gr00tN1d6Processor.decode_action` and
//! `StateActionProcessor.unapply_action`.

use super::config::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig, ProcessorConfig,
};
use super::pose::Pose;
use super::state::{StateEncoder, check_matrix};
use super::statistics::{Rule, Scaler, Statistics};
use crate::{ActionChunk, Error, Matrix, Observation, Result};

/// Values of an end effector pose as the model writes it: xyz and rot6d.
const POSE_DIM: usize = 9;

/// The action modality of one embodiment.
pub(super) struct ActionDecoder {
    groups: Vec<ActionGroup>,
    horizon: usize,
    /// Columns of the model's action.
    max_dim: usize,
}

struct ActionGroup {
    key: String,
    /// First column in the model's action.
    offset: usize,
    scaler: Scaler,
    /// What the values are relative to; `None` for absolute ones.
    reference: Option<Reference>,
}

/// The conversion of one relative group.
struct Reference {
    state_key: String,
    space: Space,
}

#[derive(Clone, Copy)]
enum Space {
    /// Added to the state.
    Joint,
    /// Composed with the state's pose and written in a format.
    Pose(ActionFormat),
}

impl ActionDecoder {
    /// # Errors
    /// [`Error::File`] when statistics are missing, do not fit the horizon or `max_action_dim`, or
    /// when a relative group's format or reference state cannot work.
    pub fn new(
        config: &ProcessorConfig,
        modality: &ModalityConfig,
        statistics: &Statistics,
        state: &StateEncoder,
    ) -> Result<Self> {
        let keys = &modality.modality_keys;
        let horizon = modality.delta_indices.len();
        if let Some(configs) = modality.action_configs.as_ref().filter(|c| c.len() != keys.len()) {
            let what = format!("{} action_configs for {} modality_keys", configs.len(), keys.len());
            return Err(statistics.error("action", "*", what));
        }
        let mut groups = Vec::with_capacity(keys.len());
        let mut offset = 0;
        for (index, key) in keys.iter().enumerate() {
            let relative = modality
                .action_configs
                .as_ref()
                .map(|configs| &configs[index])
                .filter(|c| config.use_relative_action && c.rep == ActionRepresentation::Relative);
            let group = ActionGroup::new(key, offset, relative, config, modality, statistics)?;
            group.check(horizon, statistics, state)?;
            offset += group.scaler.cols();
            groups.push(group);
        }
        if offset > config.max_action_dim {
            let what =
                format!("groups have {offset} values together, max_action_dim is {}", config.max_action_dim);
            return Err(statistics.error("action", "*", what));
        }
        Ok(ActionDecoder { groups, horizon, max_dim: config.max_action_dim })
    }

    /// Columns of the model's action.
    pub fn max_dim(&self) -> usize {
        self.max_dim
    }

    /// Physical values of a group at a time step.
    pub fn dim(&self, key: &str) -> Option<usize> {
        /// x, y, z and a rotation vector.
        const XYZ_ROTVEC: usize = 6;
        let group = self.groups.iter().find(|group| group.key == key)?;
        match group.reference.as_ref().map(|reference| reference.space) {
            Some(Space::Pose(ActionFormat::XyzRotvec)) => Some(XYZ_ROTVEC),
            _ => Some(group.scaler.cols()),
        }
    }

    /// Steps of a chunk.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// Physical actions of `normalized` (`[>= horizon, max_action_dim]`), given the state they start from.
    ///
    /// # Errors
    /// [`Error::Input`] when `normalized` has another shape or is not finite, or when a relative
    /// group's state is missing or wrong. A policy that produced NaN must not move a robot, so
    /// that is an error here, unlike in the official code.
    pub fn decode(
        &self,
        normalized: &Matrix,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<ActionChunk> {
        check_matrix("action", normalized)?;
        if normalized.rows < self.horizon || normalized.cols != self.max_dim {
            let what = format!(
                "expected at least {} steps of {} values, found {} of {}",
                self.horizon, self.max_dim, normalized.rows, normalized.cols
            );
            return Err(Error::input("action", what));
        }
        let decode = |group: &ActionGroup| {
            let matrix = group.decode(normalized, self.horizon, observation, state)?;
            Ok((group.key.clone(), matrix))
        };
        Ok(ActionChunk { groups: self.groups.iter().map(decode).collect::<Result<_>>()? })
    }
}

impl ActionGroup {
    fn new(
        key: &str,
        offset: usize,
        relative: Option<&ActionConfig>,
        config: &ProcessorConfig,
        modality: &ModalityConfig,
        statistics: &Statistics,
    ) -> Result<Self> {
        let rule = match (modality.is_mean_std(key), config.use_percentiles && relative.is_none()) {
            (true, _) => Rule::MeanStd,
            (false, true) => Rule::Percentiles,
            // Relative groups take min/max even with `use_percentiles`: the official code replaces
            // their parameters by the raw relative statistics and then reads "min" and "max".
            (false, false) => Rule::MinMax,
        };
        let Some(relative) = relative else {
            let scaler = statistics.scaler("action", key, rule)?;
            return Ok(ActionGroup { key: key.to_string(), offset, scaler, reference: None });
        };
        let space = match (relative.kind, relative.format) {
            (ActionType::NonEef, ActionFormat::Default) => Space::Joint,
            (ActionType::Eef, format @ (ActionFormat::XyzRot6d | ActionFormat::XyzRotvec)) => {
                Space::Pose(format)
            }
            (kind, format) => {
                let what = format!("a relative {kind:?} action cannot be written as {format:?}");
                return Err(statistics.error("relative_action", key, what));
            }
        };
        let scaler = statistics.scaler("relative_action", key, rule)?;
        // The width in the model's output is that of the absolute statistics.
        let width = statistics.table("action", key, "min")?.cols;
        if scaler.cols() != width {
            let what = format!("{} values, but {width} in action.{key}", scaler.cols());
            return Err(statistics.error("relative_action", key, what));
        }
        let state_key = relative.state_key.as_deref().filter(|k| !k.is_empty()).unwrap_or(key).to_string();
        let reference = Some(Reference { state_key, space });
        Ok(ActionGroup { key: key.to_string(), offset, scaler, reference })
    }

    /// Refuses at load time what would fail at every inference.
    fn check(&self, horizon: usize, statistics: &Statistics, state: &StateEncoder) -> Result<()> {
        let modality = if self.reference.is_some() { "relative_action" } else { "action" };
        let error = |what: String| Err(statistics.error(modality, &self.key, what));
        let (rows, cols) = (self.scaler.rows(), self.scaler.cols());
        if rows != 1 && rows != horizon {
            return error(format!("expected statistics for 1 or {horizon} time steps, found {rows}"));
        }
        let Some(Reference { state_key, space }) = &self.reference else { return Ok(()) };
        if matches!(space, Space::Pose(_)) && cols != POSE_DIM {
            return error(format!("expected {POSE_DIM} values (xyz + rot6d), found {cols}"));
        }
        if !state.contains(state_key) {
            return error(format!("refers to state.{state_key}, which is not a group of the state"));
        }
        match state.dim(state_key) {
            Some(dim) if dim != cols => error(format!("{cols} values, but state.{state_key} has {dim}")),
            _ => Ok(()),
        }
    }

    /// `[horizon, dim]` physical values.
    fn decode(
        &self,
        normalized: &Matrix,
        horizon: usize,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Matrix> {
        let width = self.scaler.cols();
        let physical: Vec<Vec<f64>> = (0..horizon)
            .map(|step| {
                self.scaler.unnormalize(step, &normalized.row(step)[self.offset..self.offset + width])
            })
            .collect();
        let absolute = match &self.reference {
            None => physical,
            Some(reference) => self.to_absolute(physical, reference, observation, state)?,
        };
        let cols = absolute.first().map_or(width, Vec::len);
        let data = absolute.into_iter().flatten().map(|v| v as f32).collect();
        Ok(Matrix { rows: horizon, cols, data })
    }

    /// Relative to the last time step of the reference state.
    fn to_absolute(
        &self,
        relative: Vec<Vec<f64>>,
        reference: &Reference,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Vec<Vec<f64>>> {
        let field = format!("state.{}", reference.state_key);
        let matrix = state.group(observation, &reference.state_key)?;
        let Some(last) = matrix.rows.checked_sub(1) else {
            return Err(Error::input(field, "expected at least one time step"));
        };
        if matrix.cols != self.scaler.cols() {
            let what = format!("expected {} values, found {}", self.scaler.cols(), matrix.cols);
            return Err(Error::input(field, what));
        }
        let origin: Vec<f64> = matrix.row(last).iter().map(|&v| f64::from(v)).collect();
        match reference.space {
            Space::Joint => {
                let add = |row: Vec<f64>| row.iter().zip(&origin).map(|(a, s)| s + a).collect();
                Ok(relative.into_iter().map(add).collect())
            }
            Space::Pose(format) => {
                let pose = |field: &str, values: &[f64]| {
                    let what = "the two rows of the rotation do not span a plane";
                    Pose::from_xyz_rot6d(values).ok_or_else(|| Error::input(field, what))
                };
                let origin = pose(&field, &origin)?;
                let absolute = |row: Vec<f64>| {
                    let pose = origin.compose(&pose(&format!("action.{}", self.key), &row)?);
                    Ok(match format {
                        ActionFormat::XyzRotvec => pose.to_xyz_rotvec(),
                        _ => pose.to_xyz_rot6d(),
                    })
                };
                relative.into_iter().map(absolute).collect()
            }
        }
    }
}
