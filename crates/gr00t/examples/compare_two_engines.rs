//! Two engines on the same observations and the same noise: how far apart their actions are, by joint group.
//!
//! `cargo run --release --example compare_two_engines [CHECKPOINT DATASET]`, from the repository's root. Any two
//! [`Backend`](steadyhand_gr00t::engine::Backend)s do; here the reference is compared with itself in bf16.

use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::engine::Reference;
use steadyhand_gr00t::session::{Frames, NoiseSource, Options};
use steadyhand_gr00t::{Result, Session};

fn main() -> Result<()> {
    let mut folders = std::env::args().skip(1);
    let checkpoint = folders.next().unwrap_or_else(|| "demo/checkpoint".to_owned());
    let dataset = folders.next().unwrap_or_else(|| "demo/dataset".to_owned());

    let session =
        Session::open(&checkpoint, &Options { dataset: Some(dataset.into()), ..Options::default() })?;
    let mut a = session.parts.policy(&Reference, "f32", 4, 42)?;
    let mut b = session.parts.policy(&Reference, "bf16", 4, 42)?;
    let frames = Frames::Along { episode: 0, count: 4, spacing: 16, noise: &NoiseSource::Seed(42) };
    for frame in session.frames(frames)? {
        let of_a = a.act_with_noise(&frame.observation, frame.noise.clone())?;
        let of_b = b.act_with_noise(&frame.observation, frame.noise)?;
        for (group, right) in &of_a.groups {
            let distance = relative_l2(&of_b.group(group)?.data, &right.data);
            println!("step {:3}  {group:12} {distance:.2e}", frame.step);
        }
    }
    Ok(())
}
