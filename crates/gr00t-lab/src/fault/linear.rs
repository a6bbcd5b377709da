//! Linear layers with other weights, or with theirs in another form.

use super::layers::{self, Swap};
use super::residual;
use super::spots::Spot;
use super::{Change, Effect, Fault};
use std::sync::Arc;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::{Formats, Sharing, WeightCode, WeightFormat};

const CODES: [(WeightCode, &str); 5] = [
    (WeightCode::Int8, "int8"),
    (WeightCode::Int4, "int4"),
    (WeightCode::Uint8, "uint8 with a zero point"),
    (WeightCode::Uint4, "uint4 with a zero point"),
    (WeightCode::Fp8E4m3, "fp8 (e4m3)"),
];
const SHARING: [(Sharing, &str); 5] = [
    (Sharing::PerTensor, "one scale per tensor"),
    (Sharing::PerChannel, "one scale per output channel"),
    (Sharing::PerBlock(32), "one scale per block of 32"),
    (Sharing::PerBlock(64), "one scale per block of 64"),
    (Sharing::PerBlock(128), "one scale per block of 128"),
];

/// Weights that are stored in other forms than declared.
fn stored(model: &Model, spot: &Spot, declared: Formats) -> Vec<Fault> {
    let stacks = model.topology.parts.iter().filter_map(|part| part.layers.as_ref());
    let narrowest = stacks.map(|layers| layers.hidden).min().unwrap_or_default();
    // A block as wide as a layer is an output channel.
    let smaller =
        |sharing: &Sharing| !matches!(sharing, Sharing::PerBlock(block) if usize::from(*block) >= narrowest);
    let mut faults = Vec::new();
    for (code, name) in CODES {
        for (sharing, scale) in SHARING.into_iter().filter(|(sharing, _)| smaller(sharing)) {
            let weights = WeightFormat { code, sharing };
            if Some(weights) == declared.weights {
                continue;
            }
            let what = format!("stores weights as {name} with {scale} in {}", spot.words);
            let fix = "keep these weights in the checkpoint's format, or declare what they are stored as";
            faults.push(spot.fault("stored-weights", Effect::StoredWeights(weights), what, fix));
        }
    }
    for (format, name) in
        [(Format::Fp8E4m3, "fp8 (e4m3)"), (Format::Fp8E5m2, "fp8 (e5m2)"), (Format::Fp16, "fp16")]
    {
        let what = format!("casts weights to {name} without a scale in {}", spot.words);
        let fix = "keep these weights in the checkpoint's format, or scale them into the range";
        faults.push(spot.otherwise("cast-weights", Change::WeightsAs(format), what, fix));
    }
    faults
}

/// Weights of the linear layer at `site` that are cut off at a share of the largest magnitude.
pub(super) fn clipped(site: &str, share: f32) -> Fault {
    let what = format!("cuts the weights of `{site}` off at {share:.4} of their largest magnitude");
    let fix = "store the weights in their whole range, or calibrate the range that is cut off";
    Spot::at(site).otherwise("clipped-weights", Change::ClippedWeights(share), what, fix)
}

/// Biases and the way a weight lies.
fn of_spot(spot: &Spot) -> Vec<Fault> {
    let at = &spot.words;
    vec![
        spot.otherwise(
            "no-bias",
            Change::NoBias,
            format!("loses the bias of {at}"),
            "map the bias's name to the engine's",
        ),
        spot.otherwise(
            "bias-twice",
            Change::BiasTwice,
            format!("adds the bias twice in {at}"),
            "add the bias once",
        ),
        spot.otherwise(
            "transposed-weight",
            Change::Transposed,
            format!("multiplies by the weight of {at} transposed"),
            "transpose the weight once: y = x Wᵀ + b",
        ),
    ]
}

/// Pairs of layers of one form that are taken for each other.
const PAIRS: [[&str; 2]; 4] = [["key", "value"], ["query", "key"], ["query", "value"], ["gate", "up"]];

