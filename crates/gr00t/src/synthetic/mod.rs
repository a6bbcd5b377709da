//! Models and processors without files, for measuring: the sizes are real, the numbers random.

mod made;

pub use made::{Shapes, Synthetic};

use crate::config::Config;
use crate::{Error, Result};

/// What stands before a size's name where a checkpoint folder is expected.
const PREFIX: &str = "synth:";
/// Sizes that have a name.
const NAMES: [&str; 2] = ["n1.6", "tiny"];

/// The sizes that `synth:n1.6` or `synth:tiny` names; `None` for text without `synth:`, a folder's name.
///
/// # Errors
/// An unknown name after `synth:`.
pub fn config(checkpoint: &str) -> Result<Option<Config>> {
    match checkpoint.strip_prefix(PREFIX) {
        None => Ok(None),
        Some("n1.6") => Ok(Some(n1_6())),
        Some("tiny") => Ok(Some(tiny())),
        Some(other) => {
            let names = NAMES.map(|name| format!("{PREFIX}{name}")).join(" or ");
            Err(Error::input("checkpoint", format!("expected a folder, {names}, found `{PREFIX}{other}`")))
        }
    }
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

/// The same architecture with every part small enough for a test: 2 vision layers, 2 language layers, 4 blocks.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn sizes_are_found_by_name() {
        let horizon = |name| config(name).expect("a known name").map(|config| config.action_horizon);
        assert_eq!(
            (horizon("synth:n1.6"), horizon("synth:tiny"), horizon("n1.6")),
            (Some(50), Some(50), None)
        );
        let error = config("synth:n2").expect_err("unknown").to_string();
        assert!(error.contains("synth:n1.6 or synth:tiny, found `synth:n2`"), "{error}");
    }

    #[test]
    fn sizes_fit_each_other() {
        for config in [n1_6(), tiny()] {
            config.check().expect("consistent");
        }
        let wrong = Config { hidden_size: 7, ..tiny() };
        let error = Model::synthetic(wrong, 0).expect_err("refused").to_string();
        assert!(error.starts_with("config: hidden_size"), "{error}");
    }
}
