//! `config.json` of a checkpoint: the sizes of every part of the model.
//!
//! Source: `gr00t/configs/model/gr00t_n1d6.py` and `gr00t_n1d7.py`, and the `config.json` of the backbones
//! (Eagle-Block2A-2B-v2, Cosmos-Reason2-2B), whose values stand in for the vision and language sizes that published
//! checkpoints leave out.

mod backbone;
mod eagle;
mod n1_7;
mod qwen3vl;

pub use backbone::{Backbone, Text, Vision};
pub use eagle::EagleConfig;
pub use n1_7::SelfAttentionConfig;
pub use qwen3vl::Qwen3VlConfig;

use crate::checkpoint::files;
use crate::ops::Heads;
use crate::{Error, Result, Version};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;
use steadyhand_files::json;

/// Layers beyond this are a damaged file; the missing tensors of all of them would be listed one by one.
const MAX_LAYERS: usize = 1000;
/// Widths, heads, slots and steps beyond this are a damaged file. Products of three of them still fit a size.
const MAX_SIZE: usize = 1 << 20;

/// Sizes and switches of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The version of the model.
    #[serde(rename = "model_type")]
    pub version: Version,
    /// Width of the features that the backbone hands to the action head.
    pub backbone_embedding_dim: usize,
    /// How many language layers are kept.
    pub select_layer: usize,
    /// Whether cross-attention alternates between text and image tokens.
    pub use_alternate_vl_dit: bool,
    /// Every how many cross-attention blocks the text tokens are attended to.
    pub attend_text_every_n_blocks: usize,
    /// Whether a learned position embedding is added to the action features.
    pub add_pos_embed: bool,
    /// Whether the backbone features pass a LayerNorm before the action head.
    pub use_vlln: bool,
    /// The flow-matching time in [0, 1) is multiplied by this and truncated.
    pub num_timestep_buckets: usize,
    /// Euler steps of an inference, unless the caller says otherwise.
    pub num_inference_timesteps: usize,
    /// Width of the zero-padded state vector.
    pub max_state_dim: usize,
    /// Width of the zero-padded action vector.
    pub max_action_dim: usize,
    /// Action steps that one inference predicts.
    pub action_horizon: usize,
    /// Hidden width of the state encoder and action decoder.
    pub hidden_size: usize,
    /// Width of the state and action tokens that enter the DiT.
    pub input_embedding_dim: usize,
    /// Embodiment slots of the category-specific weights.
    pub max_num_embodiments: usize,
    /// Rows of the action position table.
    pub max_seq_len: usize,
    /// The diffusion transformer.
    pub diffusion_model_cfg: DitConfig,
    /// State rows that become one state token; N1.7. Without it every row is a token of its own.
    pub state_history_length: Option<usize>,
    /// Self-attention over the backbone features before the DiT; N1.7, where there is any.
    pub vl_self_attention_cfg: Option<SelfAttentionConfig>,
    /// N1.6's vision and language sizes; Eagle-Block2A-2B-v2 where absent.
    pub eagle_config: EagleConfig,
    /// N1.7's vision and language sizes; Cosmos-Reason2-2B where absent.
    pub qwen3vl_config: Qwen3VlConfig,
}

/// Sizes of the diffusion transformer.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DitConfig {
    /// Transformer blocks.
    pub num_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of one head; `num_attention_heads * attention_head_dim` is the DiT's width.
    pub attention_head_dim: usize,
    /// Width of the DiT's output tokens.
    pub output_dim: usize,
    /// Must be `ada_norm`.
    pub norm_type: String,
    /// Whether odd blocks attend to themselves instead of the backbone features.
    pub interleave_self_attention: bool,
    /// Must be null: positions are added in the action head.
    pub positional_embeddings: Option<String>,
}

/// What the keys and values of a block of the DiT come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attends {
    /// Its own state and action tokens.
    Itself,
    /// The text tokens of the backbone features.
    Text,
    /// The image tokens of the backbone features.
    Images,
    /// All backbone features: a DiT that does not alternate.
    Everything,
}

