//! Faults made inside the model: as an intervention in its operations.

use super::{Effect, Fault};
use crate::backbone::Backbone;
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::cpu::{Intervention, Tensor};
use steadyhand_gr00t::ops::{Activation, Mask, Site};

/// Results of one inference by tap name: what a buffer that is not written still holds.
pub type Results = BTreeMap<String, Vec<f32>>;

/// A fault at work in one inference.
pub(crate) struct Injection<'a> {
    pub(crate) fault: &'a Fault,
    /// Results of the previous inference.
    pub(crate) previous: &'a Results,
    /// Results of this one.
    pub(crate) current: RefCell<Results>,
    /// The backbone, where it is known.
    pub(crate) backbone: Option<&'a Backbone>,
}

impl<'a> Injection<'a> {
    pub(crate) fn new(fault: &'a Fault, previous: &'a Results) -> Self {
        Injection { fault, previous, current: RefCell::default(), backbone: None }
    }

    /// What the fault does at a site that it touches.
    fn effect(&self, at: &Site) -> Option<&'a Effect> {
        self.fault.touches(at).then_some(&self.fault.effect)
    }

    /// Keeps the values for the next inference and puts those of the previous one in their place.
    fn exchange_with_previous(&self, at: &Site, values: &mut [f32]) {
        let name = at.to_string();
        self.current.borrow_mut().insert(name.clone(), values.to_vec());
        match self.previous.get(&name) {
            Some(previous) if previous.len() == values.len() => values.copy_from_slice(previous),
            // Before the first inference, and after one of another shape, the buffer holds zeros.
            _ => values.fill(0.0),
        }
    }
}

impl Intervention for Injection<'_> {
    fn known(&self, at: &Site) -> Option<Tensor> {
        self.backbone?.known(at)
    }

    fn result(&self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        match self.effect(at) {
            Some(Effect::Result(change)) => change(shape, values),
            Some(Effect::Stale) => self.exchange_with_previous(at, values),
            _ => {}
        }
    }

    fn eps(&self, at: &Site, right: f64) -> f64 {
        match self.effect(at) {
            Some(Effect::Eps(eps)) => *eps,
            _ => right,
        }
    }

    fn activation(&self, at: &Site, kind: Activation) -> Activation {
        match self.effect(at) {
            Some(Effect::Activation(change)) => change(kind),
            _ => kind,
        }
    }

    fn mask(&self, at: &Site, mask: &Mask) -> Mask {
        match self.effect(at) {
            Some(Effect::Mask(change)) => change(at, mask),
            _ => mask.clone(),
        }
    }

    fn time(&self, at: &Site, right: usize) -> usize {
        match self.effect(at) {
            Some(Effect::Time(change)) => change(right),
            _ => right,
        }
    }

    fn angles(&self, at: &Site) -> Format {
        match self.effect(at) {
            Some(Effect::Angles(format)) => *format,
            _ => Format::F32,
        }
    }

    fn embodiment(&self, at: &Site, right: usize) -> usize {
        match self.effect(at) {
            Some(Effect::Embodiment(slot)) => *slot,
            _ => right,
        }
    }
}
