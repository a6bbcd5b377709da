//! Sizes of the vision-language backbone, Eagle-Block2A-2B-v2: SigLIP2 and Qwen3.

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

impl VisionConfig {
    /// Heads of every layer.
    pub fn heads(&self) -> Heads {
        let heads = self.num_attention_heads;
        Heads { heads, kv_heads: heads, head_dim: self.hidden_size / heads }
    }
}

impl TextConfig {
    /// Heads of every layer.
    pub fn heads(&self) -> Heads {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        Heads { heads, kv_heads, head_dim: self.head_dim }
    }
}

impl EagleConfig {
    /// How many patches in each direction become one image token: `1 / downsample_ratio`.
    pub fn unshuffle(&self) -> usize {
        (1.0 / self.downsample_ratio) as usize
    }
}
