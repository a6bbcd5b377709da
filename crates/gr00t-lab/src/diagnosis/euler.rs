//! Where the final error comes from: the conditioning, and each Euler step.
//!
//! The engine's state after step k is what the reference makes of the engine's state before it, plus what the
//! step itself added: error(k + 1) = propagated(k) + injected(k), exactly. Each injected error is then put into
//! the reference's own run and carried to the end; the contributions add up to the final error as far as the
//! model is linear in such small changes, which `closure` states.

use super::Observed;
use super::report::{EulerSplit, EulerStep};
use super::setup::Setup;
use crate::Result;
use crate::backbone::Backbone;
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::ops::cpu::{Intervention, Tensor};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;

/// Splits the final error of the last inference; none where the engine did not show its Euler states.
///
/// # Errors
/// The input does not fit the model.
pub(super) fn split(setup: &Setup, observed: &dyn Observed) -> Result<Option<EulerSplit>> {
    let name = |step: usize| format!("step.{step}.euler");
    let states: Option<Vec<Vec<f32>>> =
        (0..setup.denoising_steps).map(|step| observed.read(&name(step)).map(|(_, values)| values)).collect();
    let Some(states) = states else { return Ok(None) };
    let mut backbone = Backbone::new(&setup.model.topology);
    let free = Patched::default().run(setup, None, Some(&mut backbone))?;
    // Everything that is replaced below lies behind the backbone.
    let run = |patched: &Patched| patched.run(setup, Some(&backbone), None);
    let size = free.last().map_or(0, Vec::len);
    if states.iter().any(|state| state.len() != size || state.iter().any(|value| !value.is_finite())) {
        return Ok(None);
    }
    // What the action head is conditioned on.
    let conditioning = [&setup.model.topology.features, "action_head.state_features"];
    let given = |tap: &str| observed.read(tap).map(|(_, values)| (tap.to_owned(), values));
    let conditioned =
        Patched { results: conditioning.into_iter().filter_map(given).collect(), ..Patched::default() };
    let from_conditioning = run(&conditioned)?;
    let scale = norm(&free[free.len() - 1]);
    let (mut steps, mut sum) = (Vec::new(), difference(&last(&from_conditioning), &last(&free)));
    for step in 0..setup.denoising_steps {
        // What the reference makes of the engine's state and conditioning in this step.
        let mut own = conditioned.clone();
        if step > 0 {
            own.results.insert(name(step - 1), states[step - 1].clone());
        }
        let made = run(&own)?[step].clone();
        let injected = difference(&states[step], &made);
        let contribution = run(&Patched::default().adding(name(step), injected.clone()))?;
        let contribution = difference(&last(&contribution), &last(&free));
        sum.iter_mut().zip(&contribution).for_each(|(sum, value)| *sum += value);
        steps.push(EulerStep {
            step,
            total: norm(&difference(&states[step], &free[step])) / scale,
            injected: norm(&injected) / scale,
            propagated: norm(&difference(&made, &free[step])) / scale,
            contribution: norm(&contribution) / scale,
        });
    }
    let error = difference(&states[states.len() - 1], &last(&free));
    let unexplained = norm(&difference(&sum, &error)) / norm(&error).max(f64::MIN_POSITIVE);
    let conditioning = norm(&difference(&last(&from_conditioning), &last(&free))) / scale;
    Ok(Some(EulerSplit { steps, conditioning, closure: if norm(&error) == 0.0 { 0.0 } else { unexplained } }))
}

fn last(states: &[Vec<f32>]) -> Vec<f32> {
    states.last().cloned().unwrap_or_default()
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// The f32 reference with some of its results replaced, and one of them changed.
#[derive(Debug, Clone, Default)]
struct Patched {
    results: BTreeMap<String, Vec<f32>>,
    added: Option<(String, Vec<f32>)>,
}

impl Patched {
    fn adding(self, name: String, values: Vec<f32>) -> Self {
        Patched { added: Some((name, values)), ..self }
    }

    /// The state after each Euler step of the last inference. The backbone's own results are not computed where they
    /// are `known`.
    fn run(
        &self,
        setup: &Setup,
        known: Option<&Backbone>,
        probe: Option<&mut dyn Probe>,
    ) -> Result<Vec<Vec<f32>>> {
        let Some(input) = setup.inputs.last() else { return Ok(Vec::new()) };
        let states = RefCell::new(Vec::new());
        let intervention = Patching { patched: self, known, states: &states };
        let policy = PrecisionPolicy::preset("f32")?;
        let mut engine = CpuEngine::new(setup.model.clone(), policy, setup.denoising_steps)
            .with_intervention(&intervention);
        engine.infer(std::slice::from_ref(input), probe)?;
        drop(engine);
        Ok(states.into_inner())
    }
}

struct Patching<'a> {
    patched: &'a Patched,
    known: Option<&'a Backbone>,
    states: &'a RefCell<Vec<Vec<f32>>>,
}

impl Intervention for Patching<'_> {
    fn known(&self, at: &Site) -> Option<Tensor> {
        let known = self.known?.known(at)?;
        // What is going to be replaced must come to where it is.
        let patch = self.patched.results.get(at.path());
        patch.is_none_or(|patch| patch.len() != known.values().len()).then_some(known)
    }

    fn result(&self, at: &Site, _: [usize; 3], values: &mut [f32]) {
        let name = at.to_string();
        if let Some(patch) = self.patched.results.get(&name).filter(|patch| patch.len() == values.len()) {
            values.copy_from_slice(patch);
        }
        if let Some((_, added)) = self.patched.added.as_ref().filter(|(site, _)| *site == name) {
            values.iter_mut().zip(added).for_each(|(value, added)| *value += added);
        }
        if at.path() == "euler" {
            self.states.borrow_mut().push(values.to_vec());
        }
    }
}