impl Attends {
    /// One word for it: `self`, `text`, `images` or `all`.
    pub fn name(self) -> &'static str {
        match self {
            Attends::Itself => "self",
            Attends::Text => "text",
            Attends::Images => "images",
            Attends::Everything => "all",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            version: Version::N1_6,
            backbone_embedding_dim: 2048,
            select_layer: 16,
            use_alternate_vl_dit: true,
            attend_text_every_n_blocks: 2,
            add_pos_embed: true,
            use_vlln: true,
            num_timestep_buckets: 1000,
            num_inference_timesteps: 4,
            max_state_dim: 29,
            max_action_dim: 29,
            action_horizon: 16,
            hidden_size: 1024,
            input_embedding_dim: 1536,
            max_num_embodiments: 32,
            max_seq_len: 1024,
            diffusion_model_cfg: DitConfig::default(),
            state_history_length: None,
            vl_self_attention_cfg: None,
            eagle_config: EagleConfig::default(),
            qwen3vl_config: Qwen3VlConfig::default(),
        }
    }
}

impl Default for DitConfig {
    fn default() -> Self {
        DitConfig {
            num_layers: 32,
            num_attention_heads: 32,
            attention_head_dim: 48,
            output_dim: 1024,
            norm_type: "ada_norm".to_owned(),
            interleave_self_attention: true,
            positional_embeddings: None,
        }
    }
}

impl DitConfig {
    /// Width of the DiT's tokens.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.attention_head_dim)
    }

    /// Heads of every block.
    pub fn heads(&self) -> Heads {
        let heads = self.num_attention_heads;
        Heads { heads, kv_heads: heads, head_dim: self.attention_head_dim }
    }
}

