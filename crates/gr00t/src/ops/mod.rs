//! The operations that the model is written in.
//!
//! The files under `model/` state the mathematics once, generic over [`Ops`]; what an operation does is
//! decided by the implementation: [`cpu::Cpu`] computes, [`onnx::Recorder`] records, [`ShapeInference`] lists the
//! places. Every operation is told its [`Site`]: its name in the model, by which its number formats are
//! looked up and its result is offered to the probe.

pub mod cpu;
pub mod onnx;
mod places;
mod shapes;
mod site;

pub use places::{Grid, Places, Rotary, Stores};
pub use shapes::{ModelSite, Operation, ShapeInference, Visit, Work};
pub use site::Site;

use crate::Result;
use crate::checkpoint::Weight;
use std::borrow::Cow;

/// `y = x Wᵀ + b`, PyTorch's `nn.Linear`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out_features, in_features]`.
    pub weight: Weight,
    /// `[out_features]`.
    pub bias: Option<Weight>,
}

/// One linear layer per embodiment: `y = x W[e] + b[e]`.
/// Source: `CategorySpecificLinear` in `embodiment_conditioned_mlp.py`.
#[derive(Debug, Clone)]
pub struct CategoryLinear {
    /// `[embodiments, in_features, out_features]`: not transposed, unlike [`Linear`].
    pub weight: Weight,
    /// `[embodiments, out_features]`.
    pub bias: Weight,
}

/// The learned scale and shift of a LayerNorm, each `[features]`.
#[derive(Debug, Clone)]
pub struct Affine {
    /// Scale.
    pub weight: Weight,
    /// Shift.
    pub bias: Weight,
}

/// Pointwise non-linearities. The two GELUs differ by up to 5e-4 and are not interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, with the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `x sigmoid(x)`, one operation.
    Silu,
    /// `x sigmoid(x)` as two operations, the sigmoid being stored in between.
    Swish,
    /// `max(x, 0)`.
    Relu,
}

/// Which keys a query sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own position and before.
    Causal,
    /// Those of its own segment; the lengths add up to the sequence. One image is one segment.
    Segments(Vec<usize>),
}

/// Heads of an attention. Query head `h` reads key/value head `h / (heads / kv_heads)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; fewer than `heads` in grouped-query attention.
    pub kv_heads: usize,
    /// Features of one head. Scores are scaled by `1 / sqrt(head_dim)`.
    pub head_dim: usize,
}

/// The same image of every observation in a batch.
#[derive(Debug, Clone)]
pub struct ImageBatch<'a> {
    /// Height in pixels, a multiple of twice the patch size.
    pub height: usize,
    /// Width in pixels, a multiple of twice the patch size.
    pub width: usize,
    /// Frames; one stands for all that a patch spans.
    pub frames: usize,
    /// `[batch, frames, 3, height, width]`; those of a single observation stay where they are: fresh memory for them would
    /// cost an inference more than reading them.
    pub pixels: Cow<'a, [f32]>,
}

/// How images are cut into patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patching {
    /// Pixels of a side.
    pub size: usize,
    /// Frames that a patch spans.
    pub frames: usize,
    /// Whether a patch's values are ordered channel, frame, row, column; row, column, channel of its only frame
    /// otherwise.
    pub channels_first: bool,
}

impl Patching {
    /// Values of one patch.
    pub fn features(self) -> usize {
        3 * self.frames * self.size * self.size
    }
}

/// How a table is resized bilinearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Antialiased, pixels being areas: `interpolate(mode="bilinear", antialias=True, align_corners=False)`. All in f32.
    Antialiased,
    /// Between the nearest points, the table's ends lying on the grid's. Weights, products and sums are stored.
    AlignedCorners,
}

/// Some tokens of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// What they have in common, for implementations that meet the prompt only later.
    pub part: Part,
    /// Where they are, in ascending order.
    pub indices: Vec<usize>,
}

/// The two parts of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Tokens that stand for image features.
    Images,
    /// All others.
    Text,
}

/// What a time encoding starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leading {
    /// The sines.
    Sines,
    /// The cosines.
    Cosines,
}

/// The operations of the model. A tensor is `[batch, tokens, features]`; operations that take two
/// tensors accept a batch of 1 for the second, or one token, and repeat it.
pub trait Ops {
    /// A handle to a value; cloning is cheap.
    type Tensor: Clone;

