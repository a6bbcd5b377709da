//! `steady doctor`: what this machine has, what runs on it, and what to mend first.

mod args;
#[cfg(any(feature = "cuda", test))]
mod capability;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda.rs"]
mod cuda;
mod gpu;
mod libraries;
mod machine;
mod page;
mod policies;
mod verdict;

pub use args::DoctorArgs;
pub use cpu::name as cpu_name;

use crate::outcome::Outcome;
use crate::output;
use crate::report::output::{WRITTEN_BY, claim, write_json};
use anyhow::Result;
use machine::Machine;
use serde::Serialize;
use verdict::{Verdict, cuda_problem, verdict};

/// The report, for JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// The release of this program.
    written_by: &'static str,
    version: &'static str,
    #[serde(flatten)]
    machine: &'a Machine,
    verdict: &'a Verdict,
}

/// Looks at the machine and prints what it found. What is missing is part of the answer and no failure.
///
/// # Errors
/// The checkpoint cannot be loaded, or the JSON not be written.
pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    if let Some(path) = &args.json {
        claim(path)?;
    }
    let gpus = gpu::look();
    let libraries = libraries::look(args, &gpus);
    let problem = cuda_problem(&gpus, &libraries).map(|problem| problem.what);
    let gpu = match (&problem, gpus.usable()) {
        (None, Some(gpu)) => Ok(gpu),
        (what, _) => Err(what.as_deref().unwrap_or("no GPU that can be used")),
    };
    let (checkpoint, policies) = policies::look(args, gpu)?;
    let machine = Machine {
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        cpu: cpu::look(),
        libraries,
        kernel_cache: cuda::kernel_cache(),
        checkpoint: checkpoint.display().to_string(),
        policies,
        gpus,
    };
    let verdict = verdict(&machine);
    if let Some(path) = &args.json {
        let version = env!("CARGO_PKG_VERSION");
        let report = Report { written_by: WRITTEN_BY, version, machine: &machine, verdict: &verdict };
        write_json(path, &report)?;
    }
    output::print(&page::page(&machine, &verdict))?;
    Ok(Outcome::Success)
}
