//! Sizes of N1.7's vision-language backbone, Cosmos-Reason2-2B: a Qwen3-VL.
//!
//! Its own `config.json` is not part of a published checkpoint, whose code gets it by `model_name`; a checkpoint may carry
//! it under the key `qwen3vl_config`. What is absent has the published model's value, and the tensors' shapes must agree.

use super::backbone::{Backbone, Text, Vision};
use super::{check_divides, check_layers, check_range, check_square, require};
use crate::ops::Heads;
use serde::Deserialize;

/// Qwen3-VL's `config.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct Qwen3VlConfig {
    pub image_token_id: u32,
    pub vision_config: VisionConfig,
    pub text_config: TextConfig,
}

/// Sizes of the vision tower.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct VisionConfig {
    pub depth: usize,
    pub hidden_size: usize,
    pub num_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub in_channels: usize,
    pub out_hidden_size: usize,
    pub patch_size: usize,
    pub temporal_patch_size: usize,
    pub spatial_merge_size: usize,
    pub num_position_embeddings: usize,
    pub deepstack_visual_indexes: Vec<usize>,
}

/// Sizes of the Qwen3 language model.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub hidden_act: String,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub attention_bias: bool,
}

/// How positions of three axes share a head's frequencies.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct RopeScaling {
    pub mrope_interleaved: bool,
    pub mrope_section: [usize; 3],
    pub rope_type: String,
}

impl Default for Qwen3VlConfig {
    fn default() -> Self {
        Qwen3VlConfig {
            image_token_id: 151_655,
            vision_config: VisionConfig::default(),
            text_config: TextConfig::default(),
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            depth: 24,
            hidden_size: 1024,
            num_heads: 16,
            intermediate_size: 4096,
            hidden_act: GELU_TANH.to_owned(),
            in_channels: 3,
            out_hidden_size: 2048,
            patch_size: 16,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            num_position_embeddings: 48 * 48,
            deepstack_visual_indexes: vec![5, 11, 17],
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 6144,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            hidden_act: "silu".to_owned(),
            rms_norm_eps: 1e-6,
            rope_theta: 5e6,
            rope_scaling: RopeScaling::default(),
            attention_bias: false,
        }
    }
}

impl Default for RopeScaling {
    fn default() -> Self {
        RopeScaling { mrope_interleaved: true, mrope_section: [24, 20, 20], rope_type: "default".to_owned() }
    }
}

/// The only activation of the vision layers that is known.
const GELU_TANH: &str = "gelu_pytorch_tanh";
/// Epsilon of the vision tower's norms: a constant of the official code, in no configuration.
const VISION_EPS: f64 = 1e-6;

impl Qwen3VlConfig {
    pub(super) fn backbone(&self) -> Backbone {
        let (vision, text) = (&self.vision_config, &self.text_config);
        let heads = vision.num_heads;
        Backbone {
            image_token: self.image_token_id,
            vision: Vision {
                hidden_size: vision.hidden_size,
                layers: vision.depth,
                heads: Heads { heads, kv_heads: heads, head_dim: vision.hidden_size / heads.max(1) },
                intermediate_size: vision.intermediate_size,
                patch_size: vision.patch_size,
                frames: vision.temporal_patch_size,
                positions: vision.num_position_embeddings,
                eps: VISION_EPS,
                merge: vision.spatial_merge_size,
                deepstack: vision.deepstack_visual_indexes.clone(),
            },
            text: Text {
                vocab_size: text.vocab_size,
                hidden_size: text.hidden_size,
                heads: Heads {
                    heads: text.num_attention_heads,
                    kv_heads: text.num_key_value_heads,
                    head_dim: text.head_dim,
                },
                intermediate_size: text.intermediate_size,
                eps: text.rms_norm_eps,
                rope_theta: text.rope_theta,
                rope_sections: Some(text.rope_scaling.mrope_section),
            },
        }
    }

