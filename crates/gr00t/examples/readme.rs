//! The program of the repository's first page, as it is written there.
//!
//! `cargo run --release --example readme`, from the repository's root.

use steadyhand_gr00t::{Image, Observation, Policy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut policy = Policy::open("demo/checkpoint")?;
    let frame = Image { width: 256, height: 256, rgb: vec![127; 256 * 256 * 3].into() };
    let observation = Observation::new("pick up the squash and place it in the cabinet")
        .with_image("ego_view", frame)
        .with_state("left_arm", vec![0.0; 7])
        .with_state("right_arm", vec![0.0; 7])
        .with_state("left_hand", vec![0.0; 6])
        .with_state("right_hand", vec![0.0; 6]);
    let actions = policy.act(&observation)?;
    println!("{:?}", actions.group("left_arm")?.row(0)); // where the arm goes next
    Ok(())
}
