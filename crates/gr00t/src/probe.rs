//! Probes see the named intermediate tensors of an inference.

use std::collections::BTreeMap;

/// Sees every tensor that passes a named site.
pub trait Probe {
    /// `name` is the site's, prefixed by `step.K.` inside Euler step K. `shape` is `[batch, tokens, features]`,
    /// `values` row-major. The values are those handed to the next operation, already rounded to the
    /// site's storage format.
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]);
}

/// A probe that keeps the tensors whose names it was given.
#[derive(Debug, Default)]
pub struct Recorder {
    wanted: Option<std::collections::BTreeSet<String>>,
    /// Name → shape and values, as tapped.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Recorder {
    /// Keeps every tap.
    pub fn all() -> Self {
        Recorder::default()
    }

    /// Keeps only taps of these names.
    pub fn only(names: impl IntoIterator<Item = String>) -> Self {
        Recorder { wanted: Some(names.into_iter().collect()), tensors: BTreeMap::new() }
    }
}

impl Probe for Recorder {
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        if self.wanted.as_ref().is_none_or(|wanted| wanted.contains(name)) {
            self.tensors.insert(name.to_owned(), (shape.to_vec(), values.to_vec()));
        }
    }
}
