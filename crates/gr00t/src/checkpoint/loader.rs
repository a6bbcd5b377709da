//! Takes the model's tensors out of a checkpoint and lists everything that does not fit, at once; or makes them
//! up from a seed.

use super::{Checkpoint, Weight};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Hands out tensors by name and shape. Problems are collected; [`Loader::finish`] reports them all.
#[derive(Debug)]
pub struct Loader<'a> {
    source: Source<'a>,
    taken: BTreeSet<String>,
    problems: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Checkpoint(&'a Checkpoint),
    Seed(u64),
}

impl<'a> Loader<'a> {
    /// A loader over all tensors of `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Loader { source: Source::Checkpoint(checkpoint), taken: BTreeSet::new(), problems: Vec::new() }
    }

    /// A loader that has every tensor in every shape, made from `seed` ([`super::Synthetic`]). Nothing is held
    /// in memory, and [`Loader::finish`] finds no problems.
    pub fn synthetic(seed: u64) -> Loader<'static> {
        Loader { source: Source::Seed(seed), taken: BTreeSet::new(), problems: Vec::new() }
    }

    /// The tensor `name`, which must have this shape.
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Weight {
        let checkpoint = match self.source {
            Source::Checkpoint(checkpoint) => checkpoint,
            Source::Seed(seed) => return Weight::from_seed(seed, name.to_owned(), shape.to_vec()),
        };
        self.taken.insert(name.to_owned());
        match checkpoint.get(name) {
            Some(weight) if weight.shape() == shape => return weight.clone(),
            Some(weight) => {
                self.problems.push(format!("{name}: expected shape {shape:?}, found {:?}", weight.shape()));
            }
            None => self.problems.push(format!("{name}: missing, expected shape {shape:?}")),
        }
        Weight::absent(name.to_owned(), shape.to_vec())
    }

    /// Ends loading. What begins with one of the names `unused` may be there or not.
    ///
    /// # Errors
    /// One error that names every missing, wrongly shaped and unexpected tensor.
    pub fn finish(mut self, unused: &[&str]) -> Result<()> {
        let Source::Checkpoint(checkpoint) = self.source else { return Ok(()) };
        for (name, weight) in checkpoint.tensors() {
            if !self.taken.contains(name) && !unused.iter().any(|prefix| name.starts_with(prefix)) {
                self.problems.push(format!("{name}: unexpected, shape {:?}", weight.shape()));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let count = match self.problems.len() {
            1 => "1 tensor does".to_owned(),
            count => format!("{count} tensors do"),
        };
        let list = self.problems.join("\n  ");
        Err(Error::file(checkpoint.folder(), format!("{count} not fit config.json:\n  {list}")))
    }
}
