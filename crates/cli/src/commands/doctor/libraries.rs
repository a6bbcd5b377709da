//! The libraries that engines load when they are asked for: found, and tried.

use super::args::DoctorArgs;
use super::machine::{Found, Gpus, KernelCache, Library, Problem};
use std::path::PathBuf;
use steadyhand_cuda_driver::Device;
use steadyhand_cuda_driver::Result;
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source, user_cache};
use steadyhand_external::onnxruntime::{self, Provider};
use steadyhand_external::tensorrt;

/// The oldest compute capability that kernels are compiled for.
const OLDEST: (u32, u32) = (8, 0);
/// A kernel to compile and to load.
const TRIAL: Source =
    Source { name: "trial.cu", text: "extern \"C\" __global__ void trial() {}", headers: &[] };

/// All of them, those of the engine that runs most first.
pub fn look(args: &DoctorArgs, gpus: &Gpus) -> Vec<Library> {
    vec![nvrtc(gpus), onnx_runtime(args), tensorrt_rtx(args)]
}

fn nvrtc(gpus: &Gpus) -> Library {
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
        Err(error) => (None, Err(steadyhand_gr00t::Error::engine(error))),
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

fn onnx_runtime(args: &DoctorArgs) -> Library {
    let found = onnxruntime::locate(args.onnxruntime.as_deref()).map(|found| Found {
        path: Some(found.library),
        version: found.version,
        notes: vec![format!(
            "providers: {}",
            found.providers.iter().map(Provider::to_string).collect::<Vec<_>>().join(", ")
        )],
    });
    Library::looked_for(
        "ONNX Runtime",
        "onnxruntime",
        found,
        "pip install onnxruntime, if --engine onnxruntime is wanted",
    )
}

fn tensorrt_rtx(args: &DoctorArgs) -> Library {
    let found = tensorrt::locate(args.tensorrt.as_deref()).map(|found| Found {
        path: Some(found.runtime),
        version: Some(found.version.to_string()),
        notes: vec![format!("parser: {}", found.parser.display())],
    });
    let mend = "pip install tensorrt-rtx-cu13-libs, if steady engine is wanted";
    Library::looked_for("TensorRT-RTX", "steady engine", found, mend)
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

/// The file that a library of this name was loaded from into this process, as Linux lists it.
pub fn loaded_from(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
    let named = |path: &PathBuf| {
        path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.starts_with(name))
    };
    paths.into_iter().find(named)
}
