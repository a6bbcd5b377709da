//! Many inferences of one policy in one process. Takes minutes: run with `--ignored`.

use steadyhand_gr00t::session::{Frames, NoiseSource, Options};
use steadyhand_gr00t::{Policy, Session};

const INFERENCES: usize = 2000;
/// Inferences after which everything that is kept between inferences is there.
const SETTLED: usize = 100;
/// Memory may grow by this share of what it was: what an allocator keeps.
const MAX_GROWTH: f64 = 0.02;

/// Bytes of memory that this process has now.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<f64>().ok().map(|kibibytes| kibibytes * 1024.0)
}

#[test]
#[ignore = "minutes: 2000 inferences"]
fn inferences_repeat_to_the_bit_and_take_no_more_memory() {
    let demo = |part: &str| format!("{}/../../demo/{part}", env!("CARGO_MANIFEST_DIR"));
    let options = Options { dataset: Some(demo("dataset").into()), ..Options::default() };
    let session = Session::open(demo("checkpoint"), &options).expect("the demo");
    let along = Frames::Along { episode: 0, count: 4, spacing: 16, noise: &NoiseSource::Seed(42) };
    let frames = session.frames(along).expect("frames");
    let mut policy = Policy::open(demo("checkpoint")).expect("opens");
    let mut act = |place: usize| -> Vec<u32> {
        let frame = &frames[place % frames.len()];
        let actions = policy.act_with_noise(&frame.observation, frame.noise.clone()).expect("actions");
        actions.groups.iter().flat_map(|(_, group)| group.data.iter().map(|value| value.to_bits())).collect()
    };
    let first: Vec<Vec<u32>> = (0..frames.len()).map(&mut act).collect();
    let mut settled = None;
    for inference in 0..INFERENCES {
        assert_eq!(act(inference), first[inference % frames.len()], "inference {inference}");
        if inference + 1 == SETTLED {
            settled = resident_bytes();
        }
    }
    match (settled, resident_bytes()) {
        (Some(before), Some(after)) => {
            let growth = after / before - 1.0;
            println!(
                "{:.1} MB after {SETTLED}, {:.1} MB after {INFERENCES} inferences: {:+.2} %",
                before / 1e6,
                after / 1e6,
                growth * 100.0
            );
            assert!(growth <= MAX_GROWTH, "memory grew by {:.2} %", growth * 100.0);
        }
        _ => println!("this system does not tell a process's memory: only the results were compared"),
    }
}
