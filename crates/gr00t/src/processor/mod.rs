//! From an [`Observation`](crate::Observation) to model input, and from normalized to physical actions.
