//! An engine that computes otherwise while a probe looks on is judged by what runs without one.

mod scene;

use scene::Scene;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{Matrix, Result};
use steadyhand_gr00t_lab::diagnosis::{Diagnosis, Inputs, Options, Status, Subject, SwapWhen, diagnose};

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
    let scene = Scene::new();
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let engine = CpuEngine::new(scene.made.parts.model.clone(), policy.clone(), STEPS);
    let options = Options { policy, inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
    diagnose(&scene.setup(STEPS), Subject::Live(&mut TwoForms { engine, factor }), &options, &|_| {})
        .expect("a diagnosis")
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
