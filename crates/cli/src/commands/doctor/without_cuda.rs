//! What a build without the CUDA engine says in its place.

use super::machine::{Found, Gpu, Gpus, KernelCache, Library};
use crate::engines::cuda::ABSENT;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// None is seen.
///
/// # Errors
/// Always: says what the build lacks.
pub fn survey() -> Result<(u32, Vec<Gpu>)> {
    Err(Error::engine(ABSENT))
}

/// No policy runs on a GPU.
///
/// # Errors
/// Always: says what the build lacks.
pub fn check(_: &PrecisionPolicy, _: &[ModelSite], _: Option<(u32, u32)>) -> Result<()> {
    Err(Error::engine(ABSENT))
}

/// The compiler is not asked for.
pub fn nvrtc(_: &Gpus) -> Library {
    let absent: Result<Found> = Err(Error::engine(ABSENT));
    Library::looked_for("NVRTC", "cuda", absent, "build steady with its feature `cuda`")
}

/// None are kept.
pub fn kernel_cache() -> Option<KernelCache> {
    None
}
