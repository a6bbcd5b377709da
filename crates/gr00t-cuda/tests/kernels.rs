//! Every kernel compiles for every architecture, with NVRTC and without a GPU. Where NVRTC is missing, tests are
//! ignored, by name.

use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source};
use steadyhand_cuda_driver::elf::machine_code;
use steadyhand_gr00t::synthetic::n1_6;
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::kernels::Variant;
use steadyhand_gr00t_cuda::kinds::every_kind;
use steadyhand_gr00t_cuda::rotary;
use steadyhand_gr00t_cuda::sources::{Sources, params_header};

/// A100; RTX 40 and L4, with e4m3; H100, with wgmma and the TMA: kernels of every kind are compiled for them.
const WHOLE: [(u32, u32); 3] = [(8, 0), (8, 9), (9, 0)];
/// RTX 30, Jetson Orin, B200, B300, Jetson Thor, RTX 50, DGX Spark: of each kernel one, by its operands' type.
const SAMPLED: [(u32, u32); 7] = [(8, 6), (8, 7), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1)];

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
        trial("kernels of a folder are compiled instead of the embedded ones".to_owned(), of_a_folder),
        trial("a field that its declaration lacks does not compile".to_owned(), without_a_field),
    ];
    for (capability, whole) in WHOLE.map(|it| (it, true)).into_iter().chain(SAMPLED.map(|it| (it, false))) {
        let arch = Arch::of(capability);
        let known = compiler.as_ref().is_none_or(|compiler| compiler.knows(arch).unwrap_or(false));
        if !known {
            let name = format!("kernels for {arch}, which this NVRTC does not know");
            trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
            continue;
        }
        for variant in variants(capability, whole) {
            trials.push(with(&compiler, format!("{variant} for {arch}"), move |compiler| {
                let cubin = variant.compile(&Sources::embedded(), compiler, arch)?;
                is_cubin_with(&cubin, variant.entry)
            }));
        }
    }
    if ignored {
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(folder);
    conclusion.exit();
}

/// Kernels of every kind for a device, or one of each file, entry and type of operands.
fn variants(capability: (u32, u32), whole: bool) -> Vec<Variant> {
    let operands: Vec<Element> =
        Element::ALL.into_iter().filter(|element| element.exists_on(capability)).collect();
    let mut variants = every_kind(&n1_6(), &operands, capability);
    let mut taken = HashSet::new();
    variants.retain(|variant| {
        let element = variant.defines.iter().find(|(name, _)| *name == "ELEMENT").copied();
        taken.insert((variant.file, variant.entry, element)) || whole
    });
    variants
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
    for arch in WHOLE.map(Arch::of) {
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

/// The same files give the same instructions, with lines; an edited one gives what it says, though the cache has the other.
fn of_a_folder(compiler: &Compiler) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    let kind = rotary::kinds(Element::Bf16, true).swap_remove(0);
    let variant = Variant::rotary(64, 1, 1).0.compiled_for(kind);
    let compile = |sources: &Sources| variant.compile(sources, compiler, Arch::of((9, 0)));
    let embedded = compile(&Sources::embedded())?;
    let read = compile(&Sources::read(folder.path())?)?;
    if machine_code(&embedded, variant.entry) != machine_code(&read, variant.entry) {
        return Err("the same files gave other instructions".into());
    }
    let has_lines = |cubin: &[u8]| cubin.windows(11).any(|window| window == b".debug_line");
    if has_lines(&embedded) || !has_lines(&read) {
        return Err("expected lines in what a folder gives, and nowhere else".into());
    }
    let path = folder.path().join("rotary.cu");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("+ p.eps", "+ 2.0f * p.eps"))?;
    let edited = compile(&Sources::read(folder.path())?)?;
    match machine_code(&edited, variant.entry) == machine_code(&read, variant.entry) {
        true => Err("the edited file gave the instructions of before".into()),
        false => Ok(()),
    }
}

/// Kernels are compiled with the declarations of the structs that they are launched with.
fn without_a_field(compiler: &Compiler) -> Result<(), Failed> {
    let declared = params_header();
    for (field, file) in [("    float eps;\n", "rotary.cu"), ("    unsigned int rows;\n", "rotary.cu")] {
        let header = declared.replace(field, "");
        let text = "#include \"params.cuh\"\nextern \"C\" __global__ void read(RotaryParams p, float* to) { to[p.rows] = p.eps; }";
        let compile = |header: &str| {
            let headers = [("params.cuh", header)];
            compiler.compile(&Source { name: file, text, headers: &headers }, &[], Arch::of((8, 0)))
        };
        compile(declared)?;
        match compile(&header) {
            Err(error) if error.to_string().contains("has no member") => {}
            other => return Err(format!("without {field:?}: {:?}", other.map(|cubin| cubin.len())).into()),
        }
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
