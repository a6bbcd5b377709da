//! What N1.7's `config.json` has of its own.
//!
//! Source: `gr00t/configs/model/gr00t_n1d7.py`. The defaults of that class are not the published values (`select_layer` 12
//! instead of 16, 16 blocks instead of 32, no self-attention over the features), so nothing is taken from them: what the
//! model depends on has to stand in the file.

use super::{Checked, Config, check_divides, check_layers, check_range, require};
use crate::ops::Heads;
use serde::Deserialize;
use serde_json::Value;

/// Self-attention over the backbone features, `SelfAttentionTransformer` of the official code.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SelfAttentionConfig {
    /// Blocks; none switches it off.
    pub num_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of one head; `num_attention_heads * attention_head_dim` is the width of the features.
    pub attention_head_dim: usize,
    /// Must be null.
    pub positional_embeddings: Option<String>,
}

impl Default for SelfAttentionConfig {
    /// The published model's.
    fn default() -> Self {
        SelfAttentionConfig {
            num_layers: 4,
            num_attention_heads: 32,
            attention_head_dim: 64,
            positional_embeddings: None,
        }
    }
}

impl SelfAttentionConfig {
    /// Heads of every block.
    pub fn heads(&self) -> Heads {
        let heads = self.num_attention_heads;
        Heads { heads, kv_heads: heads, head_dim: self.attention_head_dim }
    }
}

/// Fields that the model depends on.
const NEEDED: [&str; 15] = [
    "action_horizon",
    "add_pos_embed",
    "attend_text_every_n_blocks",
    "backbone_embedding_dim",
    "hidden_size",
    "input_embedding_dim",
    "max_action_dim",
    "max_num_embodiments",
    "max_seq_len",
    "max_state_dim",
    "num_inference_timesteps",
    "num_timestep_buckets",
    "select_layer",
    "use_alternate_vl_dit",
    "use_vlln",
];

/// The same, of a transformer. A missing `positional_embeddings` would mean sinusoidal ones.
const NEEDED_OF_TRANSFORMER: [&str; 4] =
    ["num_layers", "num_attention_heads", "attention_head_dim", "positional_embeddings"];

/// Whether the file has every field that the model depends on.
pub(super) fn check_document(document: &Value) -> Checked {
    let has = |object: &Value, field: &str, path: &str| {
        require(object.get(field).is_some(), || {
            format!(
                "{path}{field}: missing; the official code's own value for it is not the published model's"
            )
        })
    };
    NEEDED.iter().try_for_each(|field| has(document, field, ""))?;
    for name in ["diffusion_model_cfg", "vl_self_attention_cfg"] {
        // Without self-attention its fields count for nothing.
        let Some(object) = document.get(name).filter(|value| value.is_object()) else { continue };
        if name == "vl_self_attention_cfg" && object.get("num_layers") == Some(&Value::from(0)) {
            continue;
        }
        NEEDED_OF_TRANSFORMER.iter().try_for_each(|field| has(object, field, &format!("{name}.")))?;
    }
    has(document, "diffusion_model_cfg", "")?;
    has(&document["diffusion_model_cfg"], "output_dim", "diffusion_model_cfg.")?;
    has(document, "state_history_length", "")
}

/// Whether the fields that N1.6 does not have fit the others.
pub(super) fn check(config: &Config) -> Checked {
    let rows = config.state_history_length.unwrap_or_default();
    check_range("state_history_length", rows)?;
    check_range("state_history_length * max_state_dim", rows.saturating_mul(config.max_state_dim))?;
    let Some(stack) = config.vl_self_attention() else { return Ok(()) };
    require(stack.positional_embeddings.is_none(), || {
        format!(
            "vl_self_attention_cfg.positional_embeddings: expected null, found {:?}",
            stack.positional_embeddings
        )
    })?;
    check_layers("vl_self_attention_cfg.num_layers", stack.num_layers)?;
    check_range("vl_self_attention_cfg.attention_head_dim", stack.attention_head_dim)?;
    let width = config.backbone_embedding_dim;
    check_divides("vl_self_attention_cfg.num_attention_heads", width, stack.num_attention_heads)?;
    let found = stack.num_attention_heads * stack.attention_head_dim;
    require(found == width, || {
        format!(
            "vl_self_attention_cfg: expected num_attention_heads * attention_head_dim = backbone_embedding_dim = \
             {width}, found {found}"
        )
    })
}

impl Config {
    /// Self-attention over the backbone features, where the model has any.
    pub fn vl_self_attention(&self) -> Option<&SelfAttentionConfig> {
        self.vl_self_attention_cfg.as_ref().filter(|stack| stack.num_layers > 0)
    }
}
