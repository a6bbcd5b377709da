//! Faults of attention: masks, and the heads of its operands.

use super::{Case, Effect, Fault, Reach, Sites, Suspect};
use std::sync::Arc;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Attends;
use steadyhand_gr00t::ops::{Mask, Site};

/// A row of attention sees no key at all: its softmax is 0 / 0.
pub fn masked_row(site: &str) -> Fault {
    Fault {
        kind: "masked-row",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(|[_, _, features], values| values[..features].fill(f32::NAN))),
        opaque: false,
        description: format!("lets a query of `{site}` see no key: 0 / 0"),
        fix: "give every query at least one key, or skip the row".to_owned(),
    }
}

/// Blocks that should see the text tokens see the image tokens, and the other way round.
pub fn swapped_masks() -> Fault {
    Fault {
        kind: "swapped-masks",
        place: "dit.block".to_owned(),
        reach: Reach::Below,
        effect: Effect::Model(Arc::new(exchange_masks)),
        opaque: false,
        description:
            "shows image tokens to the blocks that should see text, and the reverse: the masks are exchanged"
                .to_owned(),
        fix: "exchange the masks image_mask and not image_mask of the cross-attention blocks".to_owned(),
    }
}

/// Blocks that should see some of the tokens see all of them.
pub fn no_masks() -> Fault {
    Fault {
        kind: "no-masks",
        place: "dit.block".to_owned(),
        reach: Reach::Below,
        effect: Effect::Model(Arc::new(|model| {
            for block in &mut model.action_head.dit.blocks {
                if block.attends != Attends::Itself {
                    block.attends = Attends::Everything;
                }
            }
        })),
        opaque: false,
        description: "ignores the masks of the cross-attention: every block sees all tokens".to_owned(),
        fix: "pass image_mask to the blocks that attend to images, its reverse to those that attend to text"
            .to_owned(),
    }
}

/// Gives blocks that attend to text the image tokens, and the other way round.
fn exchange_masks(model: &mut Model) {
    for block in &mut model.action_head.dit.blocks {
        block.attends = match block.attends {
            Attends::Text => Attends::Images,
            Attends::Images => Attends::Text,
            other => other,
        };
    }
}

/// The language layers from `layer` on see later tokens.
pub fn not_causal(layer: usize) -> Fault {
    let from = move |at: &Site| {
        let index = at.path().strip_prefix("language.layer.").and_then(|rest| rest.split('.').next());
        index.and_then(|index| index.parse::<usize>().ok()).is_some_and(|index| index >= layer)
    };
    Fault {
        kind: "not-causal",
        place: "language.layer".to_owned(),
        reach: Reach::Below,
        effect: Effect::Mask(Arc::new(move |at, mask| match mask {
            Mask::Causal if from(at) => Mask::None,
            _ => mask.clone(),
        })),
        opaque: false,
        description: format!("runs the language layers from {layer} on without the causal mask"),
        fix: "export the language model with its causal mask".to_owned(),
    }
}

const HEADS_FIX: &str =
    "compare the reshape and transpose around this projection with the checkpoint's layout";

/// A projection's features are laid out `[head_dim, heads]` instead of `[heads, head_dim]`.
pub fn transposed_heads(site: &str, heads: usize) -> Fault {
    Fault {
        kind: "transposed-heads",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |[_, _, features], values| {
            let head_dim = features / heads;
            move_features(values, features, |feature| (feature % head_dim) * heads + feature / head_dim);
        })),
        opaque: false,
        description: format!("lays `{site}` out as [head_dim, heads] instead of [heads, head_dim]"),
        fix: HEADS_FIX.to_owned(),
    }
}

/// Neighbouring heads of a projection are exchanged, as when query and key groups are counted wrongly.
pub fn misgrouped_heads(site: &str, heads: usize) -> Fault {
    Fault {
        kind: "misgrouped-heads",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |[_, _, features], values| {
            let head_dim = features / heads;
            let other = |head: usize| if head ^ 1 < heads { head ^ 1 } else { head };
            move_features(values, features, |feature| {
                other(feature / head_dim) * head_dim + feature % head_dim
            });
        })),
        opaque: false,
        description: format!("exchanges neighbours among the {heads} heads of `{site}`"),
        fix: HEADS_FIX.to_owned(),
    }
}

/// Feature `f` of every token becomes what feature `from(f)` was.
fn move_features(values: &mut [f32], features: usize, from: impl Fn(usize) -> usize) {
    for token in values.chunks_exact_mut(features) {
        let right = token.to_vec();
        for (feature, value) in token.iter_mut().enumerate() {
            *value = right[from(feature)];
        }
    }
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let (site, name) = (suspect.site, suspect.name());
    let mut faults = Vec::new();
    if name == "attention" {
        faults.push(masked_row(site));
        if let Some(layer) = site.strip_prefix("language.layer.").and_then(|rest| rest.split('.').next()) {
            faults.extend(layer.parse().ok().map(not_causal));
        }
    }
    if suspect.unshown.iter().any(|path| path.starts_with("language.layer.")) {
        faults.push(not_causal(0));
    }
    let keys = site.starts_with("dit.block.") && matches!(name, "key" | "value" | "attention");
    if keys || suspect.unshown.iter().any(|path| path.starts_with("dit.block.")) {
        faults.extend([swapped_masks(), no_masks()]);
    }
    if matches!(name, "query" | "key" | "value") {
        let layers = suspect.model.topology.layers_of(site).map(|(layers, _)| layers.head_counts());
        for heads in layers.unwrap_or_default() {
            faults.extend([transposed_heads(site, heads), misgrouped_heads(site, heads)]);
        }
    }
    faults
}

pub(super) fn of_any_engine() -> Vec<Fault> {
    vec![swapped_masks(), no_masks(), not_causal(0)]
}

pub(super) fn cases(config: &Config, sites: &Sites) -> Vec<Case> {
    let heads = config.diffusion_model_cfg.num_attention_heads;
    let kv_heads = config.backbone().text.heads.kv_heads;
    let last = config.select_layer - 1;
    vec![
        Case {
            name: "fully masked row",
            strong: masked_row(&format!("{}.attention", sites.cross)),
            weak: masked_row(&format!("language.layer.{last}.attention")),
        },
        Case { name: "text and image masks exchanged", strong: swapped_masks(), weak: swapped_masks() },
        Case { name: "causal mask missing", strong: not_causal(0), weak: not_causal(last) },
        Case {
            name: "QKV transposed or mis-grouped",
            strong: transposed_heads(&format!("{}.query", sites.own), heads),
            weak: misgrouped_heads(&format!("{}.key", sites.language), kv_heads),
        },
    ]
}
