//! The libraries that engines load when they are asked for: found, and tried.

use super::args::DoctorArgs;
use super::cuda;
use super::machine::{Found, Gpus, Library};
use std::path::PathBuf;
use steadyhand_external::onnxruntime::{self, Provider};
use steadyhand_external::tensorrt::{self, Product, Target};

/// All of them, those of the engine that runs most first.
pub fn look(args: &DoctorArgs, gpus: &Gpus) -> Vec<Library> {
    vec![
        cuda::nvrtc(gpus),
        onnx_runtime(args),
        tensorrt_of(
            args,
            Product::TensorRtRtx,
            "pip install tensorrt-rtx-cu13-libs, if steady engine is wanted",
        ),
        tensorrt_of(
            args,
            Product::TensorRt,
            "pip download tensorrt==8.5.3.1, if engines of TensorRT are wanted",
        ),
    ]
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

fn tensorrt_of(args: &DoctorArgs, product: Product, mend: &str) -> Library {
    let found = tensorrt::locate(args.tensorrt.as_deref(), Some(Target::any(product))).map(|found| Found {
        path: Some(found.runtime),
        version: Some(found.version.to_string()),
        notes: found.parser.map(|parser| format!("parser: {}", parser.display())).into_iter().collect(),
    });
    Library::looked_for(product.name(), "steady engine", found, mend)
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
