//! Other weights than the checkpoint's, or others of the checkpoint's.

use super::{Case, Effect, Fault, Reach, Sites, Suspect, wobble};
use std::sync::Arc;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::ops::Site;

/// Layers that have weights for each embodiment.
const CATEGORY_SPECIFIC: [&str; 5] = [
    "action_head.state_encoder",
    "action_head.state_features",
    "action_encoder",
    "action_features",
    "decoder",
];

/// Whether the operation at `path` takes its weights by the embodiment's slot.
pub(crate) fn is_category_specific(path: &str) -> bool {
    CATEGORY_SPECIFIC.iter().any(|layers| Site::new(path).is_within(layers))
}

/// Another embodiment's weights are used.
pub fn embodiment(slot: usize) -> Fault {
    Fault {
        kind: "embodiment",
        place: "action_head".to_owned(),
        reach: Reach::Paths(&CATEGORY_SPECIFIC),
        effect: Effect::Embodiment(slot),
        opaque: false,
        description: format!("uses the weights of embodiment slot {slot}"),
        fix: "pass the slot that embodiment_id.json gives for the tag".to_owned(),
    }
}

/// A layer computes something else: emulated as weights of another time, each output feature scaled by its own factor
/// near one. `change` is the relative size of that.
pub fn old_weights(site: &str, change: f32) -> Fault {
    Fault {
        kind: "weights",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |[_, _, features], values| {
            for (index, value) in values.iter_mut().enumerate() {
                *value *= 1.0 + change * wobble(index % features);
            }
        })),
        opaque: true,
        description: format!("gives other results at `{site}`, on inputs that are right"),
        fix: format!(
            "compare what the engine computes at `{site}`, and with which constants, with the checkpoint"
        ),
    }
}

pub(super) fn embodiments(suspect: &Suspect) -> Vec<Fault> {
    if CATEGORY_SPECIFIC.iter().any(|path| suspect.may_be(path)) {
        return of_any_engine(&suspect.model.config);
    }
    Vec::new()
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    vec![old_weights(suspect.site, 0.0)]
}

pub(super) fn of_any_engine(config: &Config) -> Vec<Fault> {
    (0..config.max_num_embodiments).map(embodiment).collect()
}

pub(super) fn cases(config: &Config, sites: &Sites) -> Vec<Case> {
    let other = usize::from(config.max_num_embodiments > 1);
    let fc1 = format!("{}.fc1", sites.own);
    vec![
        Case { name: "wrong embodiment slot", strong: embodiment(other), weak: embodiment(other) },
        Case {
            name: "one layer with old weights",
            strong: old_weights(&fc1, 0.3),
            weak: old_weights(&fc1, 0.01),
        },
    ]
}