fn exchanged(stack: &str, index: Option<usize>, [a, b]: [&'static str; 2]) -> Fault {
    let place = index.map_or_else(|| stack.to_owned(), |index| format!("{stack}.{index}"));
    let swap = Swap { stack: stack.to_owned(), index };
    Spot::below(&place).fault(
        "exchanged-weights",
        Effect::Model(Arc::new(move |model| swap.pair(model, a, b))),
        format!("exchanges {a} and {b} in `{place}`"),
        "split the fused weight in the order in which it was joined",
    )
}

/// Weights of the layer `by` further on.
fn of_neighbour(stack: &str, index: Option<usize>, name: Option<&'static str>, by: isize) -> Fault {
    let layer = index.map_or_else(|| stack.to_owned(), |index| format!("{stack}.{index}"));
    let (kind, whose) = match by {
        ..-1 => ("weights-two-before", "two layers before"),
        -1 => ("weights-before", "the layer before"),
        0..=1 => ("weights-after", "the layer after"),
        2.. => ("weights-two-after", "two layers after"),
    };
    let (spot, what) = match name {
        Some(name) if index.is_some() => (Spot::at(&format!("{layer}.{name}")), format!("`{layer}.{name}`")),
        Some(name) => (Spot::below(&layer), format!("every `{name}` of `{layer}`")),
        None => (Spot::below(&layer), format!("all of `{layer}`")),
    };
    let swap = Swap { stack: stack.to_owned(), index };
    spot.fault(
        kind,
        Effect::Model(Arc::new(move |model| swap.neighbour(model, name, by))),
        format!("uses weights of {whose} it in {what}"),
        "map each layer's weights by its own number",
    )
}

/// Faults of the linear layer at `site`.
pub(super) fn at(model: &Model, site: &str, declared: Formats) -> Vec<Fault> {
    let spots = Spot::around(model, site);
    let mut faults: Vec<Fault> = spots.iter().flat_map(of_spot).collect();
    faults.extend(spots.iter().flat_map(|spot| stored(model, spot, declared)));
    let part = Spot::below(site.split('.').next().unwrap_or(site));
    faults.extend(stored(model, &part, declared));
    let Some((stack, index)) = model.topology.layers_of(site) else { return faults };
    faults.extend(stored(model, &Spot::below(stack.path), declared));
    let name = site.rsplit('.').next().unwrap_or(site);
    for pair in PAIRS.into_iter().filter(|pair| pair.contains(&name)) {
        faults.extend([Some(index), None].map(|index| exchanged(stack.path, index, pair)));
    }
    for by in [-2, -1, 1, 2] {
        if let Some(name) = layers::LINEARS.into_iter().find(|known| *known == name) {
            faults.extend([Some(index), None].map(|index| of_neighbour(stack.path, index, Some(name), by)));
        }
    }
    faults
}

/// Weights of another layer, where the operation at `site` is one with weights.
pub(super) fn of_layer(model: &Model, site: &str) -> Vec<Fault> {
    let Some((stack, index)) = model.topology.layers_of(site) else { return Vec::new() };
    let of = |by| [Some(index), None].map(|index| of_neighbour(stack.path, index, None, by));
    [-2, -1, 1, 2].into_iter().flat_map(of).collect()
}

/// Faults of all linear layers of a part.
pub(super) fn of_part(model: &Model, part: &str, declared: Formats) -> Vec<Fault> {
    let mut faults = stored(model, &Spot::below(part), declared);
    let stacks = model.topology.parts.iter().filter_map(|part| part.layers.as_ref());
    for stack in stacks.filter(|stack| stack.path.starts_with(part)) {
        faults.extend(stored(model, &Spot::below(stack.path), declared));
        faults.extend(Spot::kinds(stack.path, &layers::LINEARS).iter().flat_map(of_spot));
        faults.extend(residual::of_stack(stack.path));
        let pairs = PAIRS.into_iter().filter(|pair| !pair.contains(&"gate") || part == "language");
        faults.extend(pairs.map(|pair| exchanged(stack.path, None, pair)));
    }
    faults
}