impl Config {
    /// Reads `folder/config.json`.
    ///
    /// # Errors
    /// The file is missing or not JSON, a field has another type, or the file asks for a variant
    /// of the model that is not a version of GR00T as published (named with the field).
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(files::CONFIG);
        files::check_folder(folder, &path)?;
        let text = files::read(&path)?;
        let config: Config =
            json::from_slice(&text).map_err(|error| Error::file(&path, misfit(&text, &error)))?;
        let document: Value =
            json::from_slice(&text).map_err(|error| Error::file(&path, json::why(&text, &error)))?;
        if document.get("model_type").is_none() {
            let what = format!(
                "model_type: expected {}, found none; is this the config.json of the whole policy?",
                Version::expected()
            );
            return Err(Error::file(&path, what));
        }
        if config.version == Version::N1_7 {
            n1_7::check_document(&document).map_err(|what| Error::file(&path, what))?;
        }
        config.check().map_err(|what| Error::file(&path, what))?;
        Ok(config)
    }

    /// What a block of the DiT attends to. Source: `AlternateVLDiT.forward` and `DiT.forward`.
    pub fn attends(&self, block: usize) -> Attends {
        if block % 2 == 1 && self.diffusion_model_cfg.interleave_self_attention {
            Attends::Itself
        } else if !self.use_alternate_vl_dit {
            Attends::Everything
        } else if block.is_multiple_of(2 * self.attend_text_every_n_blocks) {
            Attends::Text
        } else {
            Attends::Images
        }
    }

    /// The vision-language backbone.
    pub fn backbone(&self) -> Backbone {
        match self.version {
            Version::N1_6 => self.eagle_config.backbone(),
            Version::N1_7 => self.qwen3vl_config.backbone(),
        }
    }

    /// The id of the token that stands for one image feature.
    pub fn image_token(&self) -> u32 {
        match self.version {
            Version::N1_6 => self.eagle_config.image_token_index,
            Version::N1_7 => self.qwen3vl_config.image_token_id,
        }
    }

    /// Rows of the table of token embeddings.
    pub fn vocab_size(&self) -> usize {
        self.backbone().text.vocab_size
    }

    /// Pixels of a side of the square that becomes one image token.
    pub fn image_token_side(&self) -> usize {
        let vision = self.backbone().vision;
        vision.patch_size * vision.merge
    }

    /// Image tokens of images of these heights and widths.
    pub fn image_tokens(&self, images: &[[usize; 2]]) -> usize {
        let side = self.image_token_side();
        let tokens = |[height, width]: &[usize; 2]| (height / side).saturating_mul(width / side);
        images.iter().map(tokens).fold(0, usize::saturating_add)
    }

    /// State rows of one observation, where the model takes one number of them only.
    pub fn state_rows(&self) -> Option<usize> {
        self.state_history_length
    }

    /// State tokens of so many state rows, and values of one.
    pub fn state_shape(&self, rows: usize) -> [usize; 2] {
        match self.state_history_length {
            Some(_) => [1, rows * self.max_state_dim],
            None => [rows, self.max_state_dim],
        }
    }

    /// Whether the sizes fit each other and are those of a version as published; says which field is wrong otherwise.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        match self.version {
            Version::N1_6 => self.eagle_config.check()?,
            Version::N1_7 => {
                self.qwen3vl_config.check()?;
                n1_7::check(self)?;
            }
        }
        let dit = &self.diffusion_model_cfg;
        require(dit.norm_type == "ada_norm", || {
            format!("diffusion_model_cfg.norm_type: expected `ada_norm`, found `{}`", dit.norm_type)
        })?;
        require(dit.positional_embeddings.is_none(), || {
            format!(
                "diffusion_model_cfg.positional_embeddings: expected null, found {:?}",
                dit.positional_embeddings
            )
        })?;
        require(dit.interleave_self_attention || !self.use_alternate_vl_dit, || {
            "diffusion_model_cfg.interleave_self_attention: must be true with use_alternate_vl_dit".to_owned()
        })?;
        require(self.attend_text_every_n_blocks > 0, || {
            "attend_text_every_n_blocks: expected at least 1, found 0".to_owned()
        })?;
        require(self.input_embedding_dim == dit.inner_dim(), || {
            format!(
                "input_embedding_dim: expected num_attention_heads * attention_head_dim = {}, found {}",
                dit.inner_dim(),
                self.input_embedding_dim
            )
        })?;
        require(self.hidden_size == dit.output_dim, || {
            format!(
                "hidden_size: expected diffusion_model_cfg.output_dim = {}, found {}",
                dit.output_dim, self.hidden_size
            )
        })?;
        let text = self.backbone().text;
        require(self.backbone_embedding_dim == text.hidden_size, || {
            format!(
                "backbone_embedding_dim: expected text_config.hidden_size = {}, found {}",
                text.hidden_size, self.backbone_embedding_dim
            )
        })?;
        require(self.action_horizon <= self.max_seq_len || !self.add_pos_embed, || {
            format!(
                "action_horizon: expected at most max_seq_len = {}, found {}",
                self.max_seq_len, self.action_horizon
            )
        })?;
        check_divides("input_embedding_dim", self.input_embedding_dim, 2)?;
        check_layers("select_layer", self.select_layer)?;
        check_layers("diffusion_model_cfg.num_layers", dit.num_layers)?;
        for (name, value) in [
            ("num_timestep_buckets", self.num_timestep_buckets),
            ("action_horizon", self.action_horizon),
            ("max_num_embodiments", self.max_num_embodiments),
            ("max_state_dim", self.max_state_dim),
            ("max_action_dim", self.max_action_dim),
            ("hidden_size", self.hidden_size),
            ("backbone_embedding_dim", self.backbone_embedding_dim),
            ("max_seq_len", self.max_seq_len),
            ("diffusion_model_cfg.num_attention_heads", dit.num_attention_heads),
            ("diffusion_model_cfg.attention_head_dim", dit.attention_head_dim),
        ] {
            check_range(name, value)?;
        }
        let steps = self.num_inference_timesteps;
        require((1..=self.num_timestep_buckets).contains(&steps), || {
            format!(
                "num_inference_timesteps: expected 1 to num_timestep_buckets = {}, found {steps}",
                self.num_timestep_buckets
            )
        })
    }
}

/// What is wrong, where something does not hold.
type Checked = std::result::Result<(), String>;

