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
    /// The result of the last part that separates.
    features: Vec<f32>,
}

impl Backbone {
    /// That of a model of this topology, not yet filled.
    pub(crate) fn new(topology: &Topology) -> Self {
        Backbone { topology: topology.clone(), shapes: BTreeMap::new(), features: Vec::new() }
    }

    /// The site whose result is all that the action head reads of the backbone.
    fn output(&self) -> Option<&'static str> {
        self.topology.separating().last().map(|part| part.output)
    }

    /// The result at a site of the backbone: its features, and anything of the right shape before them. None behind.
    pub(crate) fn known(&self, at: &Site) -> Option<Tensor> {
        let shape = *self.shapes.get(at.path())?;
        let values = match Some(at.path()) == self.output() {
            true => self.features.clone(),
            false => vec![0.0; shape.iter().product()],
        };
        Tensor::from_values(shape, values)
    }

    /// Whether none of its sites is touched.
    pub(crate) fn is_spared(&self, touches: impl Fn(&Site) -> bool) -> bool {
        !self.shapes.keys().any(|path| touches(&Site::new(path)))
    }
}

impl Probe for Backbone {
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let separates = self.topology.part_of(name).is_some_and(|part| part.separates);
        if let (true, &[batch, tokens, features]) = (separates, shape) {
            self.shapes.insert(name.to_owned(), [batch, tokens, features]);
            if Some(name) == self.output() {
                self.features = values.to_vec();
            }
        }
    }
}
