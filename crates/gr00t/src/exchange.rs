//! Inferences in which the tensors that parts of the model hand to the next are seen and replaced (activation patching).

use crate::ops::cpu::{Intervention, Product};
use crate::ops::{Activation, Mask, Site};
use crate::precision::PrecisionPolicy;
use crate::topology::Topology;
use std::cell::RefCell;
use steadyhand_fidelity::Format;

/// Sees, and may replace, what the parts of the model hand over ([`Part::outputs`](crate::topology::Part::outputs)).
pub trait Patches {
    /// Changes the result of the site `at`, `[batch, tokens, features]` row-major. What comes later computes with the
    /// changed values, rounded to what the engine stores there.
    fn hand_over(&mut self, at: &Site, shape: [usize; 3], values: &mut [f32]);
}

/// Patches as an intervention of the reference's operations, on top of another intervention.
pub struct Patched<'a> {
    /// What interferes besides.
    pub inner: &'a dyn Intervention,
    /// What parts hand over through.
    pub patches: RefCell<&'a mut dyn Patches>,
    /// Rounds what a patch changed.
    pub policy: &'a PrecisionPolicy,
    /// Tells where parts end.
    pub topology: &'a Topology,
}

impl Intervention for Patched<'_> {
    fn result(&self, site: &Site, shape: [usize; 3], values: &mut [f32]) {
        self.inner.result(site, shape, values);
        if self.topology.part_with_output(site.path()).is_some() {
            let own = values.to_vec();
            self.patches.borrow_mut().hand_over(site, shape, values);
            // What another intervention made of a stored result may not be a value of the format.
            if values != own {
                self.policy.round_stored(values, site);
            }
        }
    }

    fn product(&self, site: &Site, product: &Product) {
        self.inner.product(site, product);
    }

    fn eps(&self, site: &Site, eps: f64) -> f64 {
        self.inner.eps(site, eps)
    }

    fn activation(&self, site: &Site, kind: Activation) -> Activation {
        self.inner.activation(site, kind)
    }

    fn mask(&self, site: &Site, mask: &Mask) -> Mask {
        self.inner.mask(site, mask)
    }

    fn time(&self, site: &Site, bucket: usize) -> usize {
        self.inner.time(site, bucket)
    }

    fn angles(&self, site: &Site) -> Format {
        self.inner.angles(site)
    }

    fn embodiment(&self, site: &Site, slot: usize) -> usize {
        self.inner.embodiment(site, slot)
    }
}