    /// `[batch, tokens, features]` of a tensor.
    fn shape(&self, x: &Self::Tensor) -> [usize; 3];
    /// A value that comes from outside the model, stored in the site's format. Its name is the last part of
    /// the site's path.
    fn input(&self, values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<Self::Tensor>;
    /// Images cut into patches, one image after the other and each in the order of its grid:
    /// `[batch, patches, patching.features()]`.
    fn patches(
        &self,
        images: &[ImageBatch],
        grids: &[Grid],
        patching: Patching,
        batch: usize,
        at: Site,
    ) -> Result<Self::Tensor>;
    /// Sines and cosines of `time * frequencies`, in f32: `[1, 1, 2 * frequencies.len()]`.
    fn time_encoding(
        &self,
        time: usize,
        frequencies: &[f32],
        leading: Leading,
        at: Site,
    ) -> Result<Self::Tensor>;
    /// Offers `x` to the probe under another name than that of the operation that made it.
    fn tap(&self, x: &Self::Tensor, at: Site);

    /// Rows of `table: [rows, features]`: `ids[batch][token]` → `[batch, tokens, features]`.
    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<Self::Tensor>;
    /// The first `tokens` rows of `table`: `[1, tokens, features]`.
    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<Self::Tensor>;
    /// The square position table resized to each grid, one after the other, in the order of their patches.
    fn resize_positions(
        &self,
        table: &Weight,
        grids: &[Grid],
        resize: Resize,
        at: Site,
    ) -> Result<Self::Tensor>;

    /// `x Wᵀ + b`, rounded once.
    fn linear(&self, x: &Self::Tensor, layer: &Linear, at: Site) -> Result<Self::Tensor>;
    /// `x W[e] + b[e]`, item `i` of the batch with embodiment `embodiments[i]`; product and sum are stored.
    fn category_linear(
        &self,
        x: &Self::Tensor,
        layer: &CategoryLinear,
        embodiments: &[usize],
        at: Site,
    ) -> Result<Self::Tensor>;
    /// `softmax(q kᵀ / sqrt(head_dim)) v` by head. q: `[batch, tokens, heads * head_dim]`,
    /// k, v: `[batch, memory_tokens, kv_heads * head_dim]`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: Heads,
        mask: &Mask,
        at: Site,
    ) -> Result<Self::Tensor>;

    /// LayerNorm over the features.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        affine: Option<&Affine>,
        eps: f64,
        at: Site,
    ) -> Result<Self::Tensor>;
    /// RMSNorm over each run of `weight.len()` features: all of them, or those of one head.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Weight, eps: f64, at: Site) -> Result<Self::Tensor>;
    /// Rotates the two halves of each head by the angles of its token's place.
    fn rotary(&self, x: &Self::Tensor, rotary: &Rotary, places: &Places, at: Site) -> Result<Self::Tensor>;
    /// `x (1 + scale) + shift`.
    fn modulate(
        &self,
        x: &Self::Tensor,
        scale: &Self::Tensor,
        shift: &Self::Tensor,
        at: Site,
    ) -> Result<Self::Tensor>;
    /// A pointwise non-linearity.
    fn activation(&self, x: &Self::Tensor, kind: Activation, at: Site) -> Result<Self::Tensor>;
    /// `a + b`.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor, at: Site) -> Result<Self::Tensor>;
    /// `a * b`.
    fn multiply(&self, a: &Self::Tensor, b: &Self::Tensor, at: Site) -> Result<Self::Tensor>;
    /// `x` with token `i` of `values` added to the `i`th of these tokens.
    fn add_to_tokens(
        &self,
        x: &Self::Tensor,
        tokens: &Tokens,
        values: &Self::Tensor,
        at: Site,
    ) -> Result<Self::Tensor>;
    /// `actions + dt * velocity`, or `actions + dt * velocity * strength`; the products are stored.
    fn euler(
        &self,
        actions: &Self::Tensor,
        velocity: &Self::Tensor,
        strength: Option<&Self::Tensor>,
        dt: f64,
        at: Site,
    ) -> Result<Self::Tensor>;

    /// Features `start..start + len` of every token.
    fn slice_features(&self, x: &Self::Tensor, start: usize, len: usize) -> Result<Self::Tensor>;
    /// These tokens alone, as keys and values to attend to: an implementation may keep the others where
    /// no query sees them.
    fn select_tokens(&self, x: &Self::Tensor, tokens: &Tokens) -> Result<Self::Tensor>;
    /// The last `count` tokens.
    fn last_tokens(&self, x: &Self::Tensor, count: usize) -> Result<Self::Tensor>;
    /// `x` with the `i`th of these tokens replaced by token `i` of `values`.
    fn replace_tokens(
        &self,
        x: &Self::Tensor,
        tokens: &Tokens,
        values: &Self::Tensor,
    ) -> Result<Self::Tensor>;
    /// The tokens of `a`, then those of `b`.
    fn concat_tokens(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// The features of `a`, then those of `b`, repeated where `b` has one token or a batch of 1.
    fn concat_features(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;
    /// Joins each `count` tokens in a row into one: the features of the first, then those of the second, ….
    fn join_tokens(&self, x: &Self::Tensor, count: usize) -> Result<Self::Tensor>;
    /// Joins each `factor x factor` patches of grids walked by rows into one token, image by image. Feature `c * factor² + dy * factor + dx`
    /// of the result is feature `c` of the patch at `(dy, dx)`, as `torch.nn.functional.pixel_unshuffle`.
    fn pixel_unshuffle(&self, x: &Self::Tensor, grids: &[Grid], factor: usize) -> Result<Self::Tensor>;
}
