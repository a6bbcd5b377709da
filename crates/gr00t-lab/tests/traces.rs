//! What is said of an engine that left tensors, by what it did not leave.

mod scene;

use scene::Scene;
use std::collections::BTreeMap;
use std::rc::Rc;
use steadyhand_fidelity::{Trace, TraceWriter};
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t_lab::diagnosis::{
    Inputs, OfInference, Options, Status, Subject, SwapWhen, Verdict, diagnose,
};
use steadyhand_gr00t_lab::fault::{Fault, FaultyEngine, masked_row, old_weights, stale, timestep_offset};

const STEPS: usize = 4;

fn f32() -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset")
}

/// The verdict on the tensors, but those that end in a name of `hidden`, that the reference with these faults left at
/// `ran`, judged by `declared`; `slot` says whether the embodiment slot is among them.
fn judged_at(
    (ran, declared): (&PrecisionPolicy, &PrecisionPolicy),
    faults: &[Fault],
    hidden: &[&str],
    slot: bool,
) -> Verdict {
    let scene = Scene::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace");
    let mut writer = TraceWriter::create(&path, BTreeMap::new()).expect("a trace");
    let mut engine = FaultyEngine::with_all(&scene.made.parts.model, ran, STEPS, faults.to_vec());
    for (inference, input) in scene.inputs.iter().enumerate() {
        let mut taps = Recorder::all();
        let actions =
            engine.infer(std::slice::from_ref(input), Some(&mut taps)).expect("an inference").remove(0);
        let shown = taps.tensors.iter().filter(|(name, _)| !hidden.iter().any(|end| name.ends_with(end)));
        for (name, (shape, values)) in shown {
            writer.add(&OfInference::name(inference, name), shape, values).expect("a tensor");
        }
        if !taps.tensors.contains_key("action_pred") {
            let shape = [1, actions.rows, actions.cols];
            writer
                .add(&OfInference::name(inference, "action_pred"), &shape, &actions.data)
                .expect("a tensor");
        }
        if slot {
            let id = input.embodiment_id as f32;
            writer.add(&OfInference::name(inference, "embodiment_id"), &[1], &[id]).expect("a tensor");
        }
    }
    writer.finish().expect("a trace");
    let policy = declared.clone();
    let options = Options { policy, inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
    let trace = Rc::new(Trace::open(&path).expect("a trace"));
    diagnose(&scene.setup(STEPS), Subject::Trace(trace), &options, &|_| {}).expect("a diagnosis").verdict
}

fn judged(faults: &[Fault], hidden: &[&str], slot: bool) -> Verdict {
    judged_at((&f32(), &f32()), faults, hidden, slot)
}

/// Layers with weights for each embodiment are not blamed while the slot that was taken is not known.
#[test]
fn an_embodiment_slot_that_is_not_shown_is_said_not_to_be() {
    let fault = [old_weights("decoder.layer1", 0.3)];
    let verdict = judged(&fault, &[], false);
    assert_eq!((verdict.status, verdict.place.as_deref()), (Status::Place, Some("decoder.layer1")));
    assert!(
        verdict.headline.contains("the embodiment slot is not shown to be right"),
        "{}",
        verdict.headline
    );
    assert!(verdict.paragraph.contains("record `embodiment_id`"), "{}", verdict.paragraph);
    let verdict = judged(&fault, &[], true);
    assert!(verdict.headline.contains("wrong on inputs that are right"), "{}", verdict.headline);
    assert!(!verdict.paragraph.contains("embodiment"), "{}", verdict.paragraph);
}

const TIME: [&str; 3] = ["action_encoder.time", "dit.timestep_projection", ".timestep"];

/// No known time: the layer that works on its encoding is right, as it errs by the same in every token.
#[test]
fn a_time_encoding_that_is_not_shown_is_the_place_and_not_the_layer_behind_it() {
    let verdict = judged(&[timestep_offset(77)], &TIME, true);
    assert_eq!((verdict.status, verdict.place.as_deref()), (Status::Place, Some("action_encoder.time")));
    assert!(verdict.headline.contains("which is not shown, is wrong"), "{}", verdict.headline);
    let verdict = judged(&[old_weights("action_encoder.layer2", 0.3)], &TIME, true);
    assert_eq!(verdict.place.as_deref(), Some("action_encoder.layer2"), "{}", verdict.headline);
}

/// The middle of each of four Euler steps: known by its effect alone.
#[test]
fn a_known_time_is_the_cause_where_its_encoding_is_not_shown() {
    let verdict = judged(&[timestep_offset(125)], &TIME, true);
    assert_eq!(verdict.status, Status::Cause, "{}", verdict.headline);
    assert!(verdict.headline.contains("the middle of each Euler step"), "{}", verdict.headline);
}

/// An engine with quantized activations is judged by what that costs, not by its weights' rounding alone.
#[test]
fn quantized_activations_are_rounding_where_they_are_declared() {
    let declared = |rest: &str| {
        let text = format!(
            "base = \"f32\"\n[[site]]\npattern = \"dit.block\"\nweights = \"uint8_per_channel\"\n{rest}"
        );
        PrecisionPolicy::from_identity(&text, "a test".as_ref()).expect("a policy")
    };
    let (both, weights) = (declared("activations = \"uint8_per_tensor\"\n"), declared(""));
    assert_eq!(judged_at((&both, &both), &[], &[], true).status, Status::NoFault);
    let verdict = judged_at((&both, &weights), &[], &[], true);
    assert_ne!(verdict.status, Status::NoFault, "{}", verdict.headline);
}

/// Two places that err by themselves are both told, also where it is not known what was done; a part that errs all over
/// is told once.
#[test]
fn a_second_place_of_unknown_origin_is_told_where_nothing_else_errs() {
    let places = ["dit.block.1.fc1", "dit.output"];
    let verdict = judged(&places.map(|place| old_weights(place, 0.3)), &[], true);
    let found: Vec<&str> = verdict.judgement().found.iter().map(|found| found.place.as_str()).collect();
    assert_eq!((verdict.status, &found[..]), (Status::Place, &places[..]), "{}", verdict.headline);
    assert!(
        verdict.headline.contains("; and `dit.output` is wrong on inputs that are right"),
        "{}",
        verdict.headline
    );
    // Twice what rounding gives is no second place.
    let little = [old_weights(places[0], 0.3), old_weights(places[1], 3e-6)];
    assert_eq!(judged(&little, &[], true).judgement().found.len(), 1);
    assert_eq!(judged(&little[1..], &[], true).place.as_deref(), Some(places[1]));
    let all = ["query", "fc1", "fc2"].map(|name| old_weights(&format!("dit.block.1.{name}"), 0.3));
    assert_eq!(judged(&all, &[], true).judgement().found.len(), 1);
}

/// Of a buffer that was not written before the first call nothing else is told than that.
#[test]
fn zeros_of_a_first_call_are_no_unwritten_tail() {
    let verdict = judged(&[stale("dit.output_modulation")], &[], true);
    assert_eq!(verdict.status, Status::Cause, "{}", verdict.headline);
    let words = "previous inference's `dit.output_modulation`, zeros in the first";
    assert!(verdict.headline.contains(words), "{}", verdict.headline);
}

/// Tokens that are joined are no operation's result: where they are not shown, what reads them is not said to have had the
/// right ones.
#[test]
fn tokens_that_are_joined_are_not_said_to_be_right_where_they_are_not_shown() {
    let fault = [old_weights("dit.block.0.norm1", 0.3)];
    let verdict = judged(&fault, &["dit.tokens"], true);
    assert_eq!(verdict.place.as_deref(), Some("dit.block.0.norm1"));
    assert!(verdict.headline.contains("is the first tensor shown that is wrong"), "{}", verdict.headline);
    let verdict = judged(&fault, &[], true);
    assert!(verdict.headline.contains("is wrong on inputs that are right"), "{}", verdict.headline);
}

/// What the model is given is not said to be a result of the engine's.
#[test]
fn an_image_of_the_observation_before_is_told_as_such() {
    let verdict = judged(&[stale("vision.patches")], &[], true);
    assert_eq!(verdict.status, Status::Cause, "{}", verdict.headline);
    let words = "works on the pixels of the image (`vision.patches`) of the previous inference";
    assert!(verdict.headline.contains(words), "{}", verdict.headline);
}

/// A result without a number in it is like any other without one: nothing that gives such a result is proven by that.
#[test]
fn what_gives_nothing_but_nan_too_is_no_cause() {
    // Behind the first layer every token sees the one whose row is masked.
    let inside = [
        "norm1",
        "query",
        "key",
        "value",
        "_norm",
        "_rope",
        "attention",
        "output",
        "residual1",
        "norm2",
        "gate",
        "silu",
        "up",
        "gated",
        "down",
        "layer.0",
        "layer.1",
    ];
    let verdict = judged(&[masked_row("language.layer.0.attention")], &inside, true);
    assert_eq!((verdict.status, verdict.place.as_deref()), (Status::Place, Some("language.norm")));
    assert!(verdict.rivals.is_empty(), "{:?}", verdict.rivals);
}
