//! Attention with another scale, other weights of the values, other keys.

use super::spots::Spot;
use super::{Change, Effect, Fault, Seen, Weighing};
use std::sync::Arc;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Attends;
use steadyhand_gr00t::ops::Mask;

/// Head widths that fused kernels pad to.
const PADDED: [usize; 8] = [16, 32, 40, 48, 64, 80, 96, 128];

const NAMES: &[&str] = &["attention"];

/// Width of a head and of all heads of the attentions at or below `place`.
fn widths(model: &Model, place: &str) -> [usize; 2] {
    let heads = match place.split('.').next() {
        Some("vision") => model.vision.heads,
        Some("language") => model.language.heads,
        Some("action_head") => {
            let stack = model.action_head.vl_self_attention.as_ref();
            stack.map_or(model.action_head.dit.heads, |stack| stack.heads)
        }
        _ => model.action_head.dit.heads,
    };
    [heads.head_dim, heads.heads * heads.head_dim]
}

fn scales(spot: &Spot, [head_dim, hidden]: [usize; 2]) -> Vec<Fault> {
    let fix = "scale scores by 1 / sqrt(head_dim), once";
    let at = &spot.words;
    let of = |factor: f32, what: String| {
        spot.otherwise("attention-scale", Change::Scores(factor), format!("{what} in {at}"), fix)
    };
    let mut others: Vec<usize> = PADDED.into_iter().filter(|padded| *padded != head_dim).collect();
    if hidden != head_dim && !others.contains(&hidden) {
        others.push(hidden);
    }
    let mut faults: Vec<Fault> = others
        .into_iter()
        .map(|other| {
            let factor = (head_dim as f64 / other as f64).sqrt() as f32;
            of(
                factor,
                format!("uses an attention scale of 1 / sqrt({other}) instead of 1 / sqrt({head_dim})"),
            )
        })
        .collect();
    let root = (head_dim as f32).sqrt();
    faults.push(of(root, "leaves the attention scale out".to_owned()));
    faults.push(of(1.0 / root, "applies the attention scale twice".to_owned()));
    faults
}

fn weights(spot: &Spot) -> Vec<Fault> {
    let at = &spot.words;
    let fix = "softmax is over the keys, the last axis of the scores";
    [
        (Weighing::OverQueries, "takes the softmax over the queries instead of the keys, the other axis,"),
        (Weighing::OverHeads, "takes the softmax over the heads instead of the keys"),
        (Weighing::Scores, "leaves the softmax out: values are weighed by the scores"),
    ]
    .map(|(other, what)| spot.otherwise("softmax", Change::Weights(other), format!("{what} in {at}"), fix))
    .to_vec()
}

fn causal(spot: &Spot) -> Vec<Fault> {
    let at = &spot.words;
    let fix = "a query sees keys up to its own position";
    let mut faults = vec![
        spot.otherwise(
            "tiled-heads",
            Change::TiledHeads,
            format!("gives query heads the key and value heads in tiles 0, 1, .., 0, 1 instead of groups (GQA) in {at}"),
            "repeat each key and value head, not all of them in turn",
        ),
        spot.otherwise(
            "causal-mask-off",
            Change::NextToken,
            format!("lets a query see the next token too: the causal mask is off by one in {at}"),
            fix,
        ),
    ];
    let others = [
        (
            Seen::Before,
            "causal-mask-off",
            "lets a query see only tokens before its own, the first one none: the causal mask is off by one",
        ),
        (
            Seen::BeforeOrAll,
            "causal-mask-off",
            "lets a query see only tokens before its own, the first one all: the causal mask is off by one",
        ),
        (
            Seen::Behind,
            "causal-mask",
            "turns the causal mask round: a query sees its own token and those behind it",
        ),
        (
            Seen::Prefix,
            "causal-mask",
            "takes a prefix mask instead of a causal one: all tokens up to the last of the images see each other",
        ),
        (
            Seen::AllOfImages,
            "causal-mask",
            "takes a mask in which image tokens see each other instead of a causal one",
        ),
        (Seen::NoImages, "causal-mask", "takes a mask that hides the image tokens"),
    ];
    faults.extend(others.map(|(other, kind, what)| {
        spot.otherwise(kind, Change::Sees(other), format!("{what} in {at}"), fix)
    }));
    faults
}

/// Another mask where `right` is right.
fn masked(spot: &Spot, kind: &'static str, right: Mask, other: Mask, what: &str) -> Fault {
    let change = move |mask: &Mask| {
        let same = std::mem::discriminant(mask) == std::mem::discriminant(&right);
        if same { other.clone() } else { mask.clone() }
    };
    let description = format!("{what} in {}", spot.words);
    spot.fault(
        kind,
        Effect::Mask(Arc::new(move |_, mask| change(mask))),
        description,
        "compare the mask of this attention with MODEL.md",
    )
}

