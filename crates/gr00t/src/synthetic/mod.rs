//! Models and processors without files, for measuring: the sizes are real, the numbers random.

mod made;

pub use made::{Shapes, Synthetic};

use crate::config::{Config, EagleConfig, SelfAttentionConfig};
use crate::version::Version;
use crate::{Error, Result};

/// What stands before a size's name where a checkpoint folder is expected.
const PREFIX: &str = "synth:";
/// What gives sizes.
type Sizes = fn() -> Config;

/// Sizes that have a name.
const NAMES: [(&str, Sizes); 4] = [("n1.6", n1_6), ("n1.7", n1_7), ("tiny", tiny), ("tiny-n1.7", tiny_n1_7)];

/// The sizes that `synth:n1.6`, say, names; `None` for text without `synth:`, a folder's name.
///
/// # Errors
/// An unknown name after `synth:`.
pub fn config(checkpoint: &str) -> Result<Option<Config>> {
    let Some(name) = checkpoint.strip_prefix(PREFIX) else { return Ok(None) };
    let sizes = NAMES.iter().find(|(known, _)| *known == name);
    sizes.map(|(_, sizes)| Some(sizes())).ok_or_else(|| {
        let names = NAMES.map(|(name, _)| format!("{PREFIX}{name}")).join(", ");
        Error::input("checkpoint", format!("expected a folder or one of {names}, found `{PREFIX}{name}`"))
    })
}

/// What random weights are told apart by, in place of a checkpoint's fingerprint: their sizes' name and their seed.
pub fn fingerprint(checkpoint: &str, seed: u64) -> String {
    format!("{checkpoint} of seed {seed}")
}

/// The published model: 2.96 billion parameters in use, 50 action steps, states and actions of 128 values.
pub fn n1_6() -> Config {
    Config {
        action_horizon: 50,
        max_state_dim: 128,
        max_action_dim: 128,
        max_num_embodiments: 32,
        ..Config::default()
    }
}

/// The published model: 3.14 billion parameters, 40 action steps, states and actions of 132 values.
pub fn n1_7() -> Config {
    Config {
        version: Version::N1_7,
        action_horizon: 40,
        max_state_dim: 132,
        max_action_dim: 132,
        max_num_embodiments: 32,
        state_history_length: Some(1),
        vl_self_attention_cfg: Some(SelfAttentionConfig::default()),
        ..Config::default()
    }
}

/// N1.6's architecture with every part small enough for a test: 2 vision layers, 2 language layers, 4 blocks.
pub fn tiny() -> Config {
    let mut config = Config {
        backbone_embedding_dim: 64,
        select_layer: 2,
        hidden_size: 32,
        input_embedding_dim: 48,
        max_seq_len: 64,
        max_num_embodiments: 4,
        ..n1_6()
    };
    let dit = &mut config.diffusion_model_cfg;
    (dit.num_layers, dit.num_attention_heads, dit.attention_head_dim, dit.output_dim) = (4, 4, 12, 32);
    config.eagle_config.image_token_index = 500;
    let vision = &mut config.eagle_config.vision_config;
    (vision.hidden_size, vision.num_attention_heads) = (32, 2);
    (vision.intermediate_size, vision.num_hidden_layers) = (64, 2);
    let text = &mut config.eagle_config.text_config;
    (text.vocab_size, text.hidden_size, text.intermediate_size) = (512, 64, 96);
    (text.num_attention_heads, text.num_key_value_heads, text.head_dim) = (4, 2, 16);
    config
}

/// N1.7's architecture with every part small enough for a test: 4 vision layers, 4 language layers, 4 blocks, 2 blocks of
/// self-attention over the features.
pub fn tiny_n1_7() -> Config {
    let small = tiny();
    let mut config = Config { select_layer: 4, eagle_config: EagleConfig::default(), ..small.clone() };
    config.version = Version::N1_7;
    config.state_history_length = Some(1);
    config.vl_self_attention_cfg = Some(SelfAttentionConfig {
        num_layers: 2,
        num_attention_heads: 4,
        attention_head_dim: 16,
        ..SelfAttentionConfig::default()
    });
    (config.action_horizon, config.max_state_dim, config.max_action_dim) = (40, 132, 132);
    config.qwen3vl_config.image_token_id = small.image_token();
    let vision = &mut config.qwen3vl_config.vision_config;
    (vision.depth, vision.hidden_size, vision.num_heads) = (4, 32, 2);
    (vision.intermediate_size, vision.out_hidden_size) = (64, 64);
    vision.deepstack_visual_indexes = vec![0, 1, 2];
    let text = &mut config.qwen3vl_config.text_config;
    (text.vocab_size, text.hidden_size, text.intermediate_size) = (512, 64, 96);
    (text.num_attention_heads, text.num_key_value_heads, text.head_dim) = (4, 2, 16);
    text.rope_scaling.mrope_section = [4, 2, 2];
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn sizes_are_found_by_name() {
        let horizon = |name| config(name).expect("a known name").map(|config| config.action_horizon);
        assert_eq!(
            (horizon("synth:n1.6"), horizon("synth:n1.7"), horizon("synth:tiny"), horizon("n1.6")),
            (Some(50), Some(40), Some(50), None)
        );
        let error = config("synth:n2").expect_err("unknown").to_string();
        assert!(
            error.contains("synth:n1.6, synth:n1.7, synth:tiny, synth:tiny-n1.7, found `synth:n2`"),
            "{error}"
        );
    }

    #[test]
    fn sizes_fit_each_other() {
        for config in [n1_6(), n1_7(), tiny(), tiny_n1_7()] {
            config.check().expect("consistent");
        }
        let wrong = Config { hidden_size: 7, ..tiny() };
        let error = Model::synthetic(wrong, 0).expect_err("refused").to_string();
        assert!(error.starts_with("config: hidden_size"), "{error}");
    }
}
