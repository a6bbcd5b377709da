//! `cuda` in a build without it: known by name, and refused with the reason.

use super::{Kind, Open, Options};
use anyhow::{Result, bail};
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result as PolicyResult};

/// Why nothing runs on a GPU.
pub const ABSENT: &str = "this steady was built without CUDA (cargo feature `cuda`)";

pub const KIND: Kind = Kind {
    name: "cuda",
    form: "cuda:PRECISION",
    about: "an NVIDIA GPU, which this build runs nothing on",
    exchanges: true,
    open: Open::Running { options: &["--device", "--kernel-cache", "--kernel-dir"], backend },
};

/// What opens engines on the GPU that the options name.
///
/// # Errors
/// None: a GPU that is missing is an error where an engine is opened.
pub fn backend(_: &Options) -> Result<Box<dyn Backend>> {
    Ok(Box::new(Absent))
}

/// Everything: no engine of this build would execute a policy otherwise.
///
/// # Errors
/// None.
pub fn admits(_: &PrecisionPolicy, _: &[ModelSite]) -> PolicyResult<()> {
    Ok(())
}

struct Absent;

impl Absent {
    fn refuse<T>(&self) -> PolicyResult<T> {
        Err(Error::engine(ABSENT))
    }
}

impl Backend for Absent {
    fn name(&self) -> &'static str {
        KIND.name
    }

    fn device(&self) -> PolicyResult<String> {
        self.refuse()
    }

    fn check(&self, _: &PrecisionPolicy, _: &[ModelSite]) -> PolicyResult<()> {
        self.refuse()
    }

    fn open(&self, _: Model, _: PrecisionPolicy, _: usize) -> PolicyResult<Box<dyn Engine + Send>> {
        self.refuse()
    }
}

/// A GPU that engines can be opened on; this build opens none.
pub struct Gpu {
    pub name: String,
    pub compute_capability: String,
    pub driver_version: String,
}

impl Gpu {
    /// Never opened.
    ///
    /// # Errors
    /// Always: says what the build lacks.
    pub fn open(_: &Options) -> Result<Self> {
        bail!("{ABSENT}")
    }
}
