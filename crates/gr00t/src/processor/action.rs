//! From the model's normalized actions to physical, absolute ones, and back.
//!
//! Source: the official processors' `decode_action`, `StateActionProcessor.unapply_action` and `apply_action`.

use super::config::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig, ProcessorConfig,
};
use super::pose::Pose;
use super::state::{StateEncoder, check_matrix};
use super::statistics::{Rule, Scaler, Statistics};
use crate::{ActionChunk, Error, Matrix, Observation, Result, Version};
use std::ops::Range;

/// The action modality of one embodiment.
pub(super) struct ActionCodec {
    groups: Vec<ActionGroup>,
    horizon: usize,
    /// Rows of the model's action.
    max_horizon: usize,
    /// Whether encoded actions are clipped to `[-1, 1]`, as the targets of training were.
    clip: bool,
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
    /// Composed with the state's pose.
    Pose(PoseFormats),
}

/// The formats of a relative pose.
#[derive(Debug, Clone, Copy)]
struct PoseFormats {
    /// Of the model's action and of the reference state.
    relative: ActionFormat,
    /// Of the absolute action.
    absolute: ActionFormat,
}

impl PoseFormats {
    /// N1.6 reads rot6d whatever the configured format, which it only writes, and has no matrices.
    fn of(version: Version, format: ActionFormat) -> Option<Self> {
        match (version, format) {
            (Version::N1_6, ActionFormat::Default) => None,
            (Version::N1_6, _) => Some(PoseFormats { relative: ActionFormat::XyzRot6d, absolute: format }),
            (Version::N1_7, _) => Some(PoseFormats { relative: format, absolute: format }),
        }
    }
}

