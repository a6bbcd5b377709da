//! The parts of the model that hand one tensor to the next, and inferences in which that tensor is replaced.

use crate::config::Config;
use crate::ops::{Activation, Mask, Site};
use crate::precision::PrecisionPolicy;
use crate::probe::{Intervention, Product};
use std::cell::RefCell;
use std::fmt;
use steadyhand_fidelity::Format;

/// A part of the model. What crosses from one part to another is one tensor, whoever computes them: exchanging a part
/// of two engines means to hand over the other's tensor. In the order of execution; those from the action encoder on
/// run in every Euler step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// The vision tower, with the pixels.
    Vision,
    /// Patches to image tokens.
    Connector,
    /// The language layers and their last norm, with the prompt.
    Language,
    /// State tokens, with the state.
    StateEncoder,
    /// The initial actions.
    Noise,
    /// Action tokens, with their positions.
    ActionEncoder,
    /// The diffusion transformer, with the norm, keys and values of the features that it attends to.
    Dit,
    /// The velocity.
    Decoder,
    /// Actions moved along the velocity.
    Euler,
}

impl Component {
    /// Every component, in the order of execution.
    pub const ALL: [Component; 9] = [
        Component::Vision,
        Component::Connector,
        Component::Language,
        Component::StateEncoder,
        Component::Noise,
        Component::ActionEncoder,
        Component::Dit,
        Component::Decoder,
        Component::Euler,
    ];

    /// The path of the site whose result is handed over.
    pub fn output(self, config: &Config) -> &'static str {
        match self {
            Component::Vision => "vision.post_layernorm",
            Component::Connector => "connector",
            Component::Language => "language.norm",
            Component::StateEncoder => "action_head.state_features",
            Component::Noise => "noise",
            Component::ActionEncoder if config.add_pos_embed => "action_tokens",
            Component::ActionEncoder => "action_features",
            Component::Dit => "dit.output",
            Component::Decoder => "decoder",
            Component::Euler => "euler",
        }
    }

    /// The component whose result is that of the site `path`.
    pub fn with_output(path: &str, config: &Config) -> Option<Self> {
        Component::ALL.into_iter().find(|component| component.output(config) == path)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Component::Vision => "vision",
            Component::Connector => "connector",
            Component::Language => "language",
            Component::StateEncoder => "state encoder",
            Component::Noise => "noise",
            Component::ActionEncoder => "action encoder",
            Component::Dit => "dit",
            Component::Decoder => "decoder",
            Component::Euler => "euler",
        })
    }
}

/// Sees, and may replace, what components hand over.
pub trait Patches {
    /// Changes what `component` hands over, `[batch, tokens, features]` row-major; `step` is the Euler step, for those
    /// that run in every step. What comes later computes with the changed values, rounded to what the engine stores
    /// there.
    fn hand_over(&mut self, component: Component, step: Option<usize>, shape: [usize; 3], values: &mut [f32]);
}

/// Patches as an intervention of the reference's operations, on top of another intervention.
pub struct Patched<'a> {
    /// What interferes besides.
    pub inner: &'a dyn Intervention,
    /// What components hand over through.
    pub patches: RefCell<&'a mut dyn Patches>,
    /// Rounds what a patch changed.
    pub policy: &'a PrecisionPolicy,
    /// Tells where components end.
    pub config: &'a Config,
}

impl Intervention for Patched<'_> {
    fn result(&self, site: &Site, shape: [usize; 3], values: &mut [f32]) {
        self.inner.result(site, shape, values);
        if let Some(component) = Component::with_output(site.path(), self.config) {
            let own = values.to_vec();
            self.patches.borrow_mut().hand_over(component, site.step(), shape, values);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::synthetic::tiny;

    /// A boundary that no site had would never be handed over.
    #[test]
    fn every_component_ends_at_a_site_of_the_model() {
        for add_pos_embed in [true, false] {
            let config = Config { add_pos_embed, ..tiny() };
            let sites = Model::synthetic(config.clone(), 1).unwrap().sites().unwrap();
            for component in Component::ALL {
                let output = component.output(&config);
                assert!(sites.iter().any(|site| site.path == output), "{component}: {output}");
                assert_eq!(Component::with_output(output, &config), Some(component));
            }
        }
    }
}
