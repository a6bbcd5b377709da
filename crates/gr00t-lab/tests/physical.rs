//! Engines of which only physical actions are known are judged as the others, as far as those tell.

mod scene;

use scene::Scene;
use steadyhand_gr00t::ActionChunk;
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_lab::diagnosis::{
    Diagnosis, F32_ACTIONS, Inputs, MARGIN, Options, Status, Subject, SwapWhen, compare, diagnose,
};
use steadyhand_gr00t_lab::fault::{Fault, FaultyEngine, timestep_offset};

const STEPS: usize = 4;

fn f32() -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset")
}

/// The physical actions of the reference with these faults.
fn chunks(scene: &Scene, faults: &[Fault]) -> Vec<ActionChunk> {
    let mut engine = FaultyEngine::with_all(&scene.made.parts.model, &f32(), STEPS, faults.to_vec());
    let actions = engine.infer(&scene.inputs, None).expect("an inference");
    let setup = scene.setup(STEPS);
    let decode = |(actions, observation)| setup.processor.decode(actions, observation).expect("fits");
    actions.iter().zip(setup.observations).map(decode).collect()
}

fn judged(scene: &Scene, chunks: Vec<ActionChunk>) -> Diagnosis {
    let options = Options { policy: f32(), inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
    diagnose(&scene.setup(STEPS), Subject::Physical(chunks), &options, &|_| {}).expect("a diagnosis")
}

/// Each value moved by so many last places.
fn moved(mut chunks: Vec<ActionChunk>, places: u32) -> Vec<ActionChunk> {
    let groups = chunks.iter_mut().flat_map(|chunk| &mut chunk.groups);
    for value in groups.flat_map(|(_, actions)| &mut actions.data) {
        (0..places).for_each(|_| *value = value.next_up());
    }
    chunks
}

#[test]
fn right_actions_are_healthy_to_the_last_place_and_not_far_beyond() {
    let scene = Scene::new();
    let diagnosis = judged(&scene, chunks(&scene, &[]));
    assert_eq!(diagnosis.verdict.status, Status::NoFault, "{}", diagnosis.verdict.paragraph);
    assert_eq!(diagnosis.actions.relative_l2, 0.0);
    let known = diagnosis.audit.iter().any(|line| line.starts_with("known in physical units: "));
    assert!(known, "{:?}", diagnosis.audit);
    // A search for causes takes long; the limit does not need one.
    let errs = |places| {
        let physical = Subject::Physical(moved(chunks(&scene, &[]), places));
        compare(&scene.setup(STEPS), None, (physical, f32()), None).expect("a comparison").actions
    };
    let (one, thousand) = (errs(1), errs(1000));
    assert!(one.relative_l2 > 0.0 && one.expected >= F32_ACTIONS + 0.9 * one.relative_l2, "{one:?}");
    assert!(thousand.relative_l2 > MARGIN * thousand.expected, "{thousand:?}");
}

#[test]
fn a_fault_is_found_from_physical_actions() {
    let scene = Scene::new();
    let diagnosis = judged(&scene, chunks(&scene, &[timestep_offset(125)]));
    let verdict = &diagnosis.verdict;
    assert_eq!(verdict.status, Status::Cause, "{}", verdict.paragraph);
    assert!(verdict.headline.contains("the middle of each Euler step"), "{}", verdict.headline);
    assert!(
        diagnosis.audit.iter().any(|line| line.contains("at an end of their range")),
        "{:?}",
        diagnosis.audit
    );
}

/// A running engine beside physical actions goes the same way out and back.
#[test]
fn engines_are_compared_as_far_as_physical_units_tell() {
    let scene = Scene::new();
    let mut engine = FaultyEngine::with_all(&scene.made.parts.model, &f32(), STEPS, Vec::new());
    let found = compare(
        &scene.setup(STEPS),
        Some((Subject::Closed(&mut engine), f32())),
        (Subject::Physical(chunks(&scene, &[])), f32()),
        None,
    );
    assert_eq!(found.expect("a comparison").actions.relative_l2, 0.0);
}
