//! What an embodiment observes and does, in words and numbers.

use crate::processor::Processor;
use std::fmt;

/// What an [`Observation`](crate::Observation) must hold, and what an [`ActionChunk`](crate::ActionChunk) will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As the checkpoint spells it.
    pub embodiment_tag: String,
    /// Camera views.
    pub views: Vec<View>,
    /// Joint groups of the state, in physical units.
    pub state: Vec<Group>,
    /// Joint groups of the actions, in physical units.
    pub actions: Vec<Group>,
}

/// A camera view: 8-bit RGB frames of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its key in [`Observation::images`](crate::Observation::images).
    pub name: String,
    /// The time of each frame, oldest first, in steps of the dataset relative to now: `[0]` for the current one alone.
    pub delta_indices: Vec<i64>,
}

/// A joint group: a matrix of one row a time step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name in [`Observation::state`](crate::Observation::state) or [`ActionChunk`](crate::ActionChunk).
    pub name: String,
    /// The time of each row, in steps of the dataset relative to now.
    pub delta_indices: Vec<i64>,
    /// Values of a row; `None` where the checkpoint does not tell.
    pub dim: Option<usize>,
}

impl Described {
    /// What a processor's embodiment observes and does.
    pub fn of(processor: &Processor) -> Self {
        let modalities = processor.modalities();
        let view = |name: &String| View {
            name: name.clone(),
            delta_indices: modalities.video.delta_indices.clone(),
        };
        let state = |name: &String| Group {
            name: name.clone(),
            delta_indices: modalities.state.delta_indices.clone(),
            dim: processor.state_dim(name),
        };
        let action = |name: &String| Group {
            name: name.clone(),
            delta_indices: modalities.action.delta_indices.clone(),
            dim: processor.action_dim(name),
        };
        Described {
            embodiment_tag: processor.embodiment_tag().to_owned(),
            views: modalities.video.modality_keys.iter().map(view).collect(),
            state: modalities.state.modality_keys.iter().map(state).collect(),
            actions: modalities.action.modality_keys.iter().map(action).collect(),
        }
    }
}

impl fmt::Display for Described {
    /// A line for each view and joint group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.embodiment_tag)?;
        for View { name, delta_indices } in &self.views {
            writeln!(f, "image   {name}: {} RGB", delta_indices.len())?;
        }
        for (kind, groups) in [("state ", &self.state), ("action", &self.actions)] {
            for Group { name, delta_indices, dim } in groups {
                let dim = dim.map_or("?".to_owned(), |dim| dim.to_string());
                writeln!(f, "{kind}  {name}: [{}, {dim}]", delta_indices.len())?;
            }
        }
        Ok(())
    }
}
