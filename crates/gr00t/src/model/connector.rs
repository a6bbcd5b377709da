//! The connector: patch features to language tokens.
//!
//! Source: `mlp1` and `pixel_shuffle_back` in `modeling_eagle3_vl.py`.

use super::weights::{affine, linear};
use crate::Result;
use crate::checkpoint::Loader;
use crate::config::EagleConfig;
use crate::ops::{Activation, Affine, Grid, Linear, Ops, Site};

/// PyTorch's default for `nn.LayerNorm`.
pub const NORM_EPS: f64 = 1e-5;

/// Weights of the connector.
#[derive(Debug, Clone)]
pub struct Connector {
    /// `[features]` of the joined patches.
    pub norm: Affine,
    /// `[hidden_size, features]`.
    pub fc1: Linear,
    /// `[hidden_size, hidden_size]`.
    pub fc2: Linear,
    /// Patches of a side that become one token.
    pub unshuffle: usize,
}

impl Connector {
    pub(super) fn load(loader: &mut Loader, config: &EagleConfig) -> Self {
        let path = "backbone.model.mlp1";
        let unshuffle = config.unshuffle();
        let features = config.vision_config.hidden_size * unshuffle * unshuffle;
        let hidden = config.text_config.hidden_size;
        Connector {
            norm: affine(loader, &format!("{path}.0"), features),
            fc1: linear(loader, &format!("{path}.1"), features, hidden),
            fc2: linear(loader, &format!("{path}.3"), hidden, hidden),
            unshuffle,
        }
    }
}

/// Patches `[batch, patches, vision_hidden]` to image tokens `[batch, patches / 4, text_hidden]`.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Connector,
    patches: &O::Tensor,
    grids: &[Grid],
) -> Result<O::Tensor> {
    let at = &Site::new("connector");
    let x = ops.pixel_unshuffle(patches, grids, w.unshuffle)?;
    let x = ops.layer_norm(&x, Some(&w.norm), NORM_EPS, at / "norm")?;
    let x = ops.linear(&x, &w.fc1, at / "fc1")?;
    let x = ops.activation(&x, Activation::Gelu, at / "gelu")?;
    ops.linear(&x, &w.fc2, at.clone())
}
