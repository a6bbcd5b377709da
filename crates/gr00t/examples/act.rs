//! A policy acts on a frame of the demo: the next position of every joint group.
//!
//! `cargo run --release --example act [CHECKPOINT DATASET]`, from the repository's root.

use steadyhand_gr00t::session::{Frames, NoiseSource, Options};
use steadyhand_gr00t::{Policy, Result, Session};

fn main() -> Result<()> {
    let mut folders = std::env::args().skip(1);
    let checkpoint = folders.next().unwrap_or_else(|| "demo/checkpoint".to_owned());
    let dataset = folders.next().unwrap_or_else(|| "demo/dataset".to_owned());

    let mut policy = Policy::open(&checkpoint)?;
    print!("{}", policy.describe());

    let session =
        Session::open(&checkpoint, &Options { dataset: Some(dataset.into()), ..Options::default() })?;
    let first = Frames::Along { episode: 0, count: 1, spacing: 1, noise: &NoiseSource::Seed(42) };
    for frame in session.frames(first)? {
        let actions = policy.act(&frame.observation)?;
        for (group, positions) in &actions.groups {
            println!("{group}: {:.4?}", positions.row(0));
        }
    }
    Ok(())
}
