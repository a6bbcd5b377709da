//! The reference with a fault in it.

use super::inject::{Injection, Results};
use super::{Fault, Otherwise};
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

/// [`steadyhand_gr00t::engine::CpuEngine`] with one fault.
#[derive(Debug)]
pub struct FaultyEngine {
    model: Model,
    policy: PrecisionPolicy,
    denoising_steps: usize,
    fault: Fault,
    previous: Results,
}

impl FaultyEngine {
    /// An engine that runs `model` at `policy`, but for the fault.
    pub fn new(model: &Model, policy: &PrecisionPolicy, denoising_steps: usize, fault: Fault) -> Self {
        let (mut model, mut policy) = (model.clone(), policy.clone());
        fault.damage_model(&mut model, &mut policy);
        FaultyEngine { model, policy, denoising_steps, fault, previous: Results::new() }
    }

    /// The fault.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }
}

impl FaultyEngine {
    /// The actions of one input, whose backbone is that of `backbone` where one is given.
    pub(crate) fn infer_behind(&mut self, input: &ModelInput, backbone: Option<&Backbone>) -> Result<Matrix> {
        let mut input = [input.clone()];
        self.fault.damage_inputs(&mut input);
        let FaultyEngine { model, policy, denoising_steps, fault, previous } = self;
        let injection = Injection { backbone, ..Injection::new(fault, previous) };
        let actions = infer_by_layout(model, &input, *denoising_steps, None, &mut |batch, _| {
            let cpu = Cpu::new(policy, None).with_intervention(&injection);
            model.infer(&Otherwise::new(cpu, policy, Some(fault)), batch)
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
        &self.policy
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let mut inputs = inputs.to_vec();
        self.fault.damage_inputs(&mut inputs);
        let (model, policy) = (&self.model, &self.policy);
        let (fault, previous) = (&self.fault, &mut self.previous);
        infer_by_layout(model, &inputs, self.denoising_steps, probe, &mut |batch, probe| {
            let injection = Injection::new(fault, previous);
            let cpu = Cpu::new(policy, probe).with_intervention(&injection);
            let actions = model.infer(&Otherwise::new(cpu, policy, Some(fault)), batch);
            let current = injection.current.into_inner();
            *previous = current;
            actions
        })
    }

    fn infer_patched(&mut self, input: &ModelInput, patches: &mut dyn Patches) -> Result<Matrix> {
        let mut input = [input.clone()];
        self.fault.damage_inputs(&mut input);
        let FaultyEngine { model, policy, denoising_steps, fault, previous } = self;
        let injection = Injection::new(fault, previous);
        let intervention =
            Patched { inner: &injection, patches: RefCell::new(patches), policy, topology: &model.topology };
        let actions = infer_by_layout(model, &input, *denoising_steps, None, &mut |batch, _| {
            let cpu = Cpu::new(policy, None).with_intervention(&intervention);
            model.infer(&Otherwise::new(cpu, policy, Some(fault)), batch)
        });
        *previous = injection.current.into_inner();
        one(actions?)
    }
}
