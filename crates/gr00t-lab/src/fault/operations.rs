//! Operations that are computed otherwise: constants, terms and operands that are others or are left out.
//!
//! A family of faults is the variants of one kind of operation. Each may lie at one operation, at all of its kind in the
//! layers, or all over a part of the model: see [`Spot`]. What the operation at a suspicious place is says which families
//! are tried there.

use super::spots::Spot;
use super::{Change, Effect, Fault, Reach, Suspect};
use super::{activations, linear, norms, residual, rotary, scores};
use std::collections::BTreeSet;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::Formats;

fn euler() -> Vec<Fault> {
    let at = Spot::at("euler");
    let steps = [
        (4.0 / 3.0, "4/3 of"),
        (0.8, "4/5 of"),
        (0.5, "half"),
        (2.0, "twice"),
        (4.0, "four times"),
        (-1.0, "minus"),
    ];
    let of = |(factor, words): (f64, &str)| {
        let what = format!("takes {words} the right step size dt in `euler`");
        at.otherwise(
            "step-size",
            Change::StepSize(factor),
            what,
            "dt is 1 / the number of Euler steps, forwards",
        )
    };
    let mut faults = steps.map(of).to_vec();
    let what = "moves the actions by the velocity of the first tokens instead of the last: the slice does not skip the state's tokens".to_owned();
    faults.push(at.otherwise(
        "first-tokens",
        Change::FirstTokens,
        what,
        "take the last action_horizon tokens of the decoder",
    ));
    faults
}

/// Where the prompt with image tokens in it is first computed with.
const PROMPT: [&str; 2] = ["language.layer.0.norm1", "language.layer.0.residual1"];

fn images() -> Vec<Fault> {
    let of = |change, what: &str| Fault {
        kind: "image-tokens",
        place: PROMPT[0].to_owned(),
        reach: Reach::Paths(&PROMPT),
        effect: Effect::Operation(change),
        opaque: false,
        description: what.to_owned(),
        fix: "put the image tokens, row by row, in the places of the prompt's image tokens".to_owned(),
    };
    vec![
        of(
            Change::ImagesByColumn,
            "puts image tokens into the prompt in the order of columns instead of rows",
        ),
        of(Change::NoImages, "never puts the image tokens into the prompt"),
    ]
}

fn halves(path: &str) -> Fault {
    let what =
        format!("begins the timestep encoding `{path}` with the other half: sines and cosines are exchanged");
    Spot::at(path).otherwise(
        "time-halves",
        Change::OtherHalfFirst,
        what,
        "the DiT's encoding has cosines first, the action encoder's sines",
    )
}

fn on_noise() -> Fault {
    let what = "encodes the initial noise in every Euler step: a stale input, the first step's".to_owned();
    Spot::at("action_encoder.layer1").otherwise(
        "stale-input",
        Change::OnNoise,
        what,
        "bind the actions of the step before as the input",
    )
}

/// Faults of whole parts that may be behind an error in `part`, whose declared formats are these.
fn of_part(model: &Model, part: &str, declared: Formats) -> Vec<Fault> {
    let mut faults = activations::activations_of(model, part);
    if matches!(part, "vision" | "language" | "dit") {
        faults.extend(scores::of_part(model, part));
    }
    let has_norms = ["vision", "language", "dit", model.topology.image_tokens].contains(&part);
    match part {
        "language" => {
            faults.extend(rotary::of_part(model, part));
            faults.extend(images());
        }
        "vision" if model.vision.rotary.is_some() => faults.extend(rotary::of_part(model, part)),
        "dit" => {
            faults.extend(activations::modulations());
            faults.push(halves("dit.timestep_projection"));
        }
        "action_encoder" => {
            faults.extend([halves("action_encoder.time"), on_noise()]);
            faults.extend(residual::of_positions("action_tokens"));
        }
        "euler" => faults.extend(euler()),
        _ => {}
    }
    if part == "vision" {
        faults.extend(residual::of_positions("vision.embeddings"));
    }
    if has_norms || part == "action_head" {
        faults.extend(norms::of_part(model, part));
    }
    if has_norms {
        faults.extend(linear::of_part(model, part, declared));
    }
    faults
}

