//! The reference with a fault in it.

use super::inject::{Injection, Results};
use super::{Effect, Fault, Otherwise};
use crate::backbone::Backbone;
use std::cell::RefCell;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{Engine, ModelInput, infer_by_layout, one};
use steadyhand_gr00t::exchange::{Patched, Patches};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::cpu::Cpu;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;

/// [`steadyhand_gr00t::engine::CpuEngine`] with faults in it, mostly one.
#[derive(Debug)]
pub struct FaultyEngine {
    model: Model,
    policy: PrecisionPolicy,
    /// What it says it runs at: a fault of formats is not told.
    declared: PrecisionPolicy,
    denoising_steps: usize,
    faults: Vec<Fault>,
    previous: Results,
}

impl FaultyEngine {
    /// An engine that runs `model` at `policy`, but for the fault.
    pub fn new(model: &Model, policy: &PrecisionPolicy, denoising_steps: usize, fault: Fault) -> Self {
        Self::with_all(model, policy, denoising_steps, vec![fault])
    }

    /// An engine with several faults; of those that compute an operation otherwise the first alone.
    pub fn with_all(
        model: &Model,
        policy: &PrecisionPolicy,
        denoising_steps: usize,
        faults: Vec<Fault>,
    ) -> Self {
        let declared = policy.clone();
        let (mut model, mut policy) = (model.clone(), policy.clone());
        faults.iter().for_each(|fault| fault.damage_model(&mut model, &mut policy));
        FaultyEngine { model, policy, declared, denoising_steps, faults, previous: Results::new() }
    }

    /// The faults.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What the engine is given, but for the faults.
    fn given(&self, inputs: &[ModelInput]) -> Vec<ModelInput> {
        let mut inputs = inputs.to_vec();
        self.faults.iter().for_each(|fault| fault.damage_inputs(&mut inputs));
        inputs
    }
}

/// The fault that computes an operation otherwise.
fn of_operation(faults: &[Fault]) -> Option<&Fault> {
    faults.iter().find(|fault| matches!(fault.effect, Effect::Operation(_)))
}

impl FaultyEngine {
    /// The actions of one input, whose backbone is that of `backbone` where one is given.
    pub(crate) fn infer_behind(&mut self, input: &ModelInput, backbone: Option<&Backbone>) -> Result<Matrix> {
        let input = self.given(std::slice::from_ref(input));
        let FaultyEngine { model, policy, denoising_steps, faults, previous, .. } = self;
        let injection = Injection { backbone, ..Injection::all(faults, previous) };
        let actions = infer_by_layout(model, &input, *denoising_steps, None, &mut |batch, _| {
            let cpu = Cpu::new(policy, None).with_intervention(&injection);
            model.infer(&Otherwise::new(cpu, policy, of_operation(faults), model), batch)
        });
        *previous = injection.current.into_inner();
        one(actions?)
    }
}

impl Engine for FaultyEngine {
    fn name(&self) -> &str {
        "faulty"
    }

    fn precision(&self) -> &PrecisionPolicy {
        &self.declared
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let inputs = self.given(inputs);
        let (model, policy) = (&self.model, &self.policy);
        let (faults, previous) = (&self.faults, &mut self.previous);
        infer_by_layout(model, &inputs, self.denoising_steps, probe, &mut |batch, probe| {
            let injection = Injection::all(faults, previous);
            let cpu = Cpu::new(policy, probe).with_intervention(&injection);
            let actions = model.infer(&Otherwise::new(cpu, policy, of_operation(faults), model), batch);
            let current = injection.current.into_inner();
            *previous = current;
            actions
        })
    }

    fn takes_tensors(&self) -> bool {
        true
    }

    fn infer_patched(&mut self, input: &ModelInput, patches: &mut dyn Patches) -> Result<Matrix> {
        let input = self.given(std::slice::from_ref(input));
        let FaultyEngine { model, policy, denoising_steps, faults, previous, .. } = self;
        let injection = Injection::all(faults, previous);
        let intervention =
            Patched { inner: &injection, patches: RefCell::new(patches), policy, topology: &model.topology };
        let actions = infer_by_layout(model, &input, *denoising_steps, None, &mut |batch, _| {
            let cpu = Cpu::new(policy, None).with_intervention(&intervention);
            model.infer(&Otherwise::new(cpu, policy, of_operation(faults), model), batch)
        });
        *previous = injection.current.into_inner();
        one(actions?)
    }
}
