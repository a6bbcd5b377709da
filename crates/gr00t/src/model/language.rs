//! The Qwen3 language layers: text and image tokens to backbone features.
//!
//! Source: `Qwen3Model` and `Qwen3VLTextModel` of transformers, cut after `select_layer` layers. Causal, grouped-query
//! attention, RMSNorm of each query and key head, RoPE.

use super::weights::linear_without_bias;
use crate::checkpoint::{Loader, Weight};
use crate::config;
use crate::ops::{Activation, Grid, Heads, Linear, Mask, Ops, Places, Rotary, Site, Tokens};
use crate::{Error, Result};

/// The site of the prompt's embeddings, before images take places in it.
pub const EMBEDDING: &str = "language.embedding";
/// The tap of what the first layer reads.
pub const INPUTS: &str = "language.inputs";

/// Weights of the language layers.
#[derive(Debug, Clone)]
pub struct Language {
    /// `[vocab_size, hidden]`.
    pub embed_tokens: Weight,
    /// The first `select_layer` decoder layers.
    pub layers: Vec<Layer>,
    /// The final RMSNorm, `[hidden_size]`.
    pub norm: Weight,
    /// Whether the features pass it.
    pub normed: bool,
    /// The layers behind which a deeper look at the images is added, in the order of `Images::deepstack`.
    pub deepstack: Vec<usize>,
    /// Query heads, and the key and value heads that groups of them share.
    pub heads: Heads,
    /// `rms_norm_eps` of all norms.
    pub eps: f64,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// How queries and keys are rotated.
    pub rotary: Rotary,
    /// Whether image tokens stand in rows and columns instead of one behind the other.
    pub rows_and_columns: bool,
}

/// What the layers know of the images in a prompt.
pub(super) struct Images<'a, O: Ops> {
    /// The image tokens.
    pub tokens: &'a Tokens,
    /// Their grid in each image.
    pub grids: &'a [Grid],
    /// Added behind layers, each `[batch, image tokens, hidden]`.
    pub deepstack: &'a [O::Tensor],
}

/// One decoder layer of Qwen3.
#[derive(Debug, Clone)]
pub struct Layer {
    /// RMSNorm before attention, `[hidden_size]`.
    pub input_norm: Weight,
    /// `[heads * head_dim, hidden_size]`.
    pub query: Linear,
    /// `[kv_heads * head_dim, hidden_size]`.
    pub key: Linear,
    /// `[kv_heads * head_dim, hidden_size]`.
    pub value: Linear,
    /// `[hidden_size, heads * head_dim]`.
    pub output: Linear,
    /// `[head_dim]`, shared by the heads.
    pub query_norm: Weight,
    /// `[head_dim]`, shared by the heads.
    pub key_norm: Weight,
    /// RMSNorm before the MLP, `[hidden_size]`.
    pub post_attention_norm: Weight,
    /// `[intermediate_size, hidden_size]`, activated by SiLU.
    pub gate: Linear,
    /// `[intermediate_size, hidden_size]`.
    pub up: Linear,
    /// `[hidden_size, intermediate_size]`.
    pub down: Linear,
}

impl Language {
    /// Where the tokens of a prompt stand whose images have these grids of tokens.
    pub(super) fn places<'a>(&self, images: &'a Tokens, grids: &'a [Grid]) -> Places<'a> {
        match self.rows_and_columns {
            true => Places::Prompt { images, grids },
            false => Places::Sequence,
        }
    }

    /// The layers under the checkpoint's names below `path`, as a Qwen3 that knows of no images.
    pub(super) fn load(loader: &mut Loader, path: &str, config: &config::Text, layers: usize) -> Self {
        let hidden = config.hidden_size;
        Language {
            embed_tokens: loader.weight(&format!("{path}.embed_tokens.weight"), &[config.vocab_size, hidden]),
            layers: (0..layers)
                .map(|layer| Layer::load(loader, &format!("{path}.layers.{layer}"), config))
                .collect(),
            norm: loader.weight(&format!("{path}.norm.weight"), &[hidden]),
            normed: true,
            deepstack: Vec::new(),
            heads: config.heads,
            eps: config.eps,
            rope_theta: config.rope_theta,
            rotary: Rotary::plain(config.heads.head_dim, config.rope_theta),
            rows_and_columns: false,
        }
    }
}

