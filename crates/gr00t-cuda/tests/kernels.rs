//! Every kernel compiles for every architecture, with NVRTC and without a GPU. Where NVRTC is missing, tests are
//! ignored, by name.

use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::Arc;
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source};
use steadyhand_cuda_driver::elf::machine_code;
use steadyhand_gr00t::synthetic::n1_6;
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::kernels::catalogue;

/// A100, Jetson Orin, RTX 40 and L4, H100.
const CAPABILITIES: [(u32, u32); 4] = [(8, 0), (8, 7), (8, 9), (9, 0)];

const HEADER: (&str, &str) =
    ("scale.cuh", "__device__ __forceinline__ float scale(float x) { return FACTOR * x; }\n");
const WORKING: &str = r#"
#include "scale.cuh"
extern "C" __global__ void multiply(float* x) { x[threadIdx.x] = scale(x[threadIdx.x]); }
"#;

fn main() {
    // An empty cache: what is tested is the compiler.
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let opened = Compiler::open(None, Some(folder.path().to_path_buf()));
    let ignored = opened.is_err();
    let compiler = match opened {
        Ok(compiler) => Some(Arc::new(compiler)),
        Err(error) => {
            eprintln!("kernels are not compiled: {error}");
            None
        }
    };
    let trial = |name: String, test: fn(&Compiler) -> Result<(), Failed>| with(&compiler, name, test);
    let mut trials = vec![
        trial("a broken kernel fails with the compiler's log".to_owned(), broken),
        trial("an architecture that does not exist is named".to_owned(), unknown_arch),
        trial("headers and macros are found by name".to_owned(), working),
        trial("a kept kernel is not compiled again".to_owned(), kept),
    ];
    for capability in CAPABILITIES {
        let arch = Arch::of(capability);
        let elements: Vec<Element> =
            Element::ALL.into_iter().filter(|element| element.exists_on(capability)).collect();
        for variant in catalogue(&n1_6(), &elements, capability) {
            trials.push(with(&compiler, format!("{variant} for {arch}"), move |compiler| {
                is_cubin_with(&variant.compile(compiler, arch)?, variant.entry)
            }));
        }
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(folder);
    conclusion.exit();
}

fn with(
    compiler: &Option<Arc<Compiler>>,
    name: String,
    test: impl FnOnce(&Compiler) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let compiler = compiler.clone();
    Trial::test(name, move || test(&*compiler.ok_or("no NVRTC")?))
}

fn source(text: &str) -> Source<'_> {
    Source { name: "multiply.cu", text, headers: &[HEADER] }
}

fn factor(value: &str) -> Vec<String> {
    vec![format!("-DFACTOR={value}")]
}

fn broken(compiler: &Compiler) -> Result<(), Failed> {
    let text = WORKING.replace("x[threadIdx.x] =", "y[threadIdx.x] =");
    let message = match compiler.compile(&source(&text), &factor("2.0f"), Arch::of((8, 0))) {
        Ok(_) => return Err("a broken kernel compiled".into()),
        Err(error) => error.to_string(),
    };
    for part in ["multiply.cu(3)", "identifier \"y\" is undefined", "sm_80"] {
        if !message.contains(part) {
            return Err(format!("expected {part:?} in: {message}").into());
        }
    }
    Ok(())
}

fn unknown_arch(compiler: &Compiler) -> Result<(), Failed> {
    match compiler.compile(&source(WORKING), &factor("2.0f"), Arch::of((1, 0))) {
        Ok(_) => Err("compiled for sm_10".into()),
        Err(error) if error.to_string().contains("sm_10") => Ok(()),
        Err(error) => Err(format!("expected sm_10 in: {error}").into()),
    }
}

fn working(compiler: &Compiler) -> Result<(), Failed> {
    for arch in CAPABILITIES.map(Arch::of) {
        is_cubin_with(&compiler.compile(&source(WORKING), &factor("3.0f"), arch)?, "multiply")?;
    }
    Ok(())
}

fn kept(_: &Compiler) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let compiler = Compiler::open(None, Some(folder.path().to_path_buf()))?;
    let compile = |value: &str| compiler.compile(&source(WORKING), &factor(value), Arch::of((9, 0)));
    let written = || -> std::io::Result<Vec<_>> {
        let times = std::fs::read_dir(folder.path())?.map(|entry| entry?.metadata()?.modified());
        times.collect()
    };
    let first = compile("4.0f")?;
    let before = written()?;
    if compile("4.0f")? != first || written()? != before || before.len() != 1 {
        return Err("the second time gave other code, or compiled it again".into());
    }
    if compile("5.0f")? == first || written()?.len() != 2 {
        return Err("another option gave the same code".into());
    }
    Ok(())
}

/// Machine code of the kernel.
fn is_cubin_with(cubin: &[u8], entry: &str) -> Result<(), Failed> {
    match machine_code(cubin, entry) {
        Some(code) if !code.is_empty() => Ok(()),
        _ => Err("expected a cubin with the kernel".into()),
    }
}
