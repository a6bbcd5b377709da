//! Sizes of N1.6's vision-language backbone, Eagle-Block2A-2B-v2: SigLIP2 and Qwen3.

use super::backbone::{Backbone, Text, Vision};
use super::{check_divides, check_layers, check_range, check_square, require};
use crate::ops::Heads;
use serde::Deserialize;

/// Sizes of the vision-language backbone.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct EagleConfig {
    /// The token id that stands for one image feature.
    pub image_token_index: u32,
    /// 0.5: every 2x2 patches become one image token.
    pub downsample_ratio: f64,
    /// SigLIP2.
    pub vision_config: VisionConfig,
    /// Qwen3.
    pub text_config: TextConfig,
}

/// Sizes of the SigLIP2 vision tower.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct VisionConfig {
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_channels: usize,
    pub patch_size: usize,
    pub num_patches: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: String,
    pub use_rope: bool,
    pub use_windows_attn: bool,
}

/// Sizes of the Qwen3 language model.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // the fields are the published config's own
pub struct TextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
}

impl Default for EagleConfig {
    fn default() -> Self {
        EagleConfig {
            image_token_index: 151_669,
            downsample_ratio: 0.5,
            vision_config: VisionConfig::default(),
            text_config: TextConfig::default(),
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 1152,
            num_attention_heads: 16,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_channels: 3,
            patch_size: 14,
            num_patches: 256,
            layer_norm_eps: 1e-6,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            use_rope: false,
            use_windows_attn: false,
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 151_680,
            hidden_size: 2048,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            intermediate_size: 6144,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
        }
    }
}

impl EagleConfig {
    pub(super) fn backbone(&self) -> Backbone {
        let (vision, text) = (&self.vision_config, &self.text_config);
        let heads = vision.num_attention_heads;
        Backbone {
            image_token: self.image_token_index,
            vision: Vision {
                hidden_size: vision.hidden_size,
                layers: vision.num_hidden_layers,
                heads: Heads { heads, kv_heads: heads, head_dim: vision.hidden_size / heads.max(1) },
                intermediate_size: vision.intermediate_size,
                patch_size: vision.patch_size,
                frames: 1,
                positions: vision.num_patches,
                eps: vision.layer_norm_eps,
                merge: (1.0 / self.downsample_ratio) as usize,
                deepstack: Vec::new(),
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
                rope_sections: None,
            },
        }
    }

    /// Whether this is Eagle as the model's code has it; says which field is wrong otherwise.
    pub(super) fn check(&self) -> Result<(), String> {
        let vision = &self.vision_config;
        require(
            !vision.use_rope && !vision.use_windows_attn && vision.hidden_act == "gelu_pytorch_tanh",
            || {
                "eagle_config.vision_config: expected use_rope false, use_windows_attn false and hidden_act \
                 `gelu_pytorch_tanh`"
                    .to_owned()
            },
        )?;
        require(self.downsample_ratio == 0.5, || {
            format!("eagle_config.downsample_ratio: expected 0.5, found {}", self.downsample_ratio)
        })?;
        require(vision.num_channels == 3, || {
            format!("vision_config.num_channels: expected 3, found {}", vision.num_channels)
        })?;
        let text = &self.text_config;
        for (name, whole, part) in [
            ("vision_config.num_attention_heads", vision.hidden_size, vision.num_attention_heads),
            ("text_config.num_key_value_heads", text.num_attention_heads, text.num_key_value_heads),
            ("text_config.head_dim", text.head_dim, 2),
        ] {
            check_divides(name, whole, part)?;
        }
        check_square("vision_config.num_patches", vision.num_patches)?;
        check_layers("vision_config.num_hidden_layers", vision.num_hidden_layers)?;
        for (name, value) in [
            ("vision_config.hidden_size", vision.hidden_size),
            ("vision_config.patch_size", vision.patch_size),
            ("vision_config.num_patches", vision.num_patches),
            ("vision_config.intermediate_size", vision.intermediate_size),
            ("text_config.num_attention_heads", text.num_attention_heads),
            ("text_config.head_dim", text.head_dim),
            ("text_config.intermediate_size", text.intermediate_size),
            ("text_config.vocab_size", text.vocab_size),
        ] {
            check_range(name, value)?;
        }
        Ok(())
    }
}
