//! Models of synthetic weights: the same on every read, and usable.

use steadyhand_gr00t::checkpoint::{Dtype, Loader, Weight};
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::synthetic;

fn weight(seed: u64) -> Weight {
    Loader::synthetic(seed).weight("a.fc.weight", &[40, 30])
}

#[test]
fn a_range_reads_what_the_whole_holds() {
    let weight = weight(3);
    let format = Dtype::Bf16.format();
    let whole = weight.to_vec(format);
    let mut part = vec![0.0; 100];
    weight.read_into(250..350, format, &mut part);
    assert_eq!(part, whole[250..350]);
    let formula = weight.synthetic().expect("a formula");
    assert!(whole.iter().zip(0..).all(|(value, index)| *value == formula.value(index)));
}

#[test]
fn a_synthetic_weight_has_no_bytes() {
    let weight = weight(3);
    assert_eq!((weight.dtype(), weight.shape(), weight.bytes()), (Dtype::Bf16, &[40, 30][..], None));
    assert_ne!(weight.synthetic(), self::weight(4).synthetic());
    assert_eq!(weight.synthetic(), self::weight(3).synthetic());
}

/// Runs one inference of the tiny model; the actions' bits and the backbone features.
fn infer(seed: u64, precision: &str) -> (Vec<u32>, Vec<f32>) {
    let config = synthetic::tiny();
    let image_token = config.image_token();
    let input = ModelInput {
        images: vec![PixelValues { height: 56, width: 56, data: gaussian(1, 1, 0, 3, 56 * 56).data }].into(),
        input_ids: [7, 9].into_iter().chain([image_token; 4]).chain([13]).collect(),
        state: gaussian(1, 2, 0, 1, config.max_state_dim),
        embodiment_id: 1,
        noise: gaussian(1, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    };
    let model = Model::synthetic(config, seed).expect("consistent sizes");
    let mut engine = CpuEngine::new(model, PrecisionPolicy::preset(precision).expect("a preset"), 4);
    let mut recorder = Recorder::only(["backbone_features".to_owned()]);
    let actions = engine.infer(&[input], Some(&mut recorder)).expect("an inference").swap_remove(0);
    assert!(actions.data.iter().all(|value| value.is_finite() && value.abs() < 100.0));
    (
        actions.data.iter().map(|value| value.to_bits()).collect(),
        recorder.tensors["backbone_features"].1.clone(),
    )
}

#[test]
fn a_seed_determines_the_actions() {
    assert_eq!(infer(5, "bf16"), infer(5, "bf16"));
    assert_ne!(infer(5, "bf16").0, infer(6, "bf16").0);
}

#[test]
fn activations_keep_their_magnitude() {
    let (_, features) = infer(5, "f32");
    let rms = (features.iter().map(|x| x * x).sum::<f32>() / features.len() as f32).sqrt();
    assert!((0.5..2.0).contains(&rms), "{rms}");
}