impl ActionCodec {
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
        Ok(ActionCodec {
            groups,
            horizon,
            max_horizon: config.max_action_horizon.max(horizon),
            clip: config.clip_outliers,
            max_dim: config.max_action_dim,
        })
    }

    /// Columns of the model's action.
    pub fn max_dim(&self) -> usize {
        self.max_dim
    }

    /// Physical values of a group at a time step.
    pub fn dim(&self, key: &str) -> Option<usize> {
        self.groups.iter().find(|group| group.key == key).map(ActionGroup::dim)
    }

    /// The groups in order: name, columns in the model's action, whether they are relative to the state there.
    pub fn columns(&self) -> impl Iterator<Item = (&str, Range<usize>, bool)> {
        self.groups.iter().map(|group| {
            let columns = group.offset..group.offset + group.scaler.cols();
            (group.key.as_str(), columns, group.reference.is_some())
        })
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

    /// The model's actions for a chunk of physical ones: `[max_action_horizon, max_action_dim]`, zero padded.
    ///
    /// # Errors
    /// [`Error::Input`] when a group is missing, of another width or not finite, when groups differ in their steps or
    /// have none or more than the horizon, or when a relative group's state is missing or wrong.
    pub fn encode(
        &self,
        chunk: &ActionChunk,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Matrix> {
        let mut data = vec![0f32; self.max_horizon * self.max_dim];
        let mut steps = None;
        for group in &self.groups {
            let physical = chunk.group(&group.key)?;
            let field = format!("action.{}", group.key);
            check_matrix(&field, physical)?;
            let (rows, cols) = (*steps.get_or_insert(physical.rows), group.dim());
            if (physical.rows, physical.cols) != (rows, cols) || !(1..=self.horizon).contains(&rows) {
                let what = format!(
                    "expected the same 1 to {} steps for all groups, of {cols} values, found {} of {}",
                    self.horizon, physical.rows, physical.cols
                );
                return Err(Error::input(field, what));
            }
            let normalized = group.encode(physical, observation, state)?;
            for (step, mut values) in normalized.into_iter().enumerate() {
                if self.clip {
                    values.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0));
                }
                data[step * self.max_dim + group.offset..][..values.len()].copy_from_slice(&values);
            }
        }
        Ok(Matrix { rows: self.max_horizon, cols: self.max_dim, data })
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
            (ActionType::NonEef, ActionFormat::Default) => Some(Space::Joint),
            (ActionType::Eef, format) => PoseFormats::of(config.version, format).map(Space::Pose),
            (ActionType::NonEef, ActionFormat::XyzRot6d | ActionFormat::XyzRotvec) => None,
        };
        let Some(space) = space else {
            let what =
                format!("a relative {:?} action cannot be written as {:?}", relative.kind, relative.format);
            return Err(statistics.error("relative_action", key, what));
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
        if let Space::Pose(PoseFormats { relative, .. }) = space
            && cols != relative.pose_dim()
        {
            let (dim, name) = (relative.pose_dim(), relative.pose_name());
            return error(format!("expected {dim} values ({name}), found {cols}"));
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
        // One piece of memory for all steps: a vector for each took 12 of 20 us for 50 steps of 128 values.
        let mut physical = Vec::with_capacity(horizon * width);
        for step in 0..horizon {
            let values = &normalized.row(step)[self.offset..self.offset + width];
            self.scaler.unnormalize(step, values, &mut physical);
        }
        if let Some(reference) = &self.reference {
            physical = self.to_absolute(physical, reference, observation, state)?;
        }
        let data = physical.into_iter().map(|value| value as f32).collect();
        Ok(Matrix { rows: horizon, cols: self.dim(), data })
    }

    /// Physical values at a time step.
    fn dim(&self) -> usize {
        match self.reference.as_ref().map(|reference| reference.space) {
            Some(Space::Pose(formats)) => formats.absolute.pose_dim(),
            Some(Space::Joint) | None => self.scaler.cols(),
        }
    }

    /// The last time step of the reference state.
    fn origin(
        &self,
        reference: &Reference,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Vec<f64>> {
        let field = format!("state.{}", reference.state_key);
        let matrix = state.group(observation, &reference.state_key)?;
        let Some(last) = matrix.rows.checked_sub(1) else {
            return Err(Error::input(field, "expected at least one time step"));
        };
        if matrix.cols != self.scaler.cols() {
            let what = format!("expected {} values, found {}", self.scaler.cols(), matrix.cols);
            return Err(Error::input(field, what));
        }
        Ok(matrix.row(last).iter().map(|&v| f64::from(v)).collect())
    }

    /// Physical values relative to the reference state → absolute ones, of all steps one after the other.
    fn to_absolute(
        &self,
        mut relative: Vec<f64>,
        reference: &Reference,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Vec<f64>> {
        let origin = self.origin(reference, observation, state)?;
        match reference.space {
            Space::Joint => {
                for row in relative.chunks_exact_mut(origin.len().max(1)) {
                    row.iter_mut().zip(&origin).for_each(|(value, origin)| *value += origin);
                }
                Ok(relative)
            }
            Space::Pose(formats) => {
                let origin = pose(&format!("state.{}", reference.state_key), formats.relative, &origin)?;
                let mut absolute = Vec::with_capacity(relative.len());
                for row in relative.chunks_exact(self.scaler.cols()) {
                    let relative = pose(&format!("action.{}", self.key), formats.relative, row)?;
                    absolute.extend(origin.compose(&relative).write(formats.absolute));
                }
                Ok(absolute)
            }
        }
    }

    /// Absolute physical values → those relative to the reference state.
    fn to_relative(
        &self,
        absolute: &Matrix,
        reference: &Reference,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Vec<Vec<f32>>> {
        let origin = self.origin(reference, observation, state)?;
        let rows = (0..absolute.rows).map(|step| absolute.row(step).iter().map(|&v| f64::from(v)));
        match reference.space {
            Space::Joint => {
                Ok(rows.map(|row| row.zip(&origin).map(|(a, s)| (a - s) as f32).collect()).collect())
            }
            Space::Pose(formats) => {
                let origin = pose(&format!("state.{}", reference.state_key), formats.relative, &origin)?;
                let back = origin.inverse();
                let relative = |row: Vec<f64>| {
                    let absolute = pose(&format!("action.{}", self.key), formats.absolute, &row)?;
                    let values = back.compose(&absolute).write(formats.relative);
                    Ok(values.into_iter().map(|v| v as f32).collect())
                };
                rows.map(|row| relative(row.collect())).collect()
            }
        }
    }

    /// Normalized values of each step of `physical`, `[steps, dim]`.
    fn encode(
        &self,
        physical: &Matrix,
        observation: &Observation,
        state: &StateEncoder,
    ) -> Result<Vec<Vec<f32>>> {
        let rows = match &self.reference {
            None => (0..physical.rows).map(|step| physical.row(step).to_vec()).collect(),
            Some(reference) => self.to_relative(physical, reference, observation, state)?,
        };
        Ok(rows.iter().enumerate().map(|(step, row)| self.scaler.normalize(step, row)).collect())
    }
}

/// A pose of an action or a state, which `field` names in errors.
fn pose(field: &str, format: ActionFormat, values: &[f64]) -> Result<Pose> {
    Pose::read(format, values).map_err(|what| Error::input(field, what))
}
