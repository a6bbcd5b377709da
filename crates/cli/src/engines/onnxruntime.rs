//! `onnxruntime`: a policy exported as an ONNX graph, run by ONNX Runtime.

use super::{Kind, Open, Options};
use anyhow::Result;
use steadyhand_external::onnxruntime::{OnnxRuntime, RuntimeOptions};
use steadyhand_gr00t::engine::Backend;

pub const KIND: Kind = Kind {
    name: "onnxruntime",
    form: "onnxruntime:PRECISION",
    about: "ONNX Runtime on an exported policy",
    exchanges: false,
    open: Open::Running { options: &["--onnx", "--provider", "--onnxruntime"], backend },
};

fn backend(options: &Options) -> Result<Box<dyn Backend>> {
    let provider = options.provider.unwrap_or_default();
    let runtime = RuntimeOptions { library: options.onnxruntime.clone(), provider };
    Ok(Box::new(OnnxRuntime { options: runtime, graph: options.onnx.clone() }))
}
