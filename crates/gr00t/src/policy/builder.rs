//! The options of a policy.

use super::{Parts, Policy, Precision};
use crate::Result;
use crate::engine::{Backend, Reference};
use std::path::PathBuf;

/// Options of a policy; made by [`Policy::builder`].
pub struct PolicyBuilder {
    folder: PathBuf,
    embodiment_tag: Option<String>,
    engine: Box<dyn Backend>,
    precision: Precision,
    tokenizer: Option<PathBuf>,
    denoising_steps: usize,
    seed: u64,
}

impl PolicyBuilder {
    pub(super) fn new(folder: PathBuf) -> Self {
        PolicyBuilder {
            folder,
            embodiment_tag: None,
            engine: Box::new(Reference),
            precision: Precision::from("f32"),
            tokenizer: None,
            denoising_steps: 4,
            seed: 42,
        }
    }

    /// The robot, such as `new_embodiment`, in upper or lower case. Only a checkpoint of one embodiment needs none.
    #[must_use]
    pub fn embodiment_tag(self, tag: impl Into<String>) -> Self {
        PolicyBuilder { embodiment_tag: Some(tag.into()), ..self }
    }

    /// What runs the model, in place of the [`Reference`].
    #[must_use]
    pub fn engine(self, backend: impl Backend + 'static) -> Self {
        PolicyBuilder { engine: Box::new(backend), ..self }
    }

    /// Number formats: a preset's name such as `bf16`, the path of a TOML file, or a
    /// [`PrecisionPolicy`](crate::precision::PrecisionPolicy).
    #[must_use]
    pub fn precision(self, precision: impl Into<Precision>) -> Self {
        PolicyBuilder { precision: precision.into(), ..self }
    }

    /// A `tokenizer.json`, or a folder with one or with `vocab.json` and `merges.txt`, in place of the checkpoint's.
    #[must_use]
    pub fn tokenizer(self, path: impl Into<PathBuf>) -> Self {
        PolicyBuilder { tokenizer: Some(path.into()), ..self }
    }

    /// Euler steps of an inference, 4 unless set.
    #[must_use]
    pub fn denoising_steps(self, steps: usize) -> Self {
        PolicyBuilder { denoising_steps: steps, ..self }
    }

    /// Seed of the initial noise, 42 unless set.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        PolicyBuilder { seed, ..self }
    }

    /// Loads processor and model, checks that they fit each other and the precision, and opens the engine.
    ///
    /// # Errors
    /// A file of the checkpoint that is missing, malformed or does not fit the others: file and field are named.
    /// [`Error::Option`](crate::Error::Option) for a tag or a tokenizer that must be set, and for 0 steps. A precision that does not fit the
    /// model, or that the engine does not execute: the first such site is named. An engine that cannot run here.
    pub fn open(self) -> Result<Policy> {
        let parts = Parts::load(&self.folder, self.embodiment_tag.as_deref(), self.tokenizer.as_deref())?;
        parts.policy(self.engine.as_ref(), self.precision, self.denoising_steps, self.seed)
    }
}