/// The kinds of faults in which tokens are seen that are not masked, as in `attention.rs`.
const SWAPPED: &str = "swapped-masks";
const IGNORED: &str = "no-masks";

/// Cross-attention that sees other tokens than those whose keys and values are shown, at one block or all.
fn tokens(spot: &Spot) -> [Fault; 2] {
    let at = &spot.words;
    let fix = "pass image_mask to the blocks that attend to images, its reverse to those that attend to text";
    let swapped = format!("shows image tokens to blocks that should see text, or the reverse, in {at}");
    let ignored = format!("ignores the mask: lets the cross-attention see all tokens in {at}");
    [
        spot.otherwise(SWAPPED, Change::Attends { everything: false }, swapped, fix),
        spot.otherwise(IGNORED, Change::Attends { everything: true }, ignored, fix),
    ]
}

/// One block of the DiT that attends to something else.
fn attends(model: &Model, site: &str) -> Vec<Fault> {
    let Some((layers, index)) =
        model.topology.layers_of(site).filter(|(layers, _)| layers.path == "dit.block")
    else {
        return Vec::new();
    };
    let right = model.action_head.dit.blocks.get(index).map(|block| block.attends);
    let others: &[(Attends, &'static str, &str)] = match right {
        Some(Attends::Text) => &[
            (Attends::Images, SWAPPED, "shows image tokens to a block that should see text"),
            (
                Attends::Everything,
                IGNORED,
                "ignores the mask: shows all tokens to a block that should see text",
            ),
        ],
        Some(Attends::Images) => &[
            (Attends::Text, SWAPPED, "shows text tokens to a block that should see images"),
            (
                Attends::Everything,
                IGNORED,
                "ignores the mask: shows all tokens to a block that should see images",
            ),
        ],
        _ => &[],
    };
    let spot = Spot::below(&layers.layer(index));
    let of = |(attends, kind, what): &(Attends, &'static str, &str)| {
        let (attends, kind) = (*attends, *kind);
        let effect = Effect::Model(Arc::new(move |model: &mut Model| {
            if let Some(block) = model.action_head.dit.blocks.get_mut(index) {
                block.attends = attends;
            }
        }));
        let description = format!("{what}, `{}`", layers.layer(index));
        spot.fault(kind, effect, description, "give each block the mask of the tokens that it attends to")
    };
    others.iter().map(of).collect()
}

fn of_spot(model: &Model, spot: &Spot, place: &str) -> Vec<Fault> {
    let mut faults = scales(spot, widths(model, place));
    faults.extend(weights(spot));
    match place.split('.').next() {
        Some("language") => faults.extend(causal(spot)),
        Some("vision") => {
            let segments = || Mask::Segments(Vec::new());
            let what = "lets the patches of an image see those of the others";
            faults.push(masked(spot, "segments", segments(), Mask::None, what));
            let what = "runs with a causal mask, where there is none,";
            faults.push(masked(spot, "causal", segments(), Mask::Causal, what));
        }
        _ => {}
    }
    faults
}

/// Tokens that attend to themselves with a causal mask, where there is none.
fn causal_block(site: &str) -> Fault {
    let spot = Spot::at(site);
    masked(&spot, "causal", Mask::None, Mask::Causal, "runs with a causal mask, where there is none,")
}

/// Faults of the attention at `site`.
pub(super) fn at(model: &Model, site: &str) -> Vec<Fault> {
    let mut faults: Vec<Fault> =
        Spot::around(model, site).iter().flat_map(|spot| of_spot(model, spot, site)).collect();
    faults.extend(attends(model, site));
    if site.starts_with("dit.block.") {
        faults.extend(Spot::around(model, site).iter().flat_map(tokens));
    }
    if site.starts_with("language.") {
        // That of all layers is `not_causal`.
        let what = "runs without the causal mask";
        faults.push(masked(&Spot::at(site), "not-causal", Mask::Causal, Mask::None, what));
    }
    if model
        .topology
        .layers_of(site)
        .is_some_and(|(layers, index)| attends_to_itself(model, layers.path, index))
    {
        faults.push(causal_block(site));
    }
    faults
}

/// Whether queries and keys of a layer without a mask are of the same tokens.
fn attends_to_itself(model: &Model, stack: &str, index: usize) -> bool {
    match stack {
        "dit.block" => {
            model.action_head.dit.blocks.get(index).is_some_and(|block| block.attends == Attends::Itself)
        }
        "action_head.vl_self_attention.layer" => true,
        _ => false,
    }
}

/// Faults of all attentions of a part.
pub(super) fn of_part(model: &Model, part: &str) -> Vec<Fault> {
    of_spot(model, &Spot::named(part, NAMES), part)
}

/// Faults of keys and values at `site`, which are of the tokens that a block attends to.
pub(super) fn memory(model: &Model, site: &str) -> Vec<Fault> {
    attends(model, site)
}
