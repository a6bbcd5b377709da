//! Prints a hash of the machine code of a kernel of every kind: a line for each, `HASH BYTES ARCH VARIANT`. NVRTC
//! is needed, a GPU is not. What two builds of this repository print is compared with `diff`: a change that is meant to
//! leave the kernels as they are leaves every hash. Names of sections, symbols and lines are not hashed.
//!
//! `cargo run --release -p steadyhand-gr00t-cuda --example machine_code`

use rayon::prelude::*;
use std::hash::{DefaultHasher, Hasher};
use steadyhand_cuda_driver::compile::{Arch, Compiler};
use steadyhand_cuda_driver::elf::machine_code;
use steadyhand_gr00t::synthetic::n1_6;
use steadyhand_gr00t_cuda::elements::Element;
use steadyhand_gr00t_cuda::kernels::Variant;
use steadyhand_gr00t_cuda::kinds::every_kind;
use steadyhand_gr00t_cuda::sources::Sources;
use steadyhand_gr00t_cuda::{Error, Result};

/// A100, RTX 40 and L4, H100: an architecture of each kind of GEMM.
const CAPABILITIES: [(u32, u32); 3] = [(8, 0), (8, 9), (9, 0)];

fn main() -> Result<()> {
    let compiler = Compiler::open(None, None)?;
    for capability in CAPABILITIES {
        let operands: Vec<Element> =
            Element::ALL.into_iter().filter(|element| element.exists_on(capability)).collect();
        let variants = every_kind(&n1_6(), &operands, capability);
        let line = |variant: &Variant| line(variant, &compiler, Arch::of(capability));
        let lines: Vec<String> = variants.par_iter().map(line).collect::<Result<_>>()?;
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn line(variant: &Variant, compiler: &Compiler, arch: Arch) -> Result<String> {
    let cubin = variant.compile(&Sources::embedded(), compiler, arch)?;
    let code = machine_code(&cubin, variant.entry).ok_or_else(|| Error::Engine {
        operation: "read machine code",
        what: format!("{variant}: no code of the kernel in its cubin"),
    })?;
    let mut hash = DefaultHasher::new();
    hash.write(code);
    Ok(format!("{:016x} {:6} {arch} {variant}", hash.finish(), code.len()))
}
