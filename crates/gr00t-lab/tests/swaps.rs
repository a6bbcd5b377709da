//! Components exchanged between two engines: mixtures give exactly what they are made of.

use std::path::Path;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::exchange::Patches;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::topology::Part;
use steadyhand_gr00t::{Matrix, Result};
use steadyhand_gr00t_lab::diagnosis::{Mixture, Reference, Side, side_by_side};
use steadyhand_gr00t_lab::fault::{self, FaultyEngine};

const STEPS: usize = 4;

fn model() -> Model {
    load_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint")).expect("the demo")
}

fn input(model: &Model, seed: u64) -> ModelInput {
    let config = &model.config;
    let image_token = config.image_token();
    let image = PixelValues { height: 56, width: 84, data: gaussian(seed, 1, 0, 3, 56 * 84).data };
    ModelInput {
        images: vec![image].into(),
        input_ids: [7, 9].into_iter().chain([image_token; 6]).chain([13]).collect(),
        state: gaussian(seed, 2, 0, 1, config.max_state_dim),
        embodiment_id: 0,
        noise: gaussian(seed, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

fn preset(name: &str) -> PrecisionPolicy {
    PrecisionPolicy::preset(name).expect("a preset")
}

fn infer(engine: &mut dyn Engine, input: &ModelInput) -> Matrix {
    engine.infer(std::slice::from_ref(input), None).expect("an inference").swap_remove(0)
}

fn mixture(
    model: &Model,
    b: &mut dyn Engine,
    input: &ModelInput,
    most: Side,
    swapped: Option<&Part>,
) -> Matrix {
    let reference = Reference { model, policy: &preset("f32"), denoising_steps: STEPS };
    side_by_side(reference, b, input, Mixture { most, swapped }).expect("a mixture")
}

/// Sees every tensor, changes none.
#[derive(Default)]
struct Seen(Vec<Site>);

impl Patches for Seen {
    fn hand_over(&mut self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{at}");
        self.0.push(at.clone());
    }
}

#[test]
fn patches_that_change_nothing_change_no_bit() {
    let model = model();
    let input = input(&model, 1);
    for precision in ["f32", "bf16", "mixed"] {
        let mut engine = CpuEngine::new(model.clone(), preset(precision), STEPS);
        let mut seen = Seen::default();
        let patched = engine.infer_patched(&input, &mut seen).expect("a patched inference");
        assert_eq!(patched, infer(&mut engine, &input), "{precision}");
        assert_eq!(seen.0.len(), 5 + 4 * STEPS);
        assert_eq!(seen.0[5], Site::in_step("action_tokens", 0));
        assert_eq!(seen.0.last(), Some(&Site::in_step("euler", STEPS - 1)));
    }
}

/// With one owner of everything the mixture is that engine, and a component of an equal engine changes nothing.
#[test]
fn a_mixture_of_one_engine_is_that_engine() {
    let model = model();
    let input = input(&model, 2);
    let mut b = CpuEngine::new(model.clone(), preset("bf16"), STEPS);
    let (own_a, own_b) =
        (infer(&mut CpuEngine::new(model.clone(), preset("f32"), STEPS), &input), infer(&mut b, &input));
    assert_ne!(own_a, own_b);
    assert_eq!(mixture(&model, &mut b, &input, Side::A, None), own_a);
    assert_eq!(mixture(&model, &mut b, &input, Side::B, None), own_b);
    let mut same = CpuEngine::new(model.clone(), preset("f32"), STEPS);
    let dit = model.topology.part("dit").expect("a DiT");
    for part in &model.topology.parts {
        let mixed = mixture(&model, &mut same, &input, Side::A, Some(part));
        assert_eq!(mixed, own_a, "{}", part.name);
        assert_ne!(mixture(&model, &mut b, &input, Side::A, Some(dit)), own_a);
    }
}

/// A fault of a component is in the mixture wherever the component is, in every Euler step, and nowhere else.
#[test]
fn a_fault_goes_where_its_component_goes() {
    let model = model();
    let input = input(&model, 3);
    let f32 = preset("f32");
    let right = infer(&mut CpuEngine::new(model.clone(), f32.clone(), STEPS), &input);
    let swapped = |site: &str| fault::swapped_gelu(site);
    let faults = [
        ("connector", swapped("connector")),
        ("dit", swapped("dit")),
        ("language", fault::not_causal(0)),
        ("state_encoder", fault::other_statistics(0.5)),
        ("noise", fault::unpaired_noise(1)),
        ("decoder", fault::unwritten_tail("decoder", 3)),
    ];
    for (component, fault) in faults {
        let mut b = FaultyEngine::new(&model, &f32, STEPS, fault);
        let wrong = infer(&mut b, &input);
        assert_ne!(wrong, right, "{component}");
        for other in &model.topology.parts {
            let [only, all_but] =
                [Side::A, Side::B].map(|most| mixture(&model, &mut b, &input, most, Some(other)));
            let expected = if other.name == component { [&wrong, &right] } else { [&right, &wrong] };
            assert_eq!([&only, &all_but], expected, "a fault of {component}, {} exchanged", other.name);
        }
    }
}

/// An engine of one piece.
struct Closed(CpuEngine<'static>);

impl Engine for Closed {
    fn name(&self) -> &str {
        "closed"
    }

    fn precision(&self) -> &PrecisionPolicy {
        self.0.precision()
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        self.0.infer(inputs, probe)
    }
}

#[test]
fn engines_that_do_not_meet_are_told() {
    let model = model();
    let input = input(&model, 4);
    let engine = |steps| CpuEngine::new(model.clone(), preset("f32"), steps);
    let reference = Reference { model: &model, policy: &preset("f32"), denoising_steps: STEPS };
    let meet = |b: &mut dyn Engine, most| {
        side_by_side(reference, b, &input, Mixture { most, swapped: None }).expect_err("refused").to_string()
    };
    for most in [Side::A, Side::B] {
        let error = meet(&mut Closed(engine(STEPS)), most);
        assert!(error.contains("closed takes no tensors between its components"), "{error}");
        let error = meet(&mut engine(STEPS - 1), most);
        assert!(error.contains("expected both to hand over the same tensors"), "{error}");
    }
}