/// The part that the site `path` belongs to, as faults of parts are asked for.
fn part_of(path: &str) -> &str {
    match path.split('.').next().unwrap_or(path) {
        "action_features" | "action_tokens" => "action_encoder",
        "timestep_embedding" => "dit",
        first => first,
    }
}

/// Faults of the operation at `site`.
pub(super) fn at(model: &Model, site: &str, declared: Formats) -> Vec<Fault> {
    let name = site.rsplit('.').next().unwrap_or(site);
    let mut faults = match name {
        "attention" => scores::at(model, site),
        "query_rope" | "key_rope" => rotary::at(model, site),
        "modulated" => activations::modulation_at(model, site),
        "gated" => activations::activation_at(model, site),
        name if activations::ACTIVATIONS.contains(&name) => activations::activation_at(model, site),
        "residual1" => residual::at(model, site),
        "embeddings" | "action_tokens" => residual::of_positions(site),
        "timestep_projection" => vec![halves("dit.timestep_projection")],
        "time" => vec![halves("action_encoder.time")],
        "euler" => euler(),
        name if name.contains("norm") => {
            let mut faults = norms::at(model, site);
            faults.extend(linear::of_layer(model, site));
            if site == PROMPT[0] {
                faults.extend(images());
            }
            faults
        }
        _ if model.topology.layer_of(site) == Some(site) => residual::at(model, site),
        _ => linear::at(model, site, declared),
    };
    match name {
        "timestep_linear1" => faults.push(halves("dit.timestep_projection")),
        "layer2" => faults.push(halves("action_encoder.time")),
        "layer1" => faults.push(on_noise()),
        "key" | "value" => {
            faults.extend(scores::memory(model, site));
            // Those of blocks that attend to the features come first of all.
            if site.starts_with("dit.block.") {
                faults.extend(linear::of_layer(model, site));
            }
        }
        "modulation" => faults.extend(linear::of_layer(model, site)),
        _ => {}
    }
    if name == "residual1" || name.contains("norm") || model.topology.layer_of(site) == Some(site) {
        faults.extend(norms::order(model, site));
    }
    faults
}

/// Operations before a place that are not shown are tried one by one where they are no more than this.
const MOST_UNSHOWN: usize = 6;

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let (model, declared) = (suspect.model, suspect.formats);
    let mut faults = Vec::new();
    // Where operations before it are not shown, the error may be of any of the part.
    let unshown: Vec<&str> =
        suspect.unshown.iter().map(String::as_str).filter(|path| path.contains('.')).collect();
    if !unshown.is_empty() {
        let all = suspect.unshown.iter().map(String::as_str).chain([suspect.site]);
        let parts: BTreeSet<&str> = all.map(part_of).collect();
        faults.extend(parts.into_iter().flat_map(|part| of_part(model, part, declared)));
    }
    if unshown.len() <= MOST_UNSHOWN {
        let sites = unshown.into_iter().chain([suspect.site]);
        faults.extend(sites.flat_map(|site| at(model, site, declared)));
    }
    let mut distinct: Vec<Fault> = Vec::with_capacity(faults.len());
    for fault in faults {
        if !distinct.contains(&fault) {
            distinct.push(fault);
        }
    }
    distinct
}

/// `declared`: the formats of a path.
pub(super) fn of_any_engine(model: &Model, declared: &dyn Fn(&str) -> Formats) -> Vec<Fault> {
    let parts = [
        "vision",
        model.topology.image_tokens,
        "language",
        "action_head",
        "action_encoder",
        "dit",
        "decoder",
        "euler",
    ];
    parts.iter().flat_map(|part| of_part(model, part, declared(part))).collect()
}
