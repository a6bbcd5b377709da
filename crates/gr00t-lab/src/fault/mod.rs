//! Faults: the mistakes that deployments make, as values.
//!
//! A fault injected into the reference gives what an engine with that mistake would give. That serves two
//! ends: a suite that a diagnosis is tested on, and the diagnosis itself, which replays its hypotheses and
//! calls a cause only what reproduces the engine it was shown.

mod describe;
mod engine;
mod inject;
mod inputs;
mod reach;
mod suite;

pub use engine::FaultyEngine;
pub(crate) use inject::Injection;
pub use inject::Results;
pub(crate) use reach::is_category_specific;
pub use suite::{Case, suite};

use steadyhand_fidelity::Format;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::dit::Attends;
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};

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

/// A mistake, and where it is made. A site is a path as in [`steadyhand_gr00t::ops::Site::path`]; a fault there is made
/// in every Euler step.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A buffer holds values of one format and is read as another: the bytes are reinterpreted. Where the
    /// formats differ in width, the reader gets as many values as it expects from the start of the buffer.
    Reinterpreted {
        /// Whose result the buffer holds.
        site: String,
        /// What was written.
        stored: Format,
        /// What was read.
        read: Format,
    },
    /// The buffer still holds the result of the previous inference.
    Stale {
        /// Whose result it should hold.
        site: String,
    },
    /// The last tokens of a buffer are never written and hold zeros.
    UnwrittenTail {
        /// Whose result it should hold.
        site: String,
        /// How many tokens.
        tokens: usize,
    },
    /// A row of attention sees no key at all: its softmax is 0 / 0.
    MaskedRow {
        /// The attention.
        site: String,
    },
    /// A site, and everything below it, runs in narrower formats than it should.
    Narrow {
        /// The site.
        site: String,
        /// What it runs in.
        formats: Formats,
    },
    /// Blocks that should see the text tokens see the image tokens, and the other way round.
    SwappedMasks,
    /// The language layers at and above this one see later tokens.
    NotCausal {
        /// The first layer without its mask.
        layer: usize,
    },
    /// The angles of the timestep embedding are rounded before sine and cosine.
    TimestepAngle {
        /// To this format.
        format: Format,
    },
    /// The timestep is off by some buckets.
    TimestepOffset {
        /// Added to the bucket.
        buckets: i64,
    },
    /// The timestep was folded into a constant: every Euler step sees the first one's.
    TimestepFolded,
    /// A norm's epsilon is another.
    Eps {
        /// The norm, or a part of the model.
        site: String,
        /// Instead of the right one.
        eps: f64,
    },
    /// The erf and tanh forms of GELU are confused.
    SwappedGelu {
        /// The non-linearity, or a part of the model.
        site: String,
    },
    /// A projection's features are laid out `[head_dim, heads]` instead of `[heads, head_dim]`.
    TransposedHeads {
        /// The projection.
        site: String,
        /// Heads of the projection.
        heads: usize,
    },
    /// Neighbouring heads of a projection are exchanged, as when query and key groups are counted wrongly.
    MisgroupedHeads {
        /// The projection.
        site: String,
        /// Heads of the projection.
        heads: usize,
    },
    /// Another embodiment's weights are used.
    Embodiment {
        /// The slot used.
        slot: usize,
    },
    /// A layer has weights of another time: each output feature is scaled by its own factor near one.
    OldWeights {
        /// The layer.
        site: String,
        /// Relative size of the change.
        change: f32,
    },
    /// An fp8 layer's scale was calibrated on smaller values: what exceeds them is cut off.
    StaleScale {
        /// The layer.
        site: String,
        /// The calibrated maximum, as a fraction of the true one.
        fraction: f32,
    },
    /// The engine starts from its own noise.
    UnpairedNoise {
        /// What makes it differ.
        seed: u64,
    },
    /// Images arrive as BGR.
    ChannelOrder,
    /// Images are resized half a pixel off.
    ShiftedPixels,
    /// The pixels differ in another way.
    OtherPixels,
    /// States are normalized with the statistics of another dataset.
    OtherStatistics {
        /// How much its ranges differ, relative to the right ones.
        spread: f32,
    },
}

impl Fault {
    /// Makes the part of the fault that lies in the model and its precision.
    pub(crate) fn damage_model(&self, model: &mut Model, policy: &mut PrecisionPolicy) {
        match self {
            Fault::SwappedMasks => exchange_masks(model),
            Fault::Narrow { site, formats } => *policy = policy.clone().with(site, *formats),
            _ => {}
        }
    }

    /// Makes the part of the fault that lies in the inputs.
    pub(crate) fn damage_inputs(&self, inputs: &mut [ModelInput]) {
        inputs.iter_mut().for_each(|input| inputs::damage(self, input));
    }

    /// Where the fault is made: a site, or a part of the model and everything below it.
    pub fn place(&self) -> &str {
        match self {
            Fault::Reinterpreted { site, .. }
            | Fault::Stale { site }
            | Fault::UnwrittenTail { site, .. }
            | Fault::MaskedRow { site }
            | Fault::Narrow { site, .. }
            | Fault::Eps { site, .. }
            | Fault::SwappedGelu { site }
            | Fault::TransposedHeads { site, .. }
            | Fault::MisgroupedHeads { site, .. }
            | Fault::OldWeights { site, .. }
            | Fault::StaleScale { site, .. } => site,
            Fault::SwappedMasks => "dit.block",
            Fault::NotCausal { .. } => "language.layer",
            Fault::TimestepAngle { .. } | Fault::TimestepOffset { .. } | Fault::TimestepFolded => {
                "dit.timestep_projection"
            }
            Fault::Embodiment { .. } => "action_head",
            Fault::UnpairedNoise { .. } => "noise",
            Fault::ChannelOrder | Fault::ShiftedPixels | Fault::OtherPixels => "vision.patches",
            Fault::OtherStatistics { .. } => "action_head.state",
        }
    }

    /// Whether the fault can only be recognised by its place, because what it did cannot be known from
    /// outside: the noise, the weights, the statistics that were used instead.
    pub fn is_opaque(&self) -> bool {
        matches!(
            self,
            Fault::OldWeights { .. }
                | Fault::UnpairedNoise { .. }
                | Fault::OtherStatistics { .. }
                | Fault::OtherPixels
        )
    }

    /// Stable name of the kind, for JSON and tables.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Reinterpreted { .. } => "reinterpreted",
            Fault::Stale { .. } => "stale",
            Fault::UnwrittenTail { .. } => "unwritten-tail",
            Fault::MaskedRow { .. } => "masked-row",
            Fault::Narrow { .. } => "narrow",
            Fault::SwappedMasks => "swapped-masks",
            Fault::NotCausal { .. } => "not-causal",
            Fault::TimestepAngle { .. } => "timestep-angle",
            Fault::TimestepOffset { .. } => "timestep-offset",
            Fault::TimestepFolded => "timestep-folded",
            Fault::Eps { .. } => "eps",
            Fault::SwappedGelu { .. } => "swapped-gelu",
            Fault::TransposedHeads { .. } => "transposed-heads",
            Fault::MisgroupedHeads { .. } => "misgrouped-heads",
            Fault::Embodiment { .. } => "embodiment",
            Fault::OldWeights { .. } => "weights",
            Fault::StaleScale { .. } => "stale-scale",
            Fault::UnpairedNoise { .. } => "unpaired-noise",
            Fault::ChannelOrder => "channel-order",
            Fault::ShiftedPixels => "shifted-pixels",
            Fault::OtherPixels => "other-pixels",
            Fault::OtherStatistics { .. } => "other-statistics",
        }
    }
}
