//! `processor_config.json`: image and language settings, and per embodiment which views, joint
//! groups and time steps the policy uses.
//!
//! Source of the fields and their defaults: the official `Gr00tN1d6Processor.__init__`
//! (`gr00t/model/gr00t_n1d6/processing_gr00t_n1d6.py`) and `gr00t/data/types.py`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub(super) use crate::checkpoint::files::read_json;
use crate::checkpoint::files::{check_folder, processor_file};
use crate::{Error, Result};

/// File name inside a checkpoint folder.
pub const PROCESSOR_CONFIG: &str = "processor_config.json";
/// File name inside a checkpoint folder; optional there.
pub const EMBODIMENT_IDS: &str = "embodiment_id.json";

/// The official table from embodiment tag to projector index; it also completes `embodiment_id.json`.
const OFFICIAL_EMBODIMENT_IDS: [(&str, usize); 9] = [
    ("robocasa_panda_omron", 13),
    ("gr1", 20),
    ("behavior_r1_pro", 24),
    ("unitree_g1", 8),
    ("libero_panda", 2),
    ("oxe_google", 0),
    ("oxe_widowx", 1),
    ("oxe_droid", 16),
    ("new_embodiment", 10),
];

/// The `processor_kwargs` of `processor_config.json` that inference needs.
///
/// An absent field takes the official default; an explicit `null` stays `None`, which means
/// something else for the image sizes (see [`ProcessorConfig::crop_fraction`]).
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ProcessorConfig {
    /// Embodiment tag → its modalities. An incomplete one is left out; who asks for it is told.
    #[serde(deserialize_with = "complete")]
    pub modality_configs: BTreeMap<String, EmbodimentModalities>,
    /// What is wrong with the incomplete ones.
    #[serde(skip)]
    pub(super) incomplete: BTreeMap<String, String>,
    /// Scale absolute groups by q01/q99 instead of min/max.
    pub use_percentiles: bool,
    /// Clip min/max-normalized states to `[-1, 1]`.
    pub clip_outliers: bool,
    /// `[height, width]` of the centre crop (torchvision variant).
    pub image_crop_size: Option<Vec<usize>>,
    /// `[height, width]` after the crop (torchvision variant).
    pub image_target_size: Option<Vec<usize>>,
    /// Length in pixels of the shorter side (albumentations variant);
    /// `None` means `image_target_size[0]`.
    pub shortest_image_edge: Option<usize>,
    /// Part of each side that the centre crop keeps (albumentations variant);
    /// `None` means `image_crop_size[0] / image_target_size[0]`.
    pub crop_fraction: Option<f64>,
    /// Lower-case the instruction and remove its punctuation.
    pub formalize_language: bool,
    /// Columns of the padded state.
    pub max_state_dim: usize,
    /// Columns of the padded action.
    pub max_action_dim: usize,
    /// Rows of the padded action.
    pub max_action_horizon: usize,
    /// Whether `sin_cos_embedding_keys` take effect.
    pub apply_sincos_state_encoding: bool,
    /// Whether `RELATIVE` action groups take effect.
    pub use_relative_action: bool,
    /// Area resize and fractional crop (albumentations) instead of two resizes (torchvision).
    pub use_albumentations: bool,
    /// Whether black bars make frames square first. `None` where the file is older than the switch: the
    /// albumentations variant then has no bars, the torchvision variant always has them. An explicit `null` is
    /// `false`, as in Python.
    #[serde(deserialize_with = "null_is_false")]
    pub letter_box_transform: Option<bool>,
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        ProcessorConfig {
            modality_configs: BTreeMap::new(),
            incomplete: BTreeMap::new(),
            use_percentiles: false,
            clip_outliers: true,
            image_crop_size: None,
            image_target_size: None,
            shortest_image_edge: Some(512),
            crop_fraction: Some(0.95),
            formalize_language: true,
            max_state_dim: 29,
            max_action_dim: 29,
            max_action_horizon: 40,
            apply_sincos_state_encoding: false,
            use_relative_action: false,
            use_albumentations: false,
            letter_box_transform: None,
        }
    }
}

/// The modalities that are complete.
fn complete<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, EmbodimentModalities>, D::Error> {
    let all = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let parse = |(tag, value)| Some((tag, serde_json::from_value(value).ok()?));
    Ok(all.into_iter().filter_map(parse).collect())
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Option::<bool>::deserialize(deserializer).map(|value| Some(value.unwrap_or(false)))
}

