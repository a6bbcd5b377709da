//! The front door on the demo: what it asks for, what it gives, what it refuses.

use std::path::{Path, PathBuf};
use steadyhand_gr00t::engine::Reference;
use steadyhand_gr00t::session::{Frames, NoiseSource, Options, RolloutConfig, rollout};
use steadyhand_gr00t::{Error, Image, Observation, Policy, Session};

fn demo(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo").join(part)
}

fn session() -> Session {
    let options = Options { dataset: Some(demo("dataset")), ..Options::default() };
    Session::open(demo("checkpoint"), &options).expect("the demo")
}

#[test]
fn acting_gives_the_actions_of_an_evaluation() {
    let session = session();
    let episode = session.dataset().expect("a dataset").episode(1).expect("an episode");
    let config = RolloutConfig { steps: 32, action_horizon: 16, noise: NoiseSource::Seed(42) };
    let mut evaluated = session.parts.policy(&Reference, "f32", 4, 0).expect("opens");
    let expected = rollout::run(&mut evaluated, &episode, &config, &mut || Ok(())).expect("an evaluation");

    let mut policy = Policy::open(demo("checkpoint")).expect("opens");
    policy.start_episode(1);
    let along = Frames::Along { episode: 1, count: 2, spacing: 16, noise: &NoiseSource::Seed(42) };
    let mut found = Vec::new();
    for frame in session.frames(along).expect("frames") {
        let actions = policy.act(&frame.observation).expect("actions");
        let row = |row: usize| actions.groups.iter().flat_map(move |(_, group)| group.row(row).to_vec());
        found.extend((0..16).map(|step| row(step).collect::<Vec<f32>>()));
    }
    assert_eq!(found, expected.prediction);
}

#[test]
fn what_it_describes_is_what_it_takes_and_gives() {
    let mut policy = Policy::open(demo("checkpoint")).expect("opens");
    let described = policy.describe();
    let mut observation = Observation::new("pick up the squash");
    for view in &described.views {
        for _ in &view.delta_indices {
            let frame = Image { width: 320, height: 240, rgb: vec![90; 320 * 240 * 3].into() };
            observation = observation.with_image(&view.name, frame);
        }
    }
    for group in &described.state {
        observation = observation.with_state(&group.name, vec![0.0; group.dim.expect("a width")]);
    }
    let actions = policy.act(&observation).expect("actions");
    assert_eq!(actions.groups.len(), described.actions.len());
    for group in &described.actions {
        let found = actions.group(&group.name).expect("a group");
        assert_eq!((found.rows, Some(found.cols)), (policy.action_horizon(), group.dim));
    }
    assert!(described.to_string().contains("state   left_arm: [1, 7]"), "{described}");
    let unknown = actions.group("tail").expect_err("refused").to_string();
    assert!(unknown.contains("action.tail") && unknown.contains("left_arm"), "{unknown}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let steps = Policy::builder(demo("checkpoint")).denoising_steps(0).open().err().expect("refused");
    assert!(matches!(steps, Error::Option { option: "denoising_steps", .. }), "{steps}");
    let nothing = Policy::open(demo("nowhere")).err().expect("refused").to_string();
    assert!(nothing.contains("nowhere") && nothing.contains("expected a checkpoint folder"), "{nothing}");
    let precision = Policy::builder(demo("checkpoint")).precision("fp4").open().err().expect("refused");
    assert!(precision.to_string().contains("`fp4`"), "{precision}");
    let tag = Policy::builder(demo("checkpoint")).embodiment_tag("gr1").open().err().expect("refused");
    assert!(tag.to_string().contains("new_embodiment"), "{tag}");
}

#[test]
fn model_and_processor_are_of_one_version() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two_versions");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    for entry in std::fs::read_dir(demo("checkpoint")).expect("the demo") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
    }
    let config = folder.join("processor_config.json");
    let text = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, text.replace("Gr00tN1d6Processor", "Gr00tN1d7Processor")).expect("written");
    let tokenizer = demo("../tests/fixtures/golden_processor_n1d7/tokenizer.json");
    let error = Policy::builder(&folder).tokenizer(tokenizer).open().err().expect("refused").to_string();
    assert!(
        error.contains("processor_class: expected that of config.json's model_type `Gr00tN1d6`"),
        "{error}"
    );
}
