//! The processor and its memory, as Linux tells them.

use super::machine::Cpu;
use std::collections::BTreeSet;
use std::path::Path;

/// What is here.
pub fn look() -> Cpu {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let board = read("/proc/device-tree/model").trim_end_matches('\0').to_owned();
    Cpu {
        model: model(&processors),
        board: Some(board).filter(|board| !board.is_empty()),
        cores: cores(&processors),
        threads: rayon::current_num_threads(),
        vector_instructions: vector_instructions(),
        memory_bytes: kilobytes(&memory, "MemTotal"),
        available_bytes: kilobytes(&memory, "MemAvailable"),
    }
}

/// The processor's name; none where the system does not tell.
pub fn name() -> Option<String> {
    model(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn model(processors: &str) -> Option<String> {
    let line = processors.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Cores of all sockets: threads of one core share both numbers.
fn cores(processors: &str) -> Option<usize> {
    let value = |block: &str, key: &str| {
        let line =
            block.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        line.split_once(':')?.1.trim().parse::<u32>().ok()
    };
    let cores: Option<BTreeSet<(u32, u32)>> = processors
        .split("\n\n")
        .filter(|block| block.contains(':'))
        .map(|block| Some((value(block, "physical id")?, value(block, "core id")?)))
        .collect();
    cores.map(|cores| cores.len()).filter(|count| *count > 0)
}

fn kilobytes(memory: &str, key: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What the matrix products and the resizing choose when the program runs.
fn vector_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        "AVX2 with FMA"
    } else if is_x86_feature_detected!("avx") {
        "AVX"
    } else {
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "none"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_core_count_once() {
        let block = |socket: u32, core: u32| {
            format!(
                "processor\t: 0\nmodel name\t: A CPU @ 2: GHz\nphysical id\t: {socket}\ncore id\t\t: {core}\ncpu cores\t: 2\n\n"
            )
        };
        let text = [block(0, 0), block(0, 1), block(0, 0), block(0, 1), block(1, 0)].concat();
        assert_eq!(cores(&text), Some(3));
        assert_eq!(model(&text).as_deref(), Some("A CPU @ 2: GHz"));
        // Arm tells neither.
        let arm = "processor\t: 0\nBogoMIPS\t: 62.50\nCPU part\t: 0xd42\n\n";
        assert_eq!((cores(arm), model(arm), cores("")), (None, None, None));
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    2 kB\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(16 << 20));
        assert_eq!(kilobytes(text, "MemAvailable"), Some(2048));
        assert_eq!(kilobytes(text, "Mem"), None);
    }
}
