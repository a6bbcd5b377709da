//! What a free run computes before the action head, kept for runs that differ from it only behind.

use std::collections::BTreeMap;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::ops::cpu::Tensor;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::topology::Topology;

/// The backbone of one free run, which replays that change nothing before the action head need not compute again. As
/// a probe it is filled.
#[derive(Debug, Clone)]
pub(crate) struct Backbone {
    topology: Topology,
    shapes: BTreeMap<String, [usize; 3]>,
    /// What the last part that separates hands over, by site.
    handed_over: BTreeMap<String, Vec<f32>>,
}

impl Backbone {
    /// That of a model of this topology, not yet filled.
    pub(crate) fn new(topology: &Topology) -> Self {
        Backbone { topology: topology.clone(), shapes: BTreeMap::new(), handed_over: BTreeMap::new() }
    }

    /// The result at a site of the backbone: what it hands over, and anything of the right shape before. None behind.
    pub(crate) fn known(&self, at: &Site) -> Option<Tensor> {
        let shape = *self.shapes.get(at.path())?;
        let values = self.handed_over.get(at.path()).cloned();
        Tensor::from_values(shape, values.unwrap_or_else(|| vec![0.0; shape.iter().product()]))
    }

    /// Whether none of its sites is touched.
    pub(crate) fn is_spared(&self, touches: impl Fn(&Site) -> bool) -> bool {
        !self.shapes.keys().any(|path| touches(&Site::new(path)))
    }
}

impl Probe for Backbone {
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let (topology, last) = (&self.topology, self.topology.separating().last());
        let before = topology.separated(name) < topology.separating().count();
        if let (true, &[batch, tokens, features]) = (before, shape) {
            self.shapes.insert(name.to_owned(), [batch, tokens, features]);
            if last.is_some_and(|part| part.hands_over(name)) {
                self.handed_over.insert(name.to_owned(), values.to_vec());
            }
        }
    }
}