impl Layer {
    fn load(loader: &mut Loader, path: &str, config: &config::Text) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let Heads { heads, kv_heads, head_dim } = config.heads;
        let (query, key) = (heads * head_dim, kv_heads * head_dim);
        let mut linear = |name: &str, from: usize, to: usize| {
            linear_without_bias(loader, &format!("{path}.{name}"), from, to)
        };
        Layer {
            query: linear("self_attn.q_proj", hidden, query),
            key: linear("self_attn.k_proj", hidden, key),
            value: linear("self_attn.v_proj", hidden, key),
            output: linear("self_attn.o_proj", query, hidden),
            gate: linear("mlp.gate_proj", hidden, intermediate),
            up: linear("mlp.up_proj", hidden, intermediate),
            down: linear("mlp.down_proj", intermediate, hidden),
            input_norm: loader.weight(&format!("{path}.input_layernorm.weight"), &[hidden]),
            query_norm: loader.weight(&format!("{path}.self_attn.q_norm.weight"), &[head_dim]),
            key_norm: loader.weight(&format!("{path}.self_attn.k_norm.weight"), &[head_dim]),
            post_attention_norm: loader.weight(&format!("{path}.post_attention_layernorm.weight"), &[hidden]),
        }
    }
}

/// The embeddings of a prompt, those of its image tokens replaced by `images: [batch, image tokens, hidden]`:
/// `[batch, tokens, hidden]`.
pub(super) fn embed<O: Ops>(
    ops: &O,
    w: &Language,
    input_ids: &[Vec<u32>],
    tokens: &Tokens,
    images: &O::Tensor,
) -> Result<O::Tensor> {
    let found = ops.shape(images)[1];
    let expected = tokens.indices.len();
    if found != expected {
        let what = format!("expected {found} image tokens for these images, found {expected}");
        return Err(Error::input("input_ids", what));
    }
    let x = ops.embed(&w.embed_tokens, input_ids, Site::new(EMBEDDING))?;
    let x = ops.replace_tokens(&x, tokens, images)?;
    ops.tap(&x, Site::new(INPUTS));
    Ok(x)
}

/// Embeddings `[batch, tokens, hidden]` to backbone features of the same shape.
pub(super) fn forward<O: Ops>(
    ops: &O,
    w: &Language,
    embeddings: &O::Tensor,
    images: &Images<O>,
) -> Result<O::Tensor> {
    let at = &Site::new("language");
    let mut x = embeddings.clone();
    let places = w.places(images.tokens, images.grids);
    for (index, layer) in w.layers.iter().enumerate() {
        x = decoder_layer(ops, w, layer, &x, &places, &(&(at / "layer") / index))?;
        for (deeper, _) in w.deepstack.iter().enumerate().filter(|(_, behind)| **behind == index) {
            if let Some(values) = images.deepstack.get(deeper) {
                x = ops.add_to_tokens(&x, images.tokens, values, &(at / "deepstack") / deeper)?;
            }
        }
    }
    match w.normed {
        true => ops.rms_norm(&x, &w.norm, w.eps, at / "norm"),
        false => Ok(x),
    }
}

fn decoder_layer<O: Ops>(
    ops: &O,
    model: &Language,
    w: &Layer,
    x: &O::Tensor,
    places: &Places,
    at: &Site,
) -> Result<O::Tensor> {
    let h = ops.rms_norm(x, &w.input_norm, model.eps, at / "norm1")?;
    let h = self_attention(ops, model, w, &h, places, at)?;
    let x = ops.add(x, &h, at / "residual1")?;
    let h = ops.rms_norm(&x, &w.post_attention_norm, model.eps, at / "norm2")?;
    let gate = ops.linear(&h, &w.gate, at / "gate")?;
    let gate = ops.activation(&gate, Activation::Silu, at / "silu")?;
    let up = ops.linear(&h, &w.up, at / "up")?;
    let h = ops.multiply(&gate, &up, at / "gated")?;
    let h = ops.linear(&h, &w.down, at / "down")?;
    ops.add(&x, &h, at.clone())
}

fn self_attention<O: Ops>(
    ops: &O,
    model: &Language,
    w: &Layer,
    h: &O::Tensor,
    places: &Places,
    at: &Site,
) -> Result<O::Tensor> {
    let rope = |x: &O::Tensor, site| ops.rotary(x, &model.rotary, places, site);
    let q = ops.linear(h, &w.query, at / "query")?;
    let q = ops.rms_norm(&q, &w.query_norm, model.eps, at / "query_norm")?;
    let q = rope(&q, at / "query_rope")?;
    let k = ops.linear(h, &w.key, at / "key")?;
    let k = ops.rms_norm(&k, &w.key_norm, model.eps, at / "key_norm")?;
    let k = rope(&k, at / "key_rope")?;
    let v = ops.linear(h, &w.value, at / "value")?;
    let h = ops.attention(&q, &k, &v, model.heads, &Mask::Causal, at / "attention")?;
    ops.linear(&h, &w.output, at / "output")
}
