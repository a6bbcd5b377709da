use super::*;
use crate::checkpoint::Checkpoint;
use crate::synthetic;
use crate::topology::Topology;
use std::path::Path;

fn model(config: Config) -> Model {
    Model::synthetic(config, 1).expect("consistent sizes")
}

/// One view of 252x252 and 40 text tokens, four steps.
fn one_view() -> Layout {
    let images = vec![[252, 252]];
    Layout { batch: 1, images, image_tokens: 81, text_tokens: 40, state_horizon: 1, denoising_steps: 4 }
}

#[test]
fn the_published_model_by_hand() {
    let stages = stages(&model(synthetic::n1_6()), &one_view()).expect("shapes that fit");
    // Name, parameters, parameters read in a pass, passes, operations: written out layer by layer elsewhere.
    let expected: [(&str, u64, u64, u64, u64); 8] = [
        ("vision", 412_442_352, 412_442_352, 1, 279_873_294_336),
        ("connector", 13_644_800, 13_644_800, 1, 2_208_301_056),
        ("language", 1_116_018_688, 805_459_968, 1, 195_851_583_488),
        ("action_prefix", 155_324_416, 102_423_040, 1, 12_183_666_688),
        ("action_encoder", 234_504_192, 7_355_904, 4, 2_909_798_400),
        ("modulation", 158_570_496, 158_570_496, 4, 1_267_728_384),
        ("dit", 832_439_296, 832_439_296, 4, 341_710_405_632),
        ("action_decoder", 37_785_600, 1_180_800, 4, 481_296_384),
    ];
    let found: Vec<_> = stages.iter().map(|s| (s.of.name, s.parameters, s.read, s.passes, s.flops)).collect();
    assert_eq!(found, expected);
    assert_eq!(stages.iter().map(|stage| stage.parameters).sum::<u64>(), 2_960_729_840);
}

/// What running the official code on shapes counted, but for the final norm of its language model.
#[test]
fn the_published_n1_7_has_its_parameters() {
    let model = model(synthetic::n1_7());
    let images = vec![[256, 256]];
    let layout = Layout { images, image_tokens: 64, ..one_view() };
    let stages = stages(&model, &layout).expect("shapes that fit");
    let of = |names: &[&str]| -> u64 {
        stages.iter().filter(|stage| names.contains(&stage.of.name)).map(|stage| stage.parameters).sum()
    };
    assert_eq!(of(&["vision"]), 406_957_056);
    assert_eq!(of(&["language"]), 1_116_542_976 - 2048);
    assert_eq!(
        of(&["action_prefix", "action_encoder", "modulation", "dit", "action_decoder"]),
        1_620_515_968
    );
}

#[test]
fn the_smallest_model_by_hand() {
    let mut config = synthetic::tiny();
    (config.action_horizon, config.max_state_dim, config.max_action_dim) = (5, 3, 7);
    config.select_layer = 1;
    config.diffusion_model_cfg.num_layers = 2;
    config.eagle_config.vision_config.num_hidden_layers = 1;
    let layout = Layout {
        batch: 2,
        images: vec![[56, 28], [28, 28]],
        image_tokens: config.image_tokens(&[[56, 28], [28, 28]]),
        text_tokens: 5,
        state_horizon: 2,
        denoising_steps: 3,
    };
    assert_eq!((layout.image_tokens, layout.tokens()), (3, 8));
    let stages = stages(&model(config), &layout).expect("shapes that fit");
    let found = |name| stages.iter().find(|stage| stage.of.name == name).expect("a stage");
    // 12 patches a member in images of 8 and 4; hidden 32, MLP 64.
    let matrices = 588 * 32 + 4 * 32 * 32 + 2 * 32 * 64;
    assert_eq!(found("vision").parameters, matrices + (32 + 4 * 32 + 64 + 32) + 256 * 32 + 3 * 64);
    assert_eq!(found("vision").flops, 2 * 24 * matrices + 4 * 2 * (64 + 16) * 32);
    // 8 tokens a member; hidden 64, 4 heads and 2 key heads of 16, MLP 96.
    let matrices = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96;
    assert_eq!(found("language").read, 10 * 64 + matrices + 2 * 64 + 32 + 64);
    assert_eq!(found("language").flops, 2 * 16 * matrices + 4 * 2 * 36 * 64);
    // Block 0 attends to 5 text tokens of width 64; the model's own width is 48, 2 state tokens.
    assert_eq!(found("action_prefix").read, 128 + 4 * 32 + 33 * 48 + 2 * 65 * 48);
    assert_eq!(found("action_prefix").flops, 2 * 4 * (3 * 32 + 32 * 48) + 2 * 2 * 10 * 64 * 48);
    // 7 tokens a member; block 1 has keys and values of its own tokens.
    let matrices = (10 + 12) * 48 * 48 + 48 * 32;
    assert_eq!(found("dit").read, matrices + (7 + 9) * 48 + 32);
    assert_eq!(found("dit").flops, 3 * (2 * 14 * matrices + 4 * 14 * (5 + 7) * 48));
}

#[test]
fn all_parameters_of_checkpoints_are_counted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in [
        "demo/checkpoint",
        "tests/fixtures/golden/one_view",
        "tests/fixtures/golden/mixed_shapes",
        "tests/fixtures/golden_n1d7/mixed_shapes",
    ] {
        let folder = root.join(folder);
        let config = Config::load(&folder).expect("a config");
        let checkpoint = Checkpoint::open(&folder).expect("a checkpoint");
        let unused = |name: &str| {
            // N1.7's features are taken before the final norm.
            let norm = name == "backbone.model.model.language_model.norm.weight";
            norm || ["vision_model.head.", "lm_head", "mask_token"].iter().any(|part| name.contains(part))
        };
        let held: usize =
            checkpoint.tensors().filter(|(name, _)| !unused(name)).map(|(_, weight)| weight.len()).sum();
        let stages = stages(&model(config), &one_view()).expect("shapes that fit");
        let counted: u64 = stages.iter().map(|stage| stage.parameters).sum();
        assert_eq!(counted, held as u64, "{}", folder.display());
    }
}

#[test]
fn a_floor_is_the_larger_of_reading_and_computing() {
    let [dit, constant] = [false, true]
        .map(|constant| topology::Stage { constant, ..Topology::of(&synthetic::tiny()).stages[0] });
    let stage = Stage { of: dit, parameters: 10, read: 10, passes: 2, flops: 300 };
    assert_eq!(stage.bytes(2), 40);
    assert_eq!(stage.floor(2, 10.0, 1000.0), 4.0);
    assert_eq!(stage.floor(2, 1000.0, 100.0), 3.0);
    assert_eq!(Stage { of: constant, ..stage }.floor(2, 1.0, 1.0), 0.0);
}
