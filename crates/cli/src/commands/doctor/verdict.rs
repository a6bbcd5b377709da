//! What follows from what was found: which engine runs here, and what to mend first.

use super::machine::{Gpus, Library, Machine, Problem, Runs};
use serde::Serialize;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What `--engine auto` takes where it can: `cuda` or `cpu`.
    pub engine: &'static str,
    /// The same in a sentence.
    pub headline: String,
    /// The most important first. None of them stops the reference.
    pub problems: Vec<Problem>,
    /// The one thing to do next.
    pub next: Option<String>,
}

/// Judges a machine by its description alone.
pub fn verdict(machine: &Machine) -> Verdict {
    let cuda = cuda_problem(&machine.gpus, &machine.libraries);
    let engine = if cuda.is_none() { "cuda" } else { "cpu" };
    let headline = match (&cuda, machine.gpus.usable()) {
        (None, Some(gpu)) => on_cuda(machine, &gpu.name),
        (problem, _) => {
            let why = problem.as_ref().map_or("no GPU", |problem| first_line(&problem.what));
            let hint = problem.as_ref().filter(|_| without_hardware(&machine.gpus));
            let hint = hint.map(|problem| format!("; {}", problem.mend)).unwrap_or_default();
            format!("--engine auto emulates every precision on the CPU: {why}{hint}")
        }
    };
    // A machine without a GPU has nothing to mend for one.
    let mut problems: Vec<Problem> = cuda.filter(|_| !without_hardware(&machine.gpus)).into_iter().collect();
    for policy in machine.policies.iter().filter(|policy| policy.runs == Runs::Refused) {
        let what = policy.reason.clone().unwrap_or_default();
        problems.push(Problem { what, mend: format!("mend the precision {}", policy.policy) });
    }
    // NVRTC is told of above, and not missed where there is no GPU.
    let others = machine.libraries.iter().filter(|library| library.engine != "cuda");
    problems.extend(others.filter_map(|library| library.problem.clone()));
    let next = problems.first().map(|problem| problem.mend.clone());
    Verdict { engine, headline, problems, next }
}

fn on_cuda(machine: &Machine, gpu: &str) -> String {
    let of = |runs: Runs| -> String {
        let fitting = machine.policies.iter().filter(|policy| policy.runs == runs);
        fitting.map(|policy| policy.policy.as_str()).collect::<Vec<_>>().join(", ")
    };
    let emulated = match of(Runs::Emulated) {
        none if none.is_empty() => String::new(),
        policies => format!("; {policies} on the CPU"),
    };
    format!("--engine auto runs {} on {gpu}{emulated}", of(Runs::Native))
}

/// Why the CUDA engine runs no policy here, if it does not.
pub fn cuda_problem(gpus: &Gpus, libraries: &[Library]) -> Option<Problem> {
    let problem = |what: &str, mend: &str| Some(Problem { what: what.to_owned(), mend: mend.to_owned() });
    if let Some(what) = &gpus.driver_problem {
        return match () {
            () if without_hardware(gpus) => problem(
                "this machine shows no NVIDIA GPU",
                "cuda needs one of compute capability 8.0 or newer; a container must be started with it (docker run \
                 --gpus all)",
            ),
            () if what.contains("found none") => problem(
                what,
                "install NVIDIA's driver, 525 or newer; in a container, start it with the GPU (docker run --gpus all)",
            ),
            () if what.contains("expected a driver for") => {
                problem(what, "install a newer NVIDIA driver, 525 at least")
            }
            () => problem(
                what,
                "see what nvidia-smi says: library and kernel module must be of one release, which they are after a \
                 restart",
            ),
        };
    }
    let Some(first) = gpus.devices.first() else {
        return problem(
            "the driver shows no GPU to this process",
            "look at CUDA_VISIBLE_DEVICES, and at what nvidia-smi lists",
        );
    };
    if let Some(what) = &first.problem {
        let mend = match gpus.devices.iter().position(|gpu| gpu.problem.is_none()) {
            Some(number) => format!("choose GPU {number} with --device {number}"),
            None => {
                "cuda needs a GPU of compute capability 8.0 or newer that no other process has for itself"
                    .to_owned()
            }
        };
        return problem(what, &mend);
    }
    libraries.iter().find(|library| library.engine == "cuda")?.problem.clone()
}

/// Whether neither a driver nor a bus knows of an NVIDIA GPU.
fn without_hardware(gpus: &Gpus) -> bool {
    gpus.driver.is_none() && gpus.hardware.is_empty()
}

/// What an error says before it lists the places that were looked at.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end_matches(':')
}

#[cfg(test)]
mod tests {
    use super::super::capability::tensor_core_formats;
    use super::super::machine::{Cpu, Driver, Found, Gpu, PolicyHere};
    use super::*;

    fn gpu(name: &str, capability: (u32, u32), problem: Option<&str>) -> Gpu {
        Gpu {
            name: name.to_owned(),
            compute_capability: capability,
            multiprocessors: 1,
            memory_bytes: 1,
            tensor_core_formats: tensor_core_formats(capability),
            problem: problem.map(str::to_owned),
        }
    }