    /// Whether this is a Qwen3-VL as the model's code has it; says which field is wrong otherwise.
    pub(super) fn check(&self) -> Result<(), String> {
        let (vision, text) = (&self.vision_config, &self.text_config);
        for (name, found, expected) in [
            ("vision_config.hidden_act", &vision.hidden_act, GELU_TANH),
            ("text_config.hidden_act", &text.hidden_act, "silu"),
            ("text_config.rope_scaling.rope_type", &text.rope_scaling.rope_type, "default"),
        ] {
            require(found == expected, || {
                format!("qwen3vl_config.{name}: expected `{expected}`, found `{found}`")
            })?;
        }
        require(text.rope_scaling.mrope_interleaved && !text.attention_bias, || {
            "qwen3vl_config.text_config: expected rope_scaling.mrope_interleaved true and attention_bias false"
                .to_owned()
        })?;
        for (name, found, expected) in [
            ("vision_config.in_channels", vision.in_channels, 3),
            ("vision_config.spatial_merge_size", vision.spatial_merge_size, 2),
            ("vision_config.out_hidden_size", vision.out_hidden_size, text.hidden_size),
        ] {
            require(found == expected, || {
                format!("qwen3vl_config.{name}: expected {expected}, found {found}")
            })?;
        }
        let sections = text.rope_scaling.mrope_section;
        // Row and column take every third frequency, so neither has more than a third of them.
        let third = (text.head_dim / 2).div_ceil(3);
        require(sections[1..].iter().all(|section| *section <= third), || {
            format!(
                "qwen3vl_config.text_config.rope_scaling.mrope_section: expected at most {third} for row and \
                 column, found {sections:?}"
            )
        })?;
        let indexes = &vision.deepstack_visual_indexes;
        let ascending = indexes.windows(2).all(|pair| pair[0] < pair[1]);
        require(ascending && indexes.iter().all(|index| *index < vision.depth), || {
            format!(
                "qwen3vl_config.vision_config.deepstack_visual_indexes: expected ascending layers below {}, found \
                 {indexes:?}",
                vision.depth
            )
        })?;
        // The angles of rows and of columns share a half of a vision head.
        require(vision.num_heads > 0 && (vision.hidden_size / vision.num_heads).is_multiple_of(4), || {
            format!(
                "qwen3vl_config.vision_config.num_heads: expected heads of a multiple of 4 features, found {} of {}",
                vision.num_heads, vision.hidden_size
            )
        })?;
        for (name, whole, part) in [
            ("qwen3vl_config.vision_config.num_heads", vision.hidden_size, vision.num_heads),
            (
                "qwen3vl_config.text_config.num_key_value_heads",
                text.num_attention_heads,
                text.num_key_value_heads,
            ),
            ("qwen3vl_config.text_config.head_dim", text.head_dim, 2),
        ] {
            check_divides(name, whole, part)?;
        }
        check_square("qwen3vl_config.vision_config.num_position_embeddings", vision.num_position_embeddings)?;
        check_layers("qwen3vl_config.vision_config.depth", vision.depth)?;
        for (name, value) in [
            ("qwen3vl_config.vision_config.hidden_size", vision.hidden_size),
            ("qwen3vl_config.vision_config.patch_size", vision.patch_size),
            ("qwen3vl_config.vision_config.temporal_patch_size", vision.temporal_patch_size),
            ("qwen3vl_config.vision_config.num_position_embeddings", vision.num_position_embeddings),
            ("qwen3vl_config.vision_config.intermediate_size", vision.intermediate_size),
            ("qwen3vl_config.text_config.hidden_size", text.hidden_size),
            ("qwen3vl_config.text_config.num_attention_heads", text.num_attention_heads),
            ("qwen3vl_config.text_config.head_dim", text.head_dim),
            ("qwen3vl_config.text_config.intermediate_size", text.intermediate_size),
            ("qwen3vl_config.text_config.vocab_size", text.vocab_size),
        ] {
            check_range(name, value)?;
        }
        Ok(())
    }
}
