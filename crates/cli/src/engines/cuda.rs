//! `cuda`: the engine on an NVIDIA GPU.

use super::{Kind, Open, Options};
use anyhow::Result;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_cuda::{self as gpu, Cuda};

pub const KIND: Kind = Kind {
    name: "cuda",
    form: "cuda:PRECISION",
    about: "an NVIDIA GPU",
    exchanges: true,
    open: Open::Running { options: &["--device", "--kernel-cache", "--kernel-dir"], backend },
};

/// What opens engines on the GPU that the options name.
///
/// # Errors
/// None: a GPU that is missing is an error where an engine is opened.
pub fn backend(options: &Options) -> Result<Box<dyn Backend>> {
    Ok(Box::new(Cuda { options: engine_options(options) }))
}

/// Whether the engine executes a policy at these sites, on some device.
///
/// # Errors
/// Names the site where it does not.
pub fn admits(policy: &PrecisionPolicy, sites: &[ModelSite]) -> steadyhand_gr00t::Result<()> {
    Ok(gpu::check(policy, sites, None)?)
}

fn engine_options(options: &Options) -> gpu::Options {
    gpu::Options {
        device: options.device.unwrap_or(0),
        kernel_cache: options.kernel_cache.clone(),
        kernel_dir: options.kernel_dir.clone(),
    }
}

/// A GPU that engines can be opened on.
pub struct Gpu {
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// Such as `9.0`.
    pub compute_capability: String,
    /// The driver's CUDA version, such as `13.0`.
    pub driver_version: String,
    /// Held, so that its context outlives the engines that come and go.
    _device: Device,
}

impl Gpu {
    /// The GPU that the options name, with a compiler for it: without one every engine would fail for the same reason.
    ///
    /// # Errors
    /// There is no such GPU, no driver or no compiler.
    pub fn open(options: &Options) -> Result<Self> {
        let options = engine_options(options);
        let device = Device::open(options.device)?;
        let properties = device.properties();
        let ((major, minor), driver) = (properties.compute_capability, properties.driver_version);
        Compiler::open(Some(driver), options.kernel_cache)?;
        Ok(Gpu {
            name: properties.name.clone(),
            compute_capability: format!("{major}.{minor}"),
            driver_version: format!("{}.{}", driver / 1000, driver % 1000 / 10),
            _device: device,
        })
    }
}
