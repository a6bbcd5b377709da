//! The diagnosis of a model of N1.7: each of its own faults is named, and engines that differ in rounding alone are healthy.

use std::collections::BTreeMap;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::synthetic::{tiny, tiny_n1_7};
use steadyhand_gr00t_lab::diagnosis::{
    Examination, Inputs, Localization, Mixture, Reference, Side, side_by_side,
};
use steadyhand_gr00t_lab::fault::{Case, FaultyEngine, Results, suite, swapped_gelu};

const STEPS: usize = 2;

fn model() -> Model {
    let mut config = tiny_n1_7();
    config.state_history_length = Some(2);
    Model::synthetic(config, 3).expect("consistent sizes")
}

/// Text, an image of two rows and three columns of tokens, text.
fn input(model: &Model) -> ModelInput {
    let (config, [height, width]) = (&model.config, [64, 96]);
    let image = config.image_token();
    ModelInput {
        images: vec![PixelValues { height, width, data: gaussian(1, 1, 0, 3, height * width).data }].into(),
        input_ids: [&[7, 8][..], &[image; 6], &[9, 10, 11]].concat(),
        state: gaussian(1, 2, 0, 2, config.max_state_dim),
        embodiment_id: 1,
        noise: gaussian(1, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

/// What an engine shows, examined at f32.
fn examined<T>(
    model: &Model,
    engine: &mut dyn Engine,
    then: impl FnOnce(&Examination, Localization) -> T,
) -> T {
    let input = input(model);
    let mut observed = Recorder::all();
    engine.infer(std::slice::from_ref(&input), Some(&mut observed)).expect("an inference");
    let examination = Examination {
        model,
        policy: &engine.precision().clone(),
        denoising_steps: STEPS,
        input: &input,
        observed: &observed,
        inputs: Inputs::Own,
        expected: &BTreeMap::new(),
        made_otherwise: &[],
    };
    let base = examination.localize().expect("an examination");
    then(&examination, base)
}

/// Those of the suite that N1.6's does not have.
fn own_cases(model: &Model) -> Vec<Case> {
    let of_n1_6: Vec<&str> =
        suite(&Model::synthetic(tiny(), 1).expect("consistent sizes")).iter().map(|case| case.name).collect();
    suite(model).into_iter().filter(|case| !of_n1_6.contains(&case.name)).collect()
}

#[test]
fn its_own_faults_are_named() {
    let model = model();
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let cases = own_cases(&model);
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(
        names,
        [
            "features after the final norm",
            "fewer language layers",
            "deepstack left out",
            "deepstack at the wrong layer",
            "M-RoPE in blocks",
            "padding seen by self-attention",
            "state history reversed",
        ]
    );
    for fault in cases.into_iter().flat_map(|case| [case.strong, case.weak]) {
        let mut engine = FaultyEngine::new(&model, &policy, STEPS, fault.clone());
        let found = examined(&model, &mut engine, |examination, base| {
            let findings = examination.explain(&Results::new(), &base, &|_| {});
            let findings = findings.expect("findings").into_iter();
            findings.map(|found| (found.fault.description, found.proven)).collect::<Vec<_>>()
        });
        assert_eq!(found.first(), Some(&(fault.description.clone(), true)), "{}: {found:#?}", fault.kind);
    }
}

#[test]
fn a_healthy_engine_shows_no_fault() {
    let model = model();
    for precision in ["f32", "bf16", "mixed"] {
        let policy = PrecisionPolicy::preset(precision).expect("a preset");
        let mut engine = CpuEngine::new(model.clone(), policy, STEPS);
        let errors = examined(&model, &mut engine, |_, base| base.errors);
        assert!(errors.len() > 200 && errors.iter().all(|error| !error.is_fault()), "{precision}");
    }
}

/// The vision tower hands several tensors over: exchanged, they are exchanged together.
#[test]
fn a_fault_of_a_deepstack_merger_goes_with_the_vision_tower() {
    let model = model();
    let (input, policy) = (input(&model), PrecisionPolicy::preset("f32").expect("a preset"));
    let infer = |engine: &mut dyn Engine| {
        engine.infer(std::slice::from_ref(&input), None).expect("an inference").swap_remove(0)
    };
    let right = infer(&mut CpuEngine::new(model.clone(), policy.clone(), STEPS));
    let mut b = FaultyEngine::new(&model, &policy, STEPS, swapped_gelu("vision.deepstack"));
    let wrong = infer(&mut b);
    assert_ne!(wrong, right);
    let reference = Reference { model: &model, policy: &policy, denoising_steps: STEPS };
    for part in &model.topology.parts {
        let [only, all_but] = [Side::A, Side::B].map(|most| {
            side_by_side(reference, &mut b, &input, Mixture { most, swapped: Some(part) }).expect("a mixture")
        });
        let expected = if part.name == "vision" { [&wrong, &right] } else { [&right, &wrong] };
        assert_eq!([&only, &all_but], expected, "{}", part.name);
    }
}