/// What one embodiment reads and writes.
#[derive(Debug, Clone, Deserialize)]
pub struct EmbodimentModalities {
    /// Camera views.
    pub video: ModalityConfig,
    /// Joint groups of the state.
    pub state: ModalityConfig,
    /// Joint groups of the action.
    pub action: ModalityConfig,
    /// The instruction: one key, one time step.
    pub language: ModalityConfig,
}

/// Keys and time steps of one modality.
#[derive(Debug, Clone, Deserialize)]
pub struct ModalityConfig {
    /// Time steps relative to the current one, in steps of the data set.
    pub delta_indices: Vec<i64>,
    /// Names of the views or joint groups, in the model's order.
    pub modality_keys: Vec<String>,
    /// Joint groups encoded as `[sin, cos]`.
    #[serde(default)]
    pub sin_cos_embedding_keys: Option<Vec<String>>,
    /// Joint groups scaled by mean and standard deviation.
    #[serde(default)]
    pub mean_std_embedding_keys: Option<Vec<String>>,
    /// How to read each action group, in the order of `modality_keys`.
    #[serde(default)]
    pub action_configs: Option<Vec<ActionConfig>>,
}

impl ModalityConfig {
    /// Whether `key` is scaled by mean and standard deviation.
    pub(super) fn is_mean_std(&self, key: &str) -> bool {
        self.mean_std_embedding_keys.iter().flatten().any(|k| k == key)
    }

    /// Whether `key` is listed for the sin/cos encoding.
    pub(super) fn is_sin_cos(&self, key: &str) -> bool {
        self.sin_cos_embedding_keys.iter().flatten().any(|k| k == key)
    }
}

/// How one action group is represented.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ActionConfig {
    /// Relative to the current state or not.
    pub rep: ActionRepresentation,
    /// What a relative action is composed with.
    #[serde(rename = "type")]
    pub kind: ActionType,
    /// How the absolute action is written.
    pub format: ActionFormat,
    /// The state group a relative action refers to; `None` means the group of the same name.
    #[serde(default)]
    pub state_key: Option<String>,
}

/// The official `ActionRepresentation`; inference converts only `Relative`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActionRepresentation {
    /// Relative to the state at the time of the observation.
    Relative,
    /// Step to step; handed out as the model gives it, like the official code does.
    Delta,
    /// In the robot's own frame.
    Absolute,
}

/// The official `ActionType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActionType {
    /// An end effector pose: xyz and the first two rows of the rotation matrix.
    Eef,
    /// Joint positions: relative ones are added to the state.
    NonEef,
}

/// The official `ActionFormat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActionFormat {
    /// Joint values as they are.
    Default,
    /// Position and the first two rows of the rotation matrix: 9 values.
    XyzRot6d,
    /// Position and rotation vector: 6 values.
    XyzRotvec,
}

impl ProcessorConfig {
    /// Reads `processor_config.json` of a checkpoint folder, or of its subfolder `processor`.
    ///
    /// # Errors
    /// [`Error::File`] when the folder is none of a GR00T N1.6 checkpoint, or a field is missing or of the wrong
    /// type; [`Error::Io`] when the file cannot be read.
    pub fn read(checkpoint: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            processor_kwargs: ProcessorConfig,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Tags {
            modality_configs: BTreeMap<String, Value>,
        }
        #[derive(Deserialize)]
        struct Raw {
            processor_kwargs: Tags,
        }
        let path = processor_file(checkpoint, PROCESSOR_CONFIG);
        check_folder(checkpoint, &path)?;
        let mut config = read_json::<Document>(&path)?.processor_kwargs;
        let all = read_json::<Raw>(&path)?.processor_kwargs.modality_configs;
        for (tag, value) in all {
            if let Err(error) = serde_json::from_value::<EmbodimentModalities>(value) {
                config.incomplete.insert(tag, error.to_string());
            }
        }
        Ok(config)
    }

    /// The configured tag that `tag` names: a value (`gr1`) or an enum name (`GR1`), in any case.
    ///
    /// # Errors
    /// [`Error::Input`] listing the configured tags, or saying what is wrong with the one named.
    pub(super) fn resolve_tag(&self, tag: &str) -> Result<(&str, &EmbodimentModalities)> {
        // Every official enum name is its value in capitals.
        let is_it = |known: &str| known.eq_ignore_ascii_case(tag.trim());
        if let Some((known, modalities)) = self.modality_configs.iter().find(|(known, _)| is_it(known)) {
            return Ok((known.as_str(), modalities));
        }
        if let Some((known, what)) = self.incomplete.iter().find(|(known, _)| is_it(known)) {
            return Err(Error::input(format!("{PROCESSOR_CONFIG}: modality_configs.{known}"), what.as_str()));
        }
        let known: Vec<&str> = self.modality_configs.keys().map(String::as_str).collect();
        Err(Error::input(
            "embodiment_tag",
            format!("'{tag}' is not configured in this checkpoint; known: {}", known.join(", ")),
        ))
    }
}

