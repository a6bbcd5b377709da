//! TensorRT itself: the demo's diffusion transformer is built on the GPU at hand and run, or it is said why not. A file of
//! its own: a process keeps what its libraries have said in one place.
//!
//! Needs `libnvinfer`: Python's `tensorrt` 8.5.3.1, or a folder that `TENSORRT_PATH` names. Where there is none, the tests
//! are ignored.

use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use steadyhand_external::bindings::{Runner, Tensor};
use steadyhand_external::tensorrt::{BuildOptions, Product, Range, Target, TensorRt, locate};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::{Component, Export, Layout, Names};
use steadyhand_gr00t::ops::onnx::Products;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

fn main() -> ExitCode {
    let absent = locate(None, Some(Target::any(Product::TensorRt))).is_err();
    let run = || {
        a_dit_is_built_and_run_or_it_is_said_why_not();
        Ok(())
    };
    let trial = Trial::test("a_dit_is_built_and_run_or_it_is_said_why_not", run).with_ignored_flag(absent);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// The builder asks for the GPU that it builds for.
fn a_dit_is_built_and_run_or_it_is_said_why_not() {
    let tensorrt = TensorRt::open(None, Some(Target::any(Product::TensorRt))).expect("a library");
    assert!(tensorrt.name().starts_with("TensorRT "), "{}", tensorrt.name());
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint");
    let model = load_model(&checkpoint).expect("the demo");
    let policy = PrecisionPolicy::preset("fp16").expect("a preset");
    let layout = Layout { images: Vec::new(), state_horizon: 1, denoising_steps: 4 };
    let (component, products, names) = (Component::Dit, Products::Native, Names::Nvidia);
    let export = Export { component, policy: &policy, products, opset: tensorrt.opset(), names, layout };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let onnx = folder.path().join("dit.onnx");
    export.write(&model, "test", &onnx).expect("the export");
    let sizes = [("batch_size", 1), ("vl_seq_len", 121), ("sa_seq_len", 17)];
    let ranges: BTreeMap<String, Range> =
        sizes.into_iter().map(|(name, size)| (name.to_owned(), Range::only(size))).collect();
    let built = match tensorrt.build(&BuildOptions::new(&onnx, &ranges)) {
        Ok(built) => built,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("no builder was made: CUDA initialization failure"), "{message}");
            return;
        }
    };
    assert_eq!(built.record.flags, ["fp16", "obey-precision-constraints"]);
    let mut engine = tensorrt.open_engine(&onnx, &built.engine, 0).expect("the engine that was built here");
    let dtype = |name: &str| engine.bindings().get(name).map(|binding| binding.dtype);
    let found = ["sa_embs", "timestep", "image_mask", "output"].map(dtype);
    assert_eq!(found, [Dtype::F16, Dtype::I32, Dtype::Bool, Dtype::F16].map(Some));
    let zeros = engine.bindings().inputs().map(|input| {
        let shape: Vec<usize> =
            input.shape.iter().map(|size| usize::try_from(*size).expect("fixed")).collect();
        (input.name.clone(), Tensor::zeros(input.dtype, &shape).expect("small"))
    });
    let outputs = engine.run(zeros.collect()).expect("a run");
    assert_eq!(outputs[0].1.shape(), [1, 17, 128]);
}
