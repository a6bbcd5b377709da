//! What is known of a machine: plain data, which the verdict and the page follow from.

use serde::Serialize;
use std::path::PathBuf;
use steadyhand_fidelity::Format;

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Such as `linux` and `x86_64`.
    pub os: &'static str,
    pub arch: &'static str,
    pub cpu: Cpu,
    pub gpus: Gpus,
    pub libraries: Vec<Library>,
    /// Where compiled kernels are kept; none where the environment names no folder.
    pub kernel_cache: Option<KernelCache>,
    /// The checkpoint that the policies were checked against.
    pub checkpoint: String,
    pub policies: Vec<PolicyHere>,
}

/// The processor and its memory. `None` is what the system does not tell.
#[derive(Debug, Clone, Serialize)]
pub struct Cpu {
    pub model: Option<String>,
    /// The board of an embedded system.
    pub board: Option<String>,
    pub cores: Option<usize>,
    /// Threads that the reference computes with.
    pub threads: usize,
    /// The instruction set of its matrix products and of the resizing of images.
    pub vector_instructions: &'static str,
    pub memory_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
}

/// NVIDIA GPUs, as far as the driver shows them.
#[derive(Debug, Clone, Serialize)]
pub struct Gpus {
    pub driver: Option<Driver>,
    /// Why no driver answered.
    pub driver_problem: Option<String>,
    /// What the system sees on its buses, whether or not there is a driver.
    pub hardware: Vec<String>,
    pub devices: Vec<Gpu>,
}

/// The driver that answered.
#[derive(Debug, Clone, Serialize)]
pub struct Driver {
    pub library: Option<PathBuf>,
    /// The newest CUDA version that it speaks, 13000 for 13.0.
    pub cuda_version: u32,
    /// The kernel's module, such as `580.159.04`.
    pub release: Option<String>,
}

/// One GPU.
#[derive(Debug, Clone, Serialize)]
pub struct Gpu {
    pub name: String,
    pub compute_capability: (u32, u32),
    pub multiprocessors: u32,
    pub memory_bytes: u64,
    /// The formats that its tensor cores multiply.
    #[serde(serialize_with = "names")]
    pub tensor_core_formats: Vec<Format>,
    /// Why the CUDA engine cannot open it.
    pub problem: Option<String>,
}

/// A library that an engine loads when it is asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Library {
    pub name: &'static str,
    /// Of `--engine`.
    pub engine: &'static str,
    pub found: Option<Found>,
    pub problem: Option<Problem>,
}

/// A library that loads.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    pub path: Option<PathBuf>,
    pub version: Option<String>,
    /// What else it says of itself, or was seen to do.
    pub notes: Vec<String>,
}

/// Something that is missing or wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub mend: String,
}

/// A folder of compiled kernels.
#[derive(Debug, Clone, Serialize)]
pub struct KernelCache {
    pub folder: PathBuf,
    pub kernels: usize,
    pub bytes: u64,
}

/// What becomes of a policy on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyHere {
    pub policy: String,
    pub runs: Runs,
    /// Why not natively.
    pub reason: Option<String>,
}

/// How a policy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runs {
    /// In its own formats, on the CUDA engine.
    Native,
    /// In f32 on the CPU, rounded where the policy says.
    Emulated,
    /// Nowhere: it does not fit the checkpoint.
    Refused,
}

impl Library {
    /// A library that was looked for, and what installs it.
    pub fn looked_for(
        name: &'static str,
        engine: &'static str,
        found: steadyhand_gr00t::Result<Found>,
        mend: &str,
    ) -> Self {
        match found {
            Ok(found) => Library { name, engine, found: Some(found), problem: None },
            Err(error) => {
                let problem = Problem { what: error.to_string(), mend: mend.to_owned() };
                Library { name, engine, found: None, problem: Some(problem) }
            }
        }
    }
}

impl Gpus {
    /// The GPU that engines take unless told otherwise, where they can.
    pub fn usable(&self) -> Option<&Gpu> {
        self.devices.first().filter(|gpu| gpu.problem.is_none())
    }
}

fn names<S: serde::Serializer>(formats: &[Format], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(formats.iter().map(ToString::to_string))
}
