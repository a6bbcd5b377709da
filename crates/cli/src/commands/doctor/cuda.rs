//! What the CUDA engine finds on this machine: GPUs, the compiler, kernels that were kept, number formats that it runs.

use super::capability::tensor_core_formats;
use super::libraries::loaded_from;
use super::machine::{Found, Gpu, Gpus, KernelCache, Library, Problem};
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source, user_cache};
use steadyhand_cuda_driver::{self as driver, Device, Properties, Result};
use steadyhand_gr00t::Error;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The oldest compute capability that kernels are compiled for.
const OLDEST: (u32, u32) = (8, 0);
/// A kernel to compile and to load.
const TRIAL: Source =
    Source { name: "trial.cu", text: "extern \"C\" __global__ void trial() {}", headers: &[] };

/// The driver's CUDA version and the GPUs that it shows.
///
/// # Errors
/// There is no driver, or it does not work.
pub fn survey() -> Result<(u32, Vec<Gpu>)> {
    let found = driver::survey()?;
    let devices = found.devices.iter().enumerate().map(|(number, device)| gpu(number, device));
    Ok((found.driver_version, devices.collect()))
}

fn gpu(number: usize, properties: &Properties) -> Gpu {
    Gpu {
        name: properties.name.clone(),
        compute_capability: properties.compute_capability,
        multiprocessors: properties.multiprocessors,
        memory_bytes: properties.total_memory as u64,
        tensor_core_formats: tensor_core_formats(properties.compute_capability),
        problem: Device::open(number).err().map(|error| error.to_string()),
    }
}

/// Whether kernels run a policy on a GPU of this compute capability, or on any where there is none.
///
/// # Errors
/// The first site that they do not run.
pub fn check(
    policy: &PrecisionPolicy,
    sites: &[ModelSite],
    capability: Option<(u32, u32)>,
) -> steadyhand_gr00t::Result<()> {
    Ok(steadyhand_gr00t_cuda::check(policy, sites, capability)?)
}

/// The compiler of kernels, tried.
pub fn nvrtc(gpus: &Gpus) -> Library {
    let driver = gpus.driver.as_ref().map(|driver| driver.cuda_version);
    let mend = match driver {
        Some(version) if version < 13000 => "pip install nvidia-cuda-nvrtc-cu12",
        _ => "pip install 'nvidia-cuda-nvrtc>=13,<14'",
    };
    // A folder below a file cannot be made, so nothing is kept there and the compiler really runs.
    let unkept = std::env::current_exe().unwrap_or_default().join("kernels");
    let (compiler, found) = match Compiler::open(driver, Some(unkept)) {
        Ok(compiler) => {
            let (major, minor) = compiler.version();
            let version = Some(format!("{major}.{minor}"));
            (Some(compiler), Ok(Found { path: loaded_from("libnvrtc.so"), version, notes: Vec::new() }))
        }
        Err(error) => (None, Err(Error::engine(error))),
    };
    let mut library = Library::looked_for("NVRTC", "cuda", found, mend);
    if let (Some(compiler), Some(found)) = (compiler, &mut library.found) {
        match try_kernel(&compiler, gpus) {
            Ok(note) => found.notes.push(note),
            Err(error) => {
                let mend = format!("{mend}, of a version that this driver and GPU know");
                library.problem = Some(Problem { what: error.to_string(), mend });
            }
        }
    }
    library
}

/// Compiles a kernel for the first GPU and has the driver load it; without a GPU, compiles it for the oldest.
fn try_kernel(compiler: &Compiler, gpus: &Gpus) -> Result<String> {
    match gpus.usable() {
        None => {
            let arch = Arch::of(OLDEST);
            compiler.compile(&TRIAL, &[], arch)?;
            Ok(format!("compiles for {arch}"))
        }
        Some(gpu) => {
            let arch = Arch::of(gpu.compute_capability);
            Device::open(0)?.load_module(&compiler.compile(&TRIAL, &[], arch)?)?;
            Ok(format!("compiles for {arch}, and the driver loads it"))
        }
    }
}

/// Where compiled kernels are kept, and how many there are.
pub fn kernel_cache() -> Option<KernelCache> {
    let folder = user_cache()?;
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let sizes = entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "kernel"))
        .filter_map(|entry| Some(entry.metadata().ok()?.len()));
    let sizes: Vec<u64> = sizes.collect();
    Some(KernelCache { folder, kernels: sizes.len(), bytes: sizes.iter().sum() })
}
