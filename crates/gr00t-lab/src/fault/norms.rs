//! Norms that are computed otherwise, at one place or all over a part.

use super::spots::Spot;
use super::{Change, Fault, Norm};
use steadyhand_gr00t::model::Model;

/// What a norm of the reference does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// RMSNorm with a weight.
    Rms,
    /// LayerNorm with weight and bias.
    Affine,
    /// LayerNorm without either.
    Plain,
}

impl Form {
    /// That of the norms of the part that `site` lies in.
    fn of(site: &str) -> Self {
        match site.split('.').next() {
            Some("language") => Form::Rms,
            Some("dit") => Form::Plain,
            _ => Form::Affine,
        }
    }

    fn variants(self) -> Vec<(Norm, &'static str)> {
        let mean = match self {
            Form::Rms => "LayerNorm instead of RMSNorm, the mean is subtracted",
            _ => "RMSNorm instead of LayerNorm, the mean is not subtracted",
        };
        let mut variants = vec![
            (Norm::LeftOut, "it is left out, not applied"),
            (Norm::OtherMean, mean),
            (Norm::Unbiased, "the variance is that of a sample, sum / (n - 1)"),
            (Norm::EpsOutside, "epsilon is added to the deviation instead of to the variance"),
            (Norm::Length, "it divides by the length of the vector instead of its root mean square"),
            (Norm::OverTokens, "statistics are over the tokens instead of the features"),
        ];
        if self != Form::Plain {
            variants.extend([
                (Norm::NoWeight, "the weight is left out"),
                (Norm::WeightTwice, "the weight is applied twice"),
                (Norm::OnePlusWeight, "the weight is 1 + weight instead of weight"),
                (Norm::WeightMinusOne, "the weight is weight - 1 instead of weight"),
                (Norm::NoStatistics, "it only applies weight and bias, without normalizing"),
            ]);
        }
        if self == Form::Affine {
            variants.extend([
                (Norm::NoBias, "the bias is left out"),
                (Norm::BiasTwice, "the bias is applied twice"),
                (Norm::NoAffine, "weight and bias are left out"),
            ]);
        }
        variants
    }
}

const FIX: &str = "export the norm with the checkpoint's weight, as MODEL.md and the configuration say";

fn fault(spot: &Spot, norm: Norm, what: &str) -> Fault {
    let kind = if norm == Norm::LeftOut { "no-norm" } else { "norm" };
    let description = format!("computes another norm in {}: {what}", spot.words);
    spot.otherwise(kind, Change::Norm(norm), description, FIX)
}

fn variants(spot: &Spot, form: Form) -> Vec<Fault> {
    form.variants().into_iter().map(|(norm, what)| fault(spot, norm, what)).collect()
}

/// The norms of each query and each key head.
const HEADS: &[&str] = &["query_norm", "key_norm"];

/// The norms of the language model that are not of heads.
const OF_HIDDEN: &[&str] = &["norm1", "norm2", "norm"];

/// Faults of the norm at `site`.
pub(super) fn at(model: &Model, site: &str) -> Vec<Fault> {
    let form = Form::of(site);
    let part = site.split('.').next().unwrap_or(site);
    let mut spots = Spot::around(model, site);
    let of_heads = HEADS.iter().any(|name| site.ends_with(name));
    if let Some((layers, _)) = model.topology.layers_of(site).filter(|_| of_heads) {
        spots.push(Spot::named(layers.path, HEADS));
    }
    if form == Form::Rms && !of_heads {
        spots.push(Spot::named(part, OF_HIDDEN));
    }
    if spots.len() > 1 {
        spots.push(Spot::below(part));
    }
    let mut faults: Vec<Fault> = spots.iter().flat_map(|spot| variants(spot, form)).collect();
    if of_heads {
        let what = "statistics are those of all heads together instead of each head's";
        faults.extend(spots.iter().map(|spot| fault(spot, Norm::AllHeads, what)));
    }
    faults
}

/// Faults of norms all over a part.
pub(super) fn of_part(model: &Model, part: &str) -> Vec<Fault> {
    let form = Form::of(part);
    let mut faults = variants(&Spot::below(part), form);
    match part {
        "vision" => faults.extend(variants(&Spot::at("vision.post_layernorm"), form)),
        "language" => {
            faults.extend(variants(&Spot::named("language.layer", HEADS), form));
            faults.push(fault(
                &Spot::named("language.layer", HEADS),
                Norm::AllHeads,
                "statistics are those of all heads together instead of each head's",
            ));
            faults.extend(variants(&Spot::named(part, OF_HIDDEN), form));
            faults.extend(variants(&Spot::at("language.norm"), form));
        }
        "dit" => faults.extend(variants(&Spot::at("dit.norm_out"), form)),
        _ => {}
    }
    let stacks = model.topology.parts.iter().filter_map(|part| part.layers.as_ref());
    for layers in stacks.filter(|layers| layers.path.starts_with(part)) {
        let kinds = Spot::kinds(layers.path, &["norm1", "norm2", "query_norm", "key_norm"]);
        faults.extend(kinds.iter().flat_map(|spot| variants(spot, form)));
        faults.push(behind(&Spot::below(layers.path)));
    }
    faults
}

/// Norms behind the residual connections of a layer, or of all, instead of before what is added.
fn behind(spot: &Spot) -> Fault {
    let what =
        format!("norms behind the residual connections (post-norm) instead of before in {}", spot.words);
    let fix = "norm what enters a layer, not what leaves the residual connection: pre-norm";
    spot.otherwise("post-norm", Change::PostNorm, what, fix)
}

/// The same where the norm or the residual connection at `site` errs.
pub(super) fn order(model: &Model, site: &str) -> Vec<Fault> {
    let (Some(layer), Some((layers, _))) = (model.topology.layer_of(site), model.topology.layers_of(site))
    else {
        return Vec::new();
    };
    [layer, layers.path].iter().map(|place| behind(&Spot::below(place))).collect()
}
