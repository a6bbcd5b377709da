//! An engine that computes otherwise while a probe looks on is judged by what runs without one.

use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::synthetic::{Shapes, Synthetic, tiny};
use steadyhand_gr00t::{Matrix, Result};
use steadyhand_gr00t_lab::diagnosis::{
    Diagnosis, Inputs, Options, Setup, Status, Subject, SwapWhen, diagnose,
};

const STEPS: usize = 2;

/// The reference, whose actions without a probe are multiplied by a factor.
struct TwoForms {
    engine: CpuEngine<'static>,
    factor: f32,
}

impl Engine for TwoForms {
    fn name(&self) -> &str {
        "two forms"
    }

    fn precision(&self) -> &PrecisionPolicy {
        self.engine.precision()
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let factor = if probe.is_some() { 1.0 } else { self.factor };
        let mut actions = self.engine.infer(inputs, probe)?;
        actions.iter_mut().flat_map(|matrix| &mut matrix.data).for_each(|value| *value *= factor);
        Ok(actions)
    }

    fn differs_when_probed(&self) -> Option<String> {
        Some("the last step has a form of its own".to_owned())
    }
}

/// What is said of an engine in f32 whose actions without a probe are the reference's times `factor`.
fn judged(factor: f32) -> Diagnosis {
    let made = Synthetic::make("synth:tiny", tiny(), 3, &Shapes::default()).expect("consistent sizes");
    let (model, processor) = (&made.parts.model, &*made.parts.processor);
    let [rows, cols] = made.parts.noise_shape();
    let observations = [made.observation(1), made.observation(2)];
    let inputs: Vec<ModelInput> = (0..2u32)
        .map(|index| {
            let noise = gaussian(5, 0, index, rows, cols);
            prepare(processor, &observations[index as usize], noise).expect("an observation that fits")
        })
        .collect();
    let setup = Setup {
        model,
        processor,
        denoising_steps: STEPS,
        observations: &observations,
        inputs: &inputs,
        steps: &[0, 1],
        recorded: &[],
        names: &[],
    };
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let engine = CpuEngine::new(model.clone(), policy.clone(), STEPS);
    let options = Options { policy, inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
    diagnose(&setup, Subject::Live(&mut TwoForms { engine, factor }), &options, &|_| {}).expect("a diagnosis")
}

#[test]
fn within_rounding_it_is_healthy_and_repeats_itself() {
    let diagnosis = judged(1.0 + f32::EPSILON);
    assert_eq!(diagnosis.verdict.status, Status::NoFault);
    assert!(diagnosis.determinism.contains("the same bits"), "{}", diagnosis.determinism);
    assert!(diagnosis.audit.iter().any(|line| line.contains("a form of its own")), "{:?}", diagnosis.audit);
}

#[test]
fn tensors_of_the_other_form_do_not_clear_it() {
    let diagnosis = judged(1.5);
    assert_ne!(diagnosis.verdict.status, Status::NoFault);
    assert!(diagnosis.taps.is_empty(), "taps of what did not run");
}
