//! `tensorrt:FILE`: an engine of TensorRT or TensorRT-RTX for one component, the reference around it.

use super::{Kind, Open, Options};
use anyhow::Result;
use std::path::Path;
use steadyhand_external::tensorrt::{EngineFile, TensorRtBackend};
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::precision::PrecisionPolicy;

pub const KIND: Kind = Kind {
    name: "tensorrt",
    form: "tensorrt:FILE",
    about: "an engine of TensorRT or TensorRT-RTX for one component, the reference around it",
    exchanges: false,
    open: Open::Stored { options: &["--tensorrt", "--device"], precision, backend },
};

fn precision(file: &Path) -> Result<Option<PrecisionPolicy>> {
    Ok(EngineFile::read(file)?.precision()?)
}

fn backend(file: &Path, options: &Options) -> Result<Box<dyn Backend>> {
    let (library, device) = (options.tensorrt.clone(), options.device.unwrap_or(0));
    Ok(Box::new(TensorRtBackend { engine: EngineFile::read(file)?, library, device }))
}