fn require(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

fn check_range(name: &str, value: usize) -> Checked {
    require((1..=MAX_SIZE).contains(&value), || format!("{name}: expected 1 to {MAX_SIZE}, found {value}"))
}

fn check_layers(name: &str, layers: usize) -> Checked {
    require(layers <= MAX_LAYERS, || format!("{name}: expected at most {MAX_LAYERS}, found {layers}"))
}

fn check_divides(name: &str, whole: usize, part: usize) -> Checked {
    require(part > 0 && whole > 0 && whole.is_multiple_of(part), || {
        format!("{name}: expected a divisor of {whole}, found {part}")
    })
}

fn check_square(name: &str, value: usize) -> Checked {
    let side = value.isqrt();
    require(side > 0 && side * side == value, || format!("{name}: expected a square number, found {value}"))
}

/// What to say of a text that is no [`Config`]: the first field that does not fit, where it is JSON at all.
fn misfit(text: &[u8], error: &serde_json::Error) -> String {
    let fields = json::from_slice(text).ok().and_then(|value: Value| misfitting_field(&value, &[]));
    let Some((field, what)) = fields else { return json::why(text, error) };
    let found = what.strip_prefix("invalid type: ").or(what.strip_prefix("invalid value: "));
    let what = match found.and_then(|what| what.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("expected {expected}, found {found}"),
        None => what,
    };
    format!("{field}: {what}, at line {} column {}", error.line(), error.column())
}

/// The path of the first field of `value`, which stands at the path `above`, that by itself makes no [`Config`], and
/// serde's reason. Every field has a default, so one can be tried without the others.
fn misfitting_field(value: &Value, above: &[&str]) -> Option<(String, String)> {
    value.as_object()?.iter().find_map(|(name, value)| {
        let path = [above, &[name]].concat();
        let alone = |value| {
            let nested = path
                .iter()
                .rev()
                .fold(value, |inner, name| Map::from_iter([((*name).to_owned(), inner)]).into());
            serde_json::from_value::<Config>(nested)
        };
        let error = alone(value.clone()).err()?;
        // Where not even an object without fields fits, it is not one of its fields that is wrong.
        let deeper = alone(Map::new().into()).ok().and_then(|_| misfitting_field(value, &path));
        deeper.or_else(|| Some((path.join("."), error.to_string())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_another_type_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (text, expected) in [
            (
                "{\"select_layer\": \"many\"}",
                "select_layer: expected usize, found string \"many\", at line 1 column 23",
            ),
            (
                "{\"select_layer\": 3,\n \"eagle_config\": {\"vision_config\": {\"hidden_size\": -4}}}",
                "eagle_config.vision_config.hidden_size: expected usize, found integer `-4`, at line 2",
            ),
            ("{\"use_vlln\": {\"a\": 1}}", "use_vlln: expected a boolean, found map"),
            (
                "{\"diffusion_model_cfg\": 7}",
                "diffusion_model_cfg: expected struct DitConfig, found integer `7`",
            ),
            (
                "{\"eagle_config\": {\"text_config\": {\"rope_theta\": null}}}",
                "text_config.rope_theta: expected f64",
            ),
            ("[1, 2]", "column"),
            ("{\"select_layer\": 3", "EOF while parsing"),
        ] {
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            let error = Config::load(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("config.json: ") && error.contains(expected),
                "no {expected:?} in {error}"
            );
        }
    }

    #[test]
    fn other_models_and_silly_sizes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |text: &str| {
            std::fs::write(folder.path().join("config.json"), text).unwrap();
            Config::load(folder.path()).unwrap_err().to_string()
        };
        for (text, expected) in [
            (r#"{"select_layer": 3}"#, "model_type: expected `Gr00tN1d6` or `Gr00tN1d7`, found none"),
            (r#"{"model_type": "Gr00tN1d7"}"#, "action_horizon: missing"),
            (r#"{"model_type": "Gr00tN2"}"#, "expected `Gr00tN1d6` or `Gr00tN1d7`, found string \"Gr00tN2\""),
            (r#"{"type": "groot", "base_model_path": "x"}"#, "LeRobot's own format (type `groot`)"),
            (r#"{"model_type": "Gr00tN1d6", "model_type": "Gr00tN1d6"}"#, "stands twice"),
            (r#"{"model_type": "Gr00tN1d6", "num_inference_timesteps": 1000000}"#, "num_inference_timesteps"),
            (r#"{"model_type": "Gr00tN1d6", "max_num_embodiments": 99999999999}"#, "max_num_embodiments"),
            (
                r#"{"model_type": "Gr00tN1d6", "diffusion_model_cfg":
                    {"num_attention_heads": 9223372036854775807, "attention_head_dim": 4}}"#,
                "input_embedding_dim",
            ),
        ] {
            assert!(refused(text).contains(expected), "{text}: {}", refused(text));
        }
        // What Python wrote as a decimal is a number all the same.
        std::fs::write(
            folder.path().join("config.json"),
            r#"{"model_type": "Gr00tN1d6", "select_layer": 3.0}"#,
        )
        .unwrap();
        assert_eq!(Config::load(folder.path()).unwrap().select_layer, 3);
    }
}
