//! Constants and forms of norms and non-linearities.

use super::{Case, Effect, Fault, Reach, Sites, Suspect};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::Activation;

/// Epsilons found in the configurations of transformers.
const EPSILONS: [f64; 9] = [0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2];

/// A norm, or all norms of a part of the model, have another epsilon.
pub fn eps(site: &str, eps: f64) -> Fault {
    Fault {
        kind: "eps",
        place: site.to_owned(),
        reach: Reach::Below,
        effect: Effect::Eps(eps),
        opaque: false,
        description: format!("uses an epsilon of {eps:e} in `{site}`"),
        fix: "take the epsilon from the checkpoint's configuration (MODEL.md lists them)".to_owned(),
    }
}

/// The erf and tanh forms of GELU are confused, at a non-linearity or in a part of the model.
pub fn swapped_gelu(site: &str) -> Fault {
    Fault {
        kind: "swapped-gelu",
        place: site.to_owned(),
        reach: Reach::Below,
        effect: Effect::Activation(|kind| match kind {
            Activation::Gelu => Activation::GeluTanh,
            Activation::GeluTanh => Activation::Gelu,
            other => other,
        }),
        opaque: false,
        description: format!("confuses the erf and tanh forms of GELU in `{site}`"),
        fix: "use tanh GELU in the vision tower and the DiT, erf GELU in the connector".to_owned(),
    }
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let mut faults = Vec::new();
    if suspect.name().contains("norm") {
        faults.extend(suspect.places().into_iter().flat_map(|site| EPSILONS.map(|value| eps(site, value))));
    }
    if suspect.name() == "gelu" {
        faults.extend(suspect.places().into_iter().map(swapped_gelu));
    }
    faults
}

pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    let of = |part: &&str| {
        let mut faults = vec![swapped_gelu(part)];
        faults.extend(EPSILONS.map(|value| eps(part, value)));
        faults
    };
    ["vision", model.topology.image_tokens, "language", "dit"].iter().flat_map(of).collect()
}

pub(super) fn cases(sites: &Sites) -> Vec<Case> {
    vec![
        Case {
            name: "wrong epsilon",
            strong: eps("dit", 1e-2),
            weak: eps(&format!("{}.norm1", sites.vision), 1e-4),
        },
        Case {
            name: "erf and tanh GELU confused",
            strong: swapped_gelu("dit"),
            weak: swapped_gelu(sites.image_tokens),
        },
    ]
}
