//! The vision-language backbone in terms that the versions of the model share.

use crate::ops::Heads;

/// Sizes and constants of a vision-language backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct Backbone {
    /// The token id that stands for one image feature.
    pub image_token: u32,
    /// The vision tower.
    pub vision: Vision,
    /// The language layers.
    pub text: Text,
}

/// Sizes and constants of a vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct Vision {
    /// Features of a patch.
    pub hidden_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Heads of every layer.
    pub heads: Heads,
    /// Features inside a layer's MLP.
    pub intermediate_size: usize,
    /// Pixels of a side of a patch.
    pub patch_size: usize,
    /// Frames that a patch spans.
    pub frames: usize,
    /// Rows of the square table of positions.
    pub positions: usize,
    /// Epsilon of the layers' norms.
    pub eps: f64,
    /// How many patches in each direction become one image token.
    pub merge: usize,
    /// The layers whose results reach the language layers by a connector of their own, ascending.
    pub deepstack: Vec<usize>,
}

/// Sizes and constants of the language layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Rows of the table of token embeddings.
    pub vocab_size: usize,
    /// Features of a token.
    pub hidden_size: usize,
    /// Heads of every layer.
    pub heads: Heads,
    /// Features inside a layer's MLP.
    pub intermediate_size: usize,
    /// Epsilon of all norms.
    pub eps: f64,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// How many frequencies turn by an image token's time, row and column, interleaved; none where all turn by a
    /// token's place in the prompt.
    pub rope_sections: Option<[usize; 3]>,
}
