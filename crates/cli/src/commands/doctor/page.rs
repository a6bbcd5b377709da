//! What was found, for a terminal.

use super::machine::{Cpu, Gpus, Library, Machine, Runs};
use super::verdict::{Verdict, first_line};
use crate::report::table::Table;
use std::fmt::Write;

/// Where the driver's library is looked for.
const LOADER: &str = " (asked of the system's loader: LD_LIBRARY_PATH, its cache, /lib and /usr/lib)";

/// The whole report.
pub fn page(machine: &Machine, verdict: &Verdict) -> String {
    let mut page = String::new();
    for (title, lines) in [
        ("Machine", machine_lines(machine)),
        ("GPUs", gpu_lines(&machine.gpus)),
        ("Libraries", library_lines(machine)),
        ("Number formats", policy_lines(machine)),
        ("Verdict", verdict_lines(verdict)),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{title}");
        for line in lines.iter().flat_map(|line| line.lines()) {
            let _ = writeln!(page, "  {line}");
        }
        page.push('\n');
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

fn machine_lines(machine: &Machine) -> Vec<String> {
    let Cpu { model, board, cores, threads, vector_instructions, memory_bytes, available_bytes } =
        &machine.cpu;
    let mut cpu = model.clone().unwrap_or_else(|| "unknown CPU".to_owned());
    if let Some(cores) = cores {
        let _ = write!(cpu, ", {cores} cores");
    }
    let mut lines = vec![format!("{} {}, {cpu}, {threads} threads", machine.os, machine.arch)];
    lines.extend(board.clone());
    lines.push(format!("vector instructions of matrix products: {vector_instructions}"));
    if let Some(memory) = memory_bytes {
        let free = available_bytes.map(|bytes| format!(", {} available", gib(bytes))).unwrap_or_default();
        lines.push(format!("{} of memory{free}", gib(*memory)));
    }
    lines
}

fn gpu_lines(gpus: &Gpus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(driver) = &gpus.driver {
        let release = driver.release.as_ref().map(|text| format!(" {text}")).unwrap_or_default();
        let path = driver.library.as_ref().map(|path| format!(", {}", path.display())).unwrap_or_default();
        let version = driver.cuda_version;
        lines.push(format!("driver{release} for CUDA {}.{}{path}", version / 1000, version % 1000 / 10));
    }
    lines.extend(gpus.driver_problem.iter().map(|problem| format!("no driver: {problem}{LOADER}")));
    lines.extend(gpus.hardware.iter().map(|place| format!("NVIDIA hardware at {place}")));
    if gpus.devices.is_empty() {
        lines.push("none".to_owned());
    }
    for (number, gpu) in gpus.devices.iter().enumerate() {
        let (major, minor) = gpu.compute_capability;
        let formats: Vec<_> = gpu.tensor_core_formats.iter().map(ToString::to_string).collect();
        let cores = if formats.is_empty() { "none".to_owned() } else { formats.join(", ") };
        lines.push(format!(
            "{number}: {}, compute capability {major}.{minor}, {} multiprocessors, {}; tensor cores: {cores}",
            gpu.name,
            gpu.multiprocessors,
            gib(gpu.memory_bytes)
        ));
        lines.extend(gpu.problem.iter().map(|problem| format!("   cannot be used: {problem}")));
    }
    lines
}

fn library_lines(machine: &Machine) -> Vec<String> {
    let mut table = Table::new(&["library", "engine", "version", "found"]);
    for Library { name, engine, found, .. } in &machine.libraries {
        let (version, place) = match found {
            Some(found) => {
                let path = found.path.as_ref().map_or("loaded".to_owned(), |path| path.display().to_string());
                (
                    found.version.clone(),
                    [path].into_iter().chain(found.notes.clone()).collect::<Vec<_>>().join("; "),
                )
            }
            None => (None, "no".to_owned()),
        };
        table.row([(*name).to_owned(), (*engine).to_owned(), version.unwrap_or("-".to_owned()), place]);
    }
    let cache = match &machine.kernel_cache {
        Some(cache) => format!(
            "kernels of cuda are kept in {}: {} there, {:.1} MB",
            cache.folder.display(),
            cache.kernels,
            cache.bytes as f64 / 1e6
        ),
        None => "kernels of cuda are not kept: neither XDG_CACHE_HOME nor HOME names a folder".to_owned(),
    };
    let mut lines = vec![table.to_string()];
    lines.extend(machine.libraries.iter().filter_map(|library| Some(library.problem.as_ref()?.what.clone())));
    lines.push(cache);
    lines
}

fn policy_lines(machine: &Machine) -> Vec<String> {
    let mut table = Table::new(&["precision", "runs", "because"]);
    for policy in &machine.policies {
        let runs = match policy.runs {
            Runs::Native => "native on cuda",
            Runs::Emulated => "emulated on the CPU",
            Runs::Refused => "refused",
        };
        let reason = policy.reason.as_deref().map_or("", first_line);
        table.row([policy.policy.clone(), runs.to_owned(), reason.to_owned()]);
    }
    vec![table.to_string(), format!("checked against the sites of {}", machine.checkpoint)]
}

fn verdict_lines(verdict: &Verdict) -> Vec<String> {
    let mut lines = vec![format!("{}.", verdict.headline.trim_end_matches('.'))];
    for problem in &verdict.problems {
        // What an error advises after its first words is said better here.
        let what = first_line(&problem.what).split("; ").next().unwrap_or_default();
        lines.push(format!("- {what}: {}", problem.mend));
    }
    lines.push(match &verdict.next {
        Some(next) => format!("Next: {next}."),
        None => "Next: nothing is missing.".to_owned(),
    });
    lines
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}
