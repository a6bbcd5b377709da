//! `tensorrt:FILE`: an engine of TensorRT or TensorRT-RTX for one component, the reference around it; `tensorrt:FILE,FILE`
//! those of the DiT's blocks, in their order.

use super::{Kind, Open, Options};
use anyhow::Result;
use std::path::Path;
use steadyhand_external::tensorrt::{EngineFiles, TensorRtBackend};
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::precision::PrecisionPolicy;

pub const KIND: Kind = Kind {
    name: "tensorrt",
    form: "tensorrt:FILE",
    about: "an engine of TensorRT or TensorRT-RTX for one component, or FILE,FILE those of a DiT's blocks, the reference around it",
    exchanges: false,
    open: Open::Stored { options: &["--tensorrt", "--device"], precision, backend },
};

fn precision(file: &Path) -> Result<Option<PrecisionPolicy>> {
    Ok(files(file)?.precision()?)
}

fn backend(file: &Path, options: &Options) -> Result<Box<dyn Backend>> {
    let (library, device) = (options.tensorrt.clone(), options.device.unwrap_or(0));
    Ok(Box::new(TensorRtBackend { engine: files(file)?, library, device }))
}

/// A file whose own name has a comma is one.
fn files(named: &Path) -> steadyhand_gr00t::Result<EngineFiles> {
    match named.to_str() {
        Some(names) if !named.exists() => EngineFiles::read(&names.split(',').collect::<Vec<_>>()),
        _ => EngineFiles::read(&[named]),
    }
}
