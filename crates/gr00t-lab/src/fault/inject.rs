//! Faults made inside the model: as an [`Edit`] of its operations.

use super::Fault;
use super::inputs::wobble;
use crate::diagnosis::Backbone;
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_fidelity::format::reinterpret_bytes;
use steadyhand_gr00t::ops::cpu::Intervention;
use steadyhand_gr00t::ops::cpu::Tensor;
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
}

impl Intervention for Injection<'_> {
    fn known(&self, at: &Site) -> Option<Tensor> {
        self.backbone?.known(at)
    }

    fn result(&self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        let [_, tokens, features] = shape;
        match self.fault {
            Fault::Reinterpreted { site, stored, read } if at.path() == site => {
                let misread = reinterpret_bytes(values, *stored, *read);
                values.iter_mut().zip(misread).for_each(|(value, misread)| *value = misread);
            }
            Fault::Stale { site } if at.path() == site => self.exchange_with_previous(at, values),
            Fault::UnwrittenTail { site, tokens: unwritten } if at.path() == site => {
                for item in values.chunks_exact_mut(tokens * features) {
                    item[tokens.saturating_sub(*unwritten) * features..].fill(0.0);
                }
            }
            Fault::MaskedRow { site } if at.path() == site => values[..features].fill(f32::NAN),
            Fault::TransposedHeads { site, heads } if at.path() == site => {
                let head_dim = features / heads;
                move_features(values, features, |feature| (feature % head_dim) * heads + feature / head_dim);
            }
            Fault::MisgroupedHeads { site, heads } if at.path() == site => {
                let head_dim = features / heads;
                let other = |head: usize| if head ^ 1 < *heads { head ^ 1 } else { head };
                move_features(values, features, |feature| {
                    other(feature / head_dim) * head_dim + feature % head_dim
                });
            }
            Fault::OldWeights { site, change } if at.path() == site => {
                for (index, value) in values.iter_mut().enumerate() {
                    *value *= 1.0 + change * wobble(index % features);
                }
            }
            Fault::StaleScale { site, fraction } if at.path() == site => quantize(values, *fraction),
            _ => {}
        }
    }

    fn eps(&self, at: &Site, right: f64) -> f64 {
        match self.fault {
            Fault::Eps { site, eps } if at.is_within(site) => *eps,
            _ => right,
        }
    }

    fn activation(&self, at: &Site, kind: Activation) -> Activation {
        match (self.fault, kind) {
            (Fault::SwappedGelu { site }, Activation::Gelu) if at.is_within(site) => Activation::GeluTanh,
            (Fault::SwappedGelu { site }, Activation::GeluTanh) if at.is_within(site) => Activation::Gelu,
            _ => kind,
        }
    }

    fn mask(&self, at: &Site, mask: &Mask) -> Mask {
        let at_or_above = |layer: usize| {
            let index = at.path().strip_prefix("language.layer.").and_then(|rest| rest.split('.').next());
            index.and_then(|index| index.parse::<usize>().ok()).is_some_and(|index| index >= layer)
        };
        match (self.fault, mask) {
            (Fault::NotCausal { layer }, Mask::Causal) if at_or_above(*layer) => Mask::None,
            _ => mask.clone(),
        }
    }

    fn time(&self, _: &Site, right: usize) -> usize {
        match self.fault {
            Fault::TimestepOffset { buckets } => right.saturating_add_signed(*buckets as isize),
            // The first step's time is 0, whatever the number of steps.
            Fault::TimestepFolded => 0,
            _ => right,
        }
    }

    fn angles(&self, _: &Site) -> Format {
        match self.fault {
            Fault::TimestepAngle { format } => *format,
            _ => Format::F32,
        }
    }

    fn embodiment(&self, _: &Site, right: usize) -> usize {
        match self.fault {
            Fault::Embodiment { slot } => *slot,
            _ => right,
        }
    }
}

impl Injection<'_> {
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

/// Feature `f` of every token becomes what feature `from(f)` was.
fn move_features(values: &mut [f32], features: usize, from: impl Fn(usize) -> usize) {
    for token in values.chunks_exact_mut(features) {
        let right = token.to_vec();
        for (feature, value) in token.iter_mut().enumerate() {
            *value = right[from(feature)];
        }
    }
}

/// Rounds to e4m3 with a scale made for `fraction` of the values' range; larger values saturate.
fn quantize(values: &mut [f32], fraction: f32) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest * fraction / Format::Fp8E4m3.max();
    if scale > 0.0 {
        for value in values.iter_mut() {
            *value = Format::Fp8E4m3.round_saturating(*value / scale) * scale;
        }
    }
}
