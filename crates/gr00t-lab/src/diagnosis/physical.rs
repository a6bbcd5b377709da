//! Actions that are known in physical units alone, as a server gives them.
//!
//! They are compared as normalized ones, which is what faults change and thresholds are of. The way back loses what the
//! way out lost: padding, steps behind the chunk, what was clipped, joints without a range, the last place of f32. So that
//! nothing is guessed, the reference's actions and those of every hypothesis go the same way out and back before they are
//! compared, and the floor has what one last place of the physical actions makes of normalized ones.

use super::setup::Setup;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::{ActionChunk, Matrix, Result};

impl Setup<'_> {
    /// Normalized actions of an inference as far as the engine's are known. Those that are no numbers stay as they are.
    ///
    /// # Errors
    /// They do not fit the processor.
    pub(super) fn seen(&self, inference: usize, actions: Matrix) -> Result<Matrix> {
        if !self.physical || actions.data.iter().any(|value| !value.is_finite()) {
            return Ok(actions);
        }
        self.normalized(inference, &self.processor.decode(&actions, &self.observations[inference])?)
    }

    /// Physical actions of an inference as the model gives them, zero where they are not known.
    ///
    /// # Errors
    /// They do not fit the processor.
    pub(super) fn normalized(&self, inference: usize, chunk: &ActionChunk) -> Result<Matrix> {
        let Matrix { cols, mut data, .. } =
            self.processor.encode_actions(chunk, &self.observations[inference])?;
        let rows = self.model.config.action_horizon;
        data.resize(rows * cols, 0.0);
        Ok(Matrix { rows, cols, data })
    }

    /// What one last place of the physical actions makes of these normalized ones, all inferences together: the relative
    /// L2 distance.
    ///
    /// # Errors
    /// They do not fit the processor.
    pub(super) fn last_place(&self, actions: &[Matrix]) -> Result<f64> {
        let (mut found, mut moved) = (Vec::new(), Vec::new());
        for (inference, actions) in actions.iter().enumerate() {
            let mut chunk = self.processor.decode(actions, &self.observations[inference])?;
            found.extend(self.normalized(inference, &chunk)?.data);
            let values = chunk.groups.iter_mut().flat_map(|(_, actions)| &mut actions.data);
            values.for_each(|value| *value = value.next_up());
            moved.extend(self.normalized(inference, &chunk)?.data);
        }
        Ok(relative_l2(&moved, &found))
    }

    /// What nothing can be told of, in sentences: `actions` are the engine's, as [`Setup::normalized`] gives them.
    pub(super) fn unseen(&self, actions: &[Matrix]) -> Vec<String> {
        let (steps, mut known) = (self.processor.action_horizon(), 0);
        let mut notes = Vec::new();
        for (group, columns, relative) in self.processor.action_columns() {
            known += columns.len();
            let values = |column: usize| {
                actions.iter().flat_map(move |matrix| (0..steps).map(move |step| matrix.row(step)[column]))
            };
            let still = columns.clone().filter(|column| values(*column).all(|value| value == 0.0)).count();
            let all = columns.len() * steps * actions.len();
            let at_end = columns.flat_map(values).filter(|value| value.abs() >= 1.0).count();
            if at_end > 0 {
                notes.push(format!(
                    "action.{group}: {at_end} of {all} values are at an end of their range; how far the engine went beyond \
                     it is not known"
                ));
            }
            if still > 0 {
                notes.push(format!("action.{group}: {still} joints have no range and tell nothing"));
            }
            if relative {
                notes.push(format!(
                    "action.{group}: relative to the state, which was subtracted again; the floor has what that loses"
                ));
            }
        }
        let (rows, cols) = actions.first().map_or((0, 0), |matrix| (matrix.rows, matrix.cols));
        notes.push(format!(
            "known in physical units: {steps} of {rows} steps and {known} of {cols} columns of the model's actions"
        ));
        notes
    }
}
