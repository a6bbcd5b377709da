//! Many inferences of one engine in one process.

use super::{Case, bits, infer, like, preset};
use std::process::Command;

const INFERENCES: usize = 2000;
/// Inferences after which everything that is kept between inferences is there.
const SETTLED: usize = 100;
/// Observations that take turns.
const OBSERVATIONS: u64 = 4;
/// Memory may grow by this share of what it was: what an allocator keeps.
const MAX_GROWTH: f64 = 0.02;

/// Results repeat to the bit, and neither the process nor the device holds more memory afterwards.
pub fn of_one_engine() {
    let case = Case::golden("two_views");
    let mut engine = case.cuda(&preset("bf16"));
    let inputs: Vec<_> = (0..OBSERVATIONS).map(|seed| like(&case.model, &case.input, seed)).collect();
    let first: Vec<_> = inputs.iter().map(|input| bits(&infer(&mut engine, input))).collect();
    let mut settled = None;
    for inference in 0..INFERENCES {
        let place = inference % inputs.len();
        assert_eq!(bits(&infer(&mut engine, &inputs[place])), first[place], "inference {inference}");
        if inference + 1 == SETTLED {
            settled = Some(memory());
        }
    }
    let settled = settled.expect("more inferences than those after which memory is settled");
    for ((what, before), (_, after)) in settled.into_iter().zip(memory()) {
        println!("{what}: {before} after {SETTLED}, {after} after {INFERENCES} inferences");
        assert!(after <= before * (1.0 + MAX_GROWTH), "{what} grew from {before} to {after}");
    }
}

/// Kibibytes that this process has, mebibytes that the device's processes have.
fn memory() -> [(&'static str, f64); 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    let resident = resident.trim_end_matches("kB").trim().parse().expect("a number");
    let mut query = Command::new("nvidia-smi");
    query.args(["--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]);
    let used = query.output().expect("nvidia-smi").stdout;
    let used = String::from_utf8_lossy(&used).trim().parse().expect("a number of mebibytes");
    [("resident KiB", resident), ("device MiB", used)]
}