/// The embodiment tags that a checkpoint has modality configs for, sorted.
///
/// # Errors
/// As [`ProcessorConfig::read`].
pub fn known_embodiment_tags(checkpoint: &Path) -> Result<Vec<String>> {
    Ok(ProcessorConfig::read(checkpoint)?.modality_configs.into_keys().collect())
}

/// The projector index of an embodiment: `embodiment_id.json` first, then the official table.
///
/// # Errors
/// [`Error::File`] when neither has the tag.
pub fn embodiment_id(checkpoint: &Path, tag: &str) -> Result<usize> {
    let path = processor_file(checkpoint, EMBODIMENT_IDS);
    // What stands there for other embodiments does not matter.
    let ids: BTreeMap<String, Value> = if path.exists() { read_json(&path)? } else { BTreeMap::new() };
    let official = OFFICIAL_EMBODIMENT_IDS.iter().find(|(known, _)| *known == tag).map(|(_, id)| *id);
    let own = match ids.get(tag) {
        None => None,
        Some(id) => {
            let whole = id.as_u64().and_then(|id| usize::try_from(id).ok());
            Some(whole.ok_or_else(|| Error::file(&path, format!("{tag}: expected an index, found {id}")))?)
        }
    };
    own.or(official).ok_or_else(|| {
        Error::file(&path, format!("no id for embodiment '{tag}', and the official table has none either"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kwargs: &str) -> ProcessorConfig {
        serde_json::from_str(kwargs).expect("valid config")
    }

    #[test]
    fn absent_fields_take_official_defaults_and_null_stays_none() {
        let absent = parse("{}");
        assert_eq!((absent.shortest_image_edge, absent.crop_fraction), (Some(512), Some(0.95)));
        assert!(absent.clip_outliers && absent.formalize_language && !absent.use_albumentations);
        let null = parse(r#"{"shortest_image_edge": null, "crop_fraction": null}"#);
        assert_eq!((null.shortest_image_edge, null.crop_fraction), (None, None));
    }

    #[test]
    fn letterbox_is_absent_true_or_false() {
        let letterbox = |kwargs: &str| parse(kwargs).letter_box_transform;
        assert_eq!(letterbox("{}"), None);
        assert_eq!(letterbox(r#"{"letter_box_transform": true}"#), Some(true));
        assert_eq!(letterbox(r#"{"letter_box_transform": false}"#), Some(false));
        assert_eq!(letterbox(r#"{"letter_box_transform": null}"#), Some(false));
    }

    #[test]
    fn tags_are_names_or_values_in_any_case() {
        let one = r#"{"delta_indices": [0], "modality_keys": ["a"]}"#;
        let modalities = format!(r#"{{"video": {one}, "state": {one}, "action": {one}, "language": {one}}}"#);
        let config = parse(&format!(
            r#"{{"modality_configs": {{"gr1": {modalities}, "new_embodiment": {modalities}}}}}"#
        ));
        for tag in ["gr1", "GR1", " Gr1 "] {
            assert_eq!(config.resolve_tag(tag).expect("known").0, "gr1");
        }
        assert_eq!(config.resolve_tag("NEW_EMBODIMENT").expect("known").0, "new_embodiment");
        let error = config.resolve_tag("gr2").expect_err("unknown").to_string();
        assert!(error.contains("gr2") && error.contains("gr1, new_embodiment"), "{error}");
    }

    #[test]
    fn action_configs_read_the_enum_names_that_the_official_code_writes() {
        let text = r#"{"rep": "RELATIVE", "type": "NON_EEF", "format": "XYZ_ROT6D", "state_key": "arm"}"#;
        let config: ActionConfig = serde_json::from_str(text).expect("valid");
        assert_eq!(config.rep, ActionRepresentation::Relative);
        assert_eq!((config.kind, config.format), (ActionType::NonEef, ActionFormat::XyzRot6d));
        assert_eq!(config.state_key.as_deref(), Some("arm"));
        let format: ActionFormat = serde_json::from_str(r#""XYZ_ROTVEC""#).expect("valid");
        assert_eq!(format, ActionFormat::XyzRotvec);
    }
}
