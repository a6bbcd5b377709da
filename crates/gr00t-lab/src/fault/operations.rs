//! Operations that are computed otherwise: constants, terms and operands that are others or are left out.

use super::otherwise::{Change, Nonlinearity};
use super::{Effect, Fault, Reach, Suspect};
use std::sync::Arc;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Block;
use steadyhand_gr00t::model::vision::Projection;

/// A part of the model, and the operations of it that a fault touches, by the end of their paths.
type Where<'a> = (&'a str, Option<&'static [&'static str]>);

/// Operations of a part, or one of them, are computed otherwise.
fn otherwise(
    (place, names): Where,
    kind: &'static str,
    change: Change,
    description: String,
    fix: &str,
) -> Fault {
    Fault {
        kind,
        place: place.to_owned(),
        reach: names.map_or(Reach::Below, Reach::Named),
        effect: Effect::Operation(change),
        opaque: false,
        description,
        fix: fix.to_owned(),
    }
}

/// Head widths that fused kernels pad to.
const PADDED: [usize; 7] = [16, 32, 40, 48, 64, 80, 128];
/// Bases of RoPE in published models.
const THETAS: [f64; 5] = [1e4, 1e5, 5e5, 1e6, 5e6];

fn attention(place: &str, head_dim: usize) -> Vec<Fault> {
    const ATTENTION: Option<&[&str]> = Some(&["attention"]);
    let at = (place, ATTENTION);
    let scale_fix = "scale scores by 1 / sqrt(head_dim), once";
    let mut faults = Vec::new();
    for padded in PADDED.into_iter().filter(|padded| *padded != head_dim) {
        let factor = (head_dim as f64 / padded as f64).sqrt() as f32;
        let what = format!(
            "uses an attention scale of 1 / sqrt({padded}) instead of 1 / sqrt({head_dim}) in `{place}`"
        );
        faults.push(otherwise(at, "attention-scale", Change::Scores(factor), what, scale_fix));
    }
    let root = (head_dim as f32).sqrt();
    let what = format!("leaves the attention scale out in `{place}`");
    faults.push(otherwise(at, "attention-scale", Change::Scores(root), what, scale_fix));
    let what = format!("applies the attention scale twice in `{place}`");
    faults.push(otherwise(at, "attention-scale", Change::Scores(1.0 / root), what, scale_fix));
    if place.starts_with("language") {
        let what = format!(
            "gives query heads the key and value heads in tiles 0, 1, .., 0, 1 instead of groups (GQA) in `{place}`"
        );
        faults.push(otherwise(
            at,
            "tiled-heads",
            Change::TiledHeads,
            what,
            "repeat each key and value head, not all of them in turn",
        ));
        let what = format!("lets a query see the next token too: the causal mask of `{place}` is off by one");
        faults.push(otherwise(
            at,
            "causal-mask-off",
            Change::NextToken,
            what,
            "a query sees keys up to its own position",
        ));
    }
    faults
}

fn rotary(place: &str, right: f64) -> Vec<Fault> {
    let at = (place, Some(&["query_rope", "key_rope"][..]));
    let mut faults = Vec::new();
    for theta in THETAS.into_iter().filter(|theta| *theta != right) {
        let change = Change::Rotary { theta: Some(theta), first: 0 };
        let what = format!(
            "rotates with a RoPE theta (base of the frequencies) of {theta:e} instead of {right:e} in `{place}`"
        );
        faults.push(otherwise(
            at,
            "rope-theta",
            change,
            what,
            "take rope_theta from the checkpoint's configuration",
        ));
    }
    for first in [1, 2] {
        let change = Change::Rotary { theta: None, first };
        let what = format!("counts the positions of RoPE from {first} instead of 0 in `{place}`");
        faults.push(otherwise(at, "rope-position", change, what, "number the tokens of the prompt from 0"));
    }
    let what = format!("leaves RoPE out in `{place}`");
    faults.push(otherwise(
        at,
        "no-rope",
        Change::NoRotary,
        what,
        "rotate queries and keys by their positions",
    ));
    faults
}

fn activation(place: &str, names: &'static [&'static str]) -> Vec<Fault> {
    let functions: [(&str, Nonlinearity); 4] = [
        ("QuickGELU, x sigmoid(1.702 x),", Nonlinearity::QuickGelu),
        ("SiLU", Nonlinearity::Silu),
        ("ReLU", Nonlinearity::Relu),
        ("no non-linearity", Nonlinearity::Identity),
    ];
    let of = |(name, function): (&str, Nonlinearity)| {
        let what = format!("computes {name} instead of the right non-linearity in `{place}`");
        let change = Change::Activation(function);
        otherwise(
            (place, Some(names)),
            "activation",
            change,
            what,
            "take the activation from the checkpoint's configuration",
        )
    };
    functions.map(of).to_vec()
}