    fn library(name: &'static str, engine: &'static str, problem: Option<Problem>) -> Library {
        let found = Found { path: None, version: None, notes: Vec::new() };
        Library { name, engine, found: problem.is_none().then_some(found), problem }
    }

    fn missing(mend: &str) -> Option<Problem> {
        Some(Problem {
            what: "expected a library, found none:\n  /a: nothing there".to_owned(),
            mend: mend.to_owned(),
        })
    }

    /// A machine on which everything works.
    fn machine() -> Machine {
        let policy = |name: &str, runs| PolicyHere { policy: name.to_owned(), runs, reason: None };
        Machine {
            os: "linux",
            arch: "x86_64",
            cpu: Cpu {
                model: None,
                board: None,
                cores: None,
                threads: 1,
                vector_instructions: "AVX",
                memory_bytes: None,
                available_bytes: None,
            },
            gpus: Gpus {
                driver: Some(Driver { library: None, cuda_version: 13000, release: None }),
                driver_problem: None,
                hardware: vec!["PCI 0000:01:00.0".to_owned()],
                devices: vec![gpu("NVIDIA H200", (9, 0), None)],
            },
            libraries: vec![library("NVRTC", "cuda", None), library("ONNX Runtime", "onnxruntime", None)],
            kernel_cache: None,
            checkpoint: "demo".to_owned(),
            policies: vec![
                policy("f32", Runs::Native),
                policy("bf16", Runs::Native),
                policy("fp8", Runs::Emulated),
            ],
        }
    }

    fn without_driver(what: &str, hardware: &[&str]) -> Machine {
        let gpus = Gpus {
            driver: None,
            driver_problem: Some(what.to_owned()),
            hardware: hardware.iter().map(|name| (*name).to_owned()).collect(),
            devices: Vec::new(),
        };
        Machine { gpus, ..machine() }
    }

    #[test]
    fn a_machine_with_everything_needs_nothing() {
        let found = verdict(&machine());
        assert_eq!((found.engine, &found.problems, &found.next), ("cuda", &Vec::new(), &None));
        assert_eq!(found.headline, "--engine auto runs f32, bf16 on NVIDIA H200; fp8 on the CPU");
    }

    #[test]
    fn each_gap_on_the_way_to_the_gpu_has_its_own_remedy() {
        let none = "open device: expected the NVIDIA driver's library, found none";
        let mut hidden = machine();
        hidden.gpus.devices.clear();
        let mut old = machine();
        old.gpus.devices = vec![gpu("Tesla T4", (7, 5), Some("expected compute capability 8.0, found 7.5"))];
        let mut second = old.clone();
        second.gpus.devices.push(gpu("NVIDIA L4", (8, 9), None));
        let mut no_compiler = machine();
        no_compiler.libraries[0] = library("NVRTC", "cuda", missing("pip install nvrtc"));
        for (machine, part) in [
            (without_driver(none, &["PCI 0000:01:00.0"]), "install NVIDIA's driver, 525"),
            (
                without_driver("expected a driver for CUDA 12.0 or newer", &["nvidia,tegra234"]),
                "newer NVIDIA driver",
            ),
            (without_driver("cuInit: CUDA_ERROR_UNKNOWN", &["PCI 0000:01:00.0"]), "nvidia-smi"),
            (hidden, "CUDA_VISIBLE_DEVICES"),
            (old, "compute capability 8.0 or newer"),
            (second, "--device 1"),
            (no_compiler, "pip install nvrtc"),
        ] {
            let found = verdict(&machine);
            assert_eq!((found.engine, found.problems.len()), ("cpu", 1), "{found:?}");
            assert!(found.next.as_ref().is_some_and(|next| next.contains(part)), "no {part:?} in {found:?}");
            assert!(!found.headline.contains('\n') && found.headline.contains("on the CPU"), "{found:?}");
        }
    }

    #[test]
    fn a_machine_without_a_gpu_has_nothing_to_mend_for_one() {
        let mut machine = without_driver("expected the NVIDIA driver's library, found none", &[]);
        machine.libraries[0] = library("NVRTC", "cuda", missing("pip install nvrtc"));
        let found = verdict(&machine);
        assert_eq!((found.engine, found.problems.len(), &found.next), ("cpu", 0, &None));
        assert!(found.headline.contains("shows no NVIDIA GPU; cuda needs one of compute"), "{found:?}");
    }

    #[test]
    fn what_is_optional_comes_last() {
        let mut machine = machine();
        machine.libraries = vec![
            library("NVRTC", "cuda", missing("pip install nvrtc")),
            library("ONNX Runtime", "onnxruntime", missing("pip install onnxruntime")),
        ];
        machine.policies[0].runs = Runs::Refused;
        let found = verdict(&machine);
        let mends: Vec<&str> = found.problems.iter().map(|problem| problem.mend.as_str()).collect();
        assert_eq!(mends, ["pip install nvrtc", "mend the precision f32", "pip install onnxruntime"]);
        assert_eq!(found.next.as_deref(), Some("pip install nvrtc"));
    }
}
