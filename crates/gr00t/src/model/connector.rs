//! Connectors: patch features to language tokens.
//!
//! Source: `mlp1` and `pixel_shuffle_back` in `modeling_eagle3_vl.py`, `Qwen3VLVisionPatchMerger` of transformers.

use crate::Result;
use crate::ops::{Activation, Affine, Grid, Linear, Ops, Site};

/// Weights of a connector.
#[derive(Debug, Clone)]
pub struct Connector {
    /// `[features]`, of a patch or of the joined patches.
    pub norm: Affine,
    /// Epsilon of the norm.
    pub eps: f64,
    /// How patches become a token, and whether the norm comes before.
    pub join: Join,
    /// `[inner, features of the joined patches]`.
    pub fc1: Linear,
    /// `[hidden_size, inner]`.
    pub fc2: Linear,
}

/// How patches become a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Squares of patches of so many a side, of grids walked by rows; the norm comes behind.
    PixelUnshuffle(usize),
    /// So many patches in a row.
    InOrder {
        /// How many.
        count: usize,
        /// Whether the norm is over a patch instead of over the joined ones.
        norm_first: bool,
    },
}

/// Patches `[batch, patches, vision_hidden]` to image tokens `[batch, patches / 4, text_hidden]`.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Connector,
    patches: &O::Tensor,
    grids: &[Grid],
    at: &Site,
) -> Result<O::Tensor> {
    let norm = |x: &O::Tensor| ops.layer_norm(x, Some(&w.norm), w.eps, at / "norm");
    let x = match w.join {
        Join::PixelUnshuffle(factor) => norm(&ops.pixel_unshuffle(patches, grids, factor)?)?,
        Join::InOrder { count, norm_first: true } => ops.join_tokens(&norm(patches)?, count)?,
        Join::InOrder { count, norm_first: false } => norm(&ops.join_tokens(patches, count)?)?,
    };
    let x = ops.linear(&x, &w.fc1, at / "fc1")?;
    let x = ops.activation(&x, Activation::Gelu, at / "gelu")?;
    ops.linear(&x, &w.fc2, at.clone())
}