fn norms(place: &str, names: &'static [&'static str]) -> Fault {
    let what = format!("leaves the norm out: {} of `{place}` not applied", names.join(" and "));
    otherwise((place, Some(names)), "no-norm", Change::NoNorm, what, "export the norm with its weight")
}

fn modulation(place: &str) -> Vec<Fault> {
    let at = (place, Some(&["modulated"][..]));
    let without = format!("modulates by (scale) instead of (1 + scale) in `{place}`");
    let exchanged = format!("exchanges scale and shift of the modulation in `{place}`");
    vec![
        otherwise(at, "scale-without-one", Change::ScaleWithoutOne, without, "multiply by 1 + scale"),
        otherwise(
            at,
            "scale-as-shift",
            Change::ScaleAsShift,
            exchanged,
            "the blocks have scale first, the output norm shift first",
        ),
    ]
}

fn linear(place: &str) -> Vec<Fault> {
    let no_bias = format!("loses the bias of `{place}`");
    let transposed = format!("multiplies by the weight of `{place}` transposed");
    vec![
        otherwise((place, None), "no-bias", Change::NoBias, no_bias, "map the bias's name to the engine's"),
        otherwise(
            (place, None),
            "transposed-weight",
            Change::Transposed,
            transposed,
            "transpose the weight once: y = x Wᵀ + b",
        ),
    ]
}

fn residual(place: &str) -> Vec<Fault> {
    let fix = "add what was computed to what entered the block, before its norm";
    let mut faults: Vec<Fault> = [true, false]
        .map(|first| {
            let term = if first { "first" } else { "second" };
            let what =
                format!("leaves a term of the residual connection `{place}` out: only the {term} is there");
            otherwise((place, None), "residual-term", Change::OneTerm { first }, what, fix)
        })
        .to_vec();
    for name in ["norm1", "norm2", "modulated"] {
        let what = format!(
            "adds to `{name}` instead of to what entered the block, in the residual connection `{place}`"
        );
        faults.push(otherwise((place, None), "residual-operand", Change::ResidualOf(name), what, fix));
    }
    faults
}

