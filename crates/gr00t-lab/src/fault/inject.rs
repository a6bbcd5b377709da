//! Faults made inside the model: as an intervention in its operations.

use super::{Change, Effect, Fault, handed};
use crate::backbone::Backbone;
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::cpu::{Intervention, Tensor};
use steadyhand_gr00t::ops::{Activation, Mask, Site};

/// Results of one inference by tap name: what a buffer that is not written still holds.
pub type Results = BTreeMap<String, Vec<f32>>;

/// Faults at work in one inference.
pub(crate) struct Injection<'a> {
    pub(crate) faults: &'a [Fault],
    /// Results of the previous inference.
    pub(crate) previous: &'a Results,
    /// Results of this one.
    pub(crate) current: RefCell<Results>,
    /// The backbone, where it is known.
    pub(crate) backbone: Option<&'a Backbone>,
}

impl<'a> Injection<'a> {
    pub(crate) fn new(fault: &'a Fault, previous: &'a Results) -> Self {
        Injection::all(std::slice::from_ref(fault), previous)
    }

    pub(crate) fn all(faults: &'a [Fault], previous: &'a Results) -> Self {
        Injection { faults, previous, current: RefCell::default(), backbone: None }
    }

    /// The first of the faults.
    pub(crate) fn fault(&self) -> Option<&'a Fault> {
        self.faults.first()
    }

    /// What the faults do at a site that they touch.
    fn effects(&self, at: &Site) -> impl Iterator<Item = &'a Effect> {
        self.faults.iter().filter(move |fault| fault.touches(at)).map(|fault| &fault.effect)
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
        for effect in self.effects(at) {
            match effect {
                Effect::Result(change) => change(shape, values),
                Effect::Stale => self.exchange_with_previous(at, values),
                Effect::Operation(Change::Handed(buffers)) => handed::give_back(*buffers, at.path(), values),
                _ => {}
            }
        }
    }

    fn eps(&self, at: &Site, right: f64) -> f64 {
        self.effects(at).fold(right, |eps, effect| match effect {
            Effect::Eps(other) => *other,
            _ => eps,
        })
    }

    fn activation(&self, at: &Site, right: Activation) -> Activation {
        self.effects(at).fold(right, |kind, effect| match effect {
            Effect::Activation(change) => change(kind),
            _ => kind,
        })
    }

    fn mask(&self, at: &Site, right: &Mask) -> Mask {
        self.effects(at).fold(right.clone(), |mask, effect| match effect {
            Effect::Mask(change) => change(at, &mask),
            _ => mask,
        })
    }

    fn time(&self, at: &Site, right: usize) -> usize {
        self.effects(at).fold(right, |time, effect| match effect {
            Effect::Time(change) => change(time),
            _ => time,
        })
    }

    fn angles(&self, at: &Site) -> Format {
        self.effects(at).fold(Format::F32, |format, effect| match effect {
            Effect::Angles(other) => *other,
            _ => format,
        })
    }

    fn embodiment(&self, at: &Site, right: usize) -> usize {
        self.effects(at).fold(right, |slot, effect| match effect {
            Effect::Embodiment(other) => *other,
            _ => slot,
        })
    }
}