fn euler() -> Vec<Fault> {
    let at = ("euler", None);
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
        otherwise(
            at,
            "step-size",
            Change::StepSize(factor),
            what,
            "dt is 1 / the number of Euler steps, forwards",
        )
    };
    let mut faults = steps.map(of).to_vec();
    let what = "moves the actions by the velocity of the first tokens instead of the last: the slice does not skip the state's tokens".to_owned();
    faults.push(otherwise(
        at,
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
    otherwise(
        (path, None),
        "time-halves",
        Change::OtherHalfFirst,
        what,
        "the DiT's encoding has cosines first, the action encoder's sines",
    )
}

fn on_noise() -> Fault {
    let what = "encodes the initial noise in every Euler step: a stale input, the first step's".to_owned();
    otherwise(
        ("action_encoder.layer1", None),
        "stale-input",
        Change::OnNoise,
        what,
        "bind the actions of the step before as the input",
    )
}

/// Weights of a model that are exchanged.
fn exchanged(place: &str, what: &str, change: impl Fn(&mut Model) + Send + Sync + 'static) -> Fault {
    Fault {
        kind: "exchanged-weights",
        place: place.to_owned(),
        reach: Reach::Below,
        effect: Effect::Model(Arc::new(change)),
        opaque: false,
        description: format!("exchanges {what} in `{place}`"),
        fix: "split the fused weight in the order in which it was joined".to_owned(),
    }
}

/// Keys and values, or gate and up, of one layer.
fn exchanges(site: &str) -> Vec<Fault> {
    let layer =
        |prefix: &str| -> Option<usize> { site.strip_prefix(prefix)?.split('.').next()?.parse().ok() };
    if let Some(index) = layer("dit.block.") {
        let swap = |block: &mut Block| std::mem::swap(&mut block.key, &mut block.value);
        return vec![exchanged(&format!("dit.block.{index}"), "key and value", move |model| {
            model.action_head.dit.blocks.get_mut(index).map(swap).unwrap_or_default();
        })];
    }
    if let Some(index) = layer("language.layer.") {
        let place = format!("language.layer.{index}");
        return vec![
            exchanged(&place, "key and value", move |model| {
                if let Some(layer) = model.language.layers.get_mut(index) {
                    std::mem::swap(&mut layer.key, &mut layer.value);
                }
            }),
            exchanged(&place, "gate and up", move |model| {
                if let Some(layer) = model.language.layers.get_mut(index) {
                    std::mem::swap(&mut layer.gate, &mut layer.up);
                }
            }),
        ];
    }
    if let Some(index) = layer("vision.layer.") {
        return vec![exchanged(&format!("vision.layer.{index}"), "key and value", move |model| {
            let layer = model.vision.layers.get_mut(index);
            if let Some(Projection::Three(three)) = layer.map(|layer| &mut layer.projection) {
                std::mem::swap(&mut three.key, &mut three.value);
            }
        })];
    }
    Vec::new()
}

fn head_dim(model: &Model, place: &str) -> usize {
    match place.split('.').next() {
        Some("vision") => model.vision.heads.head_dim,
        Some("language") => model.language.heads.head_dim,
        _ => model.action_head.dit.heads.head_dim,
    }
}

/// Faults of whole parts that may be behind an error in `part`.
fn of_part(model: &Model, part: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if matches!(part, "vision" | "language" | "dit") {
        faults.extend(attention(part, head_dim(model, part)));
    }
    match part {
        "vision" => {
            faults.extend(activation(part, &["gelu"]));
            faults.push(norms(part, &["post_layernorm"]));
        }
        tokens if tokens == model.topology.image_tokens => faults.extend(activation(part, &["gelu"])),
        "language" => {
            faults.extend(rotary(part, model.language.rope_theta));
            faults.extend(activation(part, &["silu"]));
            faults.extend([norms(part, &["query_norm", "key_norm"]), norms(part, &["norm"])]);
            faults.extend(images());
        }
        "dit" => {
            faults.extend(activation(part, &["gelu"]));
            faults.extend(modulation("dit.block"));
            faults.push(halves("dit.timestep_projection"));
        }
        "action_encoder" => faults.extend([halves("action_encoder.time"), on_noise()]),
        "action_head" => faults.push(norms(part, &["vl_norm"])),
        "euler" => faults.extend(euler()),
        _ => {}
    }
    faults
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let (model, site) = (suspect.model, suspect.site);
    let part = match site.split('.').next().unwrap_or(site) {
        "action_features" | "action_tokens" => "action_encoder",
        "timestep_embedding" => "dit",
        first => first,
    };
    // Where operations before it are not shown, the error may be of any of the part.
    if suspect.unshown.iter().any(|path| path.contains('.')) {
        return of_part(model, part);
    }
    let mut faults = Vec::new();
    // The operation alone, and those of its kind in all layers.
    let part = model.topology.layers_of(site).map_or(part, |(layers, _)| layers.path);
    match suspect.name() {
        "attention" => {
            faults.extend([site, part].iter().flat_map(|place| attention(place, head_dim(model, place))));
        }
        "query_rope" | "key_rope" => faults.extend(rotary(part, model.language.rope_theta)),
        "gelu" => faults.extend([site, part].iter().flat_map(|place| activation(place, &["gelu"]))),
        "silu" => faults.extend([site, part].iter().flat_map(|place| activation(place, &["silu"]))),
        "modulated" => faults.extend([site, part].iter().flat_map(|place| modulation(place))),
        "residual1" => faults.extend(residual(site)),
        "query_norm" | "key_norm" => faults.push(norms(part, &["query_norm", "key_norm"])),
        "timestep_projection" | "timestep_linear1" => faults.push(halves("dit.timestep_projection")),
        "time" | "layer2" => faults.push(halves("action_encoder.time")),
        "layer1" => faults.push(on_noise()),
        "euler" => faults.extend(euler()),
        name if name.contains("norm") => {
            if site == PROMPT[0] {
                faults.extend(images());
            }
            let what = format!("leaves the norm `{site}` out: it is not applied");
            faults.push(otherwise(
                (site, None),
                "no-norm",
                Change::NoNorm,
                what,
                "export the norm with its weight",
            ));
        }
        _ => faults.extend(linear(site)),
    }
    if matches!(suspect.name(), "key" | "value" | "gate" | "up") {
        faults.extend(exchanges(site));
    }
    if suspect.layer == Some(site) {
        faults.extend(residual(site));
    }
    faults
}

pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    let parts =
        ["vision", model.topology.image_tokens, "language", "action_head", "action_encoder", "dit", "euler"];
    parts.iter().flat_map(|part| of_part(model, part)).collect()
}
