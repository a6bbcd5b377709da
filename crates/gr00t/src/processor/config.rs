//! `processor_config.json`: image and language settings, and per embodiment which views, joint
//! groups and time steps the policy uses.
//!
//! Source of the fields and their defaults: the constructors of the official `Gr00tN1d6Processor` and
//! `Gr00tN1d7Processor` (`processing_gr00t_n1d6.py`, `processing_gr00t_n1d7.py`) and `gr00t/data/types.py`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::embodiments::tag_of_name;
pub(super) use crate::checkpoint::files::read_json;
use crate::checkpoint::files::{check_folder, processor_file};
use crate::{Error, Result, Version};

/// File name inside a checkpoint folder.
pub const PROCESSOR_CONFIG: &str = "processor_config.json";

/// Keys of `processor_kwargs` that do not touch inference. Any other key that is not read is refused, as the official
/// constructors do.
const NOT_OF_INFERENCE: [&str; 13] = [
    // Augmentation during training.
    "random_rotation_angle",
    "color_jitter_params",
    "extra_augmentation_config",
    "state_dropout_prob",
    // Stored, never read.
    "use_mean_std",
    // Which tokenizer and image processor are downloaded, and how: those of the version.
    "model_name",
    "model_type",
    "transformers_loading_kwargs",
    // Replaced by files when a processor is loaded.
    "statistics",
    "embodiment_id_mapping",
    // Described where `use_tactile` is on, which is refused.
    "tactile_state_keys",
    "tactile_input_shape",
    "tactile_embed_dim",
];

/// The `processor_kwargs` of `processor_config.json` that inference needs.
///
/// An absent field takes the official default of the version; an explicit `null` stays `None`, which means
/// something else for the image sizes (see [`ProcessorConfig::crop_fraction`]).
#[derive(Debug, Clone)]
pub struct ProcessorConfig {
    /// Whose processor it is: `processor_class`.
    pub version: Version,
    /// Embodiment tag → its modalities. An incomplete one is left out; who asks for it is told.
    pub modality_configs: BTreeMap<String, EmbodimentModalities>,
    /// What is wrong with the incomplete ones.
    pub(super) incomplete: BTreeMap<String, String>,
    /// Scale absolute groups by q01/q99 instead of min/max.
    pub use_percentiles: bool,
    /// Clip min/max-normalized states, and actions normalized for real-time chunking, to `[-1, 1]`.
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
    /// Whether the model is given zeros in place of the state.
    pub exclude_state: bool,
    /// Area resize and fractional crop (albumentations) instead of two resizes (torchvision).
    pub use_albumentations: bool,
    /// Whether black bars make frames square first. `None` where a file of N1.6 is older than the switch: the
    /// albumentations variant then has no bars, the torchvision variant always has them. An explicit `null` is
    /// `false`, as in Python.
    pub letter_box_transform: Option<bool>,
}

/// `processor_kwargs` that were not read yet.
struct Kwargs(Map<String, Value>);

impl Kwargs {
    /// The value of a key, if it is there, replaces a default.
    fn read<T: DeserializeOwned>(&mut self, key: &str, value: &mut T) -> Result<(), String> {
        if let Some(found) = self.0.remove(key) {
            *value =
                serde_json::from_value(found).map_err(|error| format!("processor_kwargs.{key}: {error}"))?;
        }
        Ok(())
    }

    /// A switch that is off where it is `null`, as in Python.
    fn read_switch(&mut self, key: &str, value: &mut Option<bool>) -> Result<(), String> {
        if self.0.contains_key(key) {
            let mut switch = None::<bool>;
            self.read(key, &mut switch)?;
            *value = Some(switch.unwrap_or(false));
        }
        Ok(())
    }

    /// Whether everything was read that inference may depend on.
    fn finish(mut self) -> Result<(), String> {
        let mut tactile = None;
        self.read_switch("use_tactile", &mut tactile)?;
        if tactile == Some(true) {
            return Err(
                "processor_kwargs.use_tactile: expected false, since tactile inputs are not supported, \
                        found true"
                    .to_owned(),
            );
        }
        match self.0.keys().find(|key| !NOT_OF_INFERENCE.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(format!(
                "processor_kwargs.{key}: expected none of this name, since it may change results in a way that is \
                 not known here, found {}",
                self.0[key]
            )),
        }
    }
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
#[serde(deny_unknown_fields)]
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
    /// Whether the model is given zeros in place of these groups; only of the state.
    #[serde(default, deserialize_with = "null_is_false")]
    pub exclude_state: bool,
}

fn null_is_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or(false))
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
    /// An end effector pose: relative ones are composed with the state's.
    Eef,
    /// Joint positions: relative ones are added to the state.
    NonEef,
}

/// The official `ActionFormat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActionFormat {
    /// Joint values as they are; for an end effector a row-major 4 x 4 matrix: 16 values.
    Default,
    /// Position and the first two rows of the rotation matrix: 9 values.
    XyzRot6d,
    /// Position and rotation vector: 6 values.
    XyzRotvec,
}

impl ProcessorConfig {
    /// What the official constructor of a version takes where nothing is said.
    pub fn defaults(version: Version) -> Self {
        let (shortest_image_edge, max_action_horizon, letter_box_transform) = match version {
            Version::N1_6 => (512, 40, None),
            Version::N1_7 => (256, 50, Some(false)),
        };
        ProcessorConfig {
            version,
            modality_configs: BTreeMap::new(),
            incomplete: BTreeMap::new(),
            use_percentiles: false,
            clip_outliers: true,
            image_crop_size: None,
            image_target_size: None,
            shortest_image_edge: Some(shortest_image_edge),
            crop_fraction: Some(0.95),
            formalize_language: true,
            max_state_dim: 29,
            max_action_dim: 29,
            max_action_horizon,
            apply_sincos_state_encoding: false,
            use_relative_action: false,
            exclude_state: false,
            use_albumentations: false,
            letter_box_transform,
        }
    }

    /// Reads `processor_config.json` of a checkpoint folder, or of its subfolder `processor`.
    ///
    /// # Errors
    /// [`Error::File`] when the folder is none of a GR00T checkpoint, `processor_class` is of no known version, or a
    /// field is missing, of the wrong type or unknown; [`Error::Io`] when the file cannot be read.
    pub fn read(checkpoint: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            processor_class: Value,
            processor_kwargs: Map<String, Value>,
        }
        let path = processor_file(checkpoint, PROCESSOR_CONFIG);
        check_folder(checkpoint, &path)?;
        let Document { processor_class, processor_kwargs } = read_json(&path)?;
        let of_class = |version: &Version| processor_class.as_str() == Some(version.processor_class());
        let Some(version) = Version::ALL.into_iter().find(of_class) else {
            let known = Version::ALL.map(Version::processor_class).join(" or ");
            let found = match processor_class {
                Value::Null => "none".to_owned(),
                other => other.to_string(),
            };
            return Err(Error::file(path, format!("processor_class: expected {known}, found {found}")));
        };
        let mut config = ProcessorConfig::defaults(version);
        config.update(processor_kwargs).map_err(|what| Error::file(path, what))?;
        Ok(config)
    }

    /// Takes the values of a file's `processor_kwargs`.
    fn update(&mut self, kwargs: Map<String, Value>) -> Result<(), String> {
        let mut kwargs = Kwargs(kwargs);
        let mut modalities = Map::new();
        kwargs.read("modality_configs", &mut modalities)?;
        for (tag, value) in modalities {
            match serde_json::from_value(value) {
                Ok(complete) => drop(self.modality_configs.insert(tag, complete)),
                Err(error) => drop(self.incomplete.insert(tag, error.to_string())),
            }
        }
        kwargs.read("use_percentiles", &mut self.use_percentiles)?;
        kwargs.read("clip_outliers", &mut self.clip_outliers)?;
        kwargs.read("image_crop_size", &mut self.image_crop_size)?;
        kwargs.read("image_target_size", &mut self.image_target_size)?;
        kwargs.read("shortest_image_edge", &mut self.shortest_image_edge)?;
        kwargs.read("crop_fraction", &mut self.crop_fraction)?;
        kwargs.read("formalize_language", &mut self.formalize_language)?;
        kwargs.read("max_state_dim", &mut self.max_state_dim)?;
        kwargs.read("max_action_dim", &mut self.max_action_dim)?;
        kwargs.read("max_action_horizon", &mut self.max_action_horizon)?;
        kwargs.read("apply_sincos_state_encoding", &mut self.apply_sincos_state_encoding)?;
        kwargs.read("use_relative_action", &mut self.use_relative_action)?;
        kwargs.read("exclude_state", &mut self.exclude_state)?;
        kwargs.read("use_albumentations", &mut self.use_albumentations)?;
        kwargs.read_switch("letter_box_transform", &mut self.letter_box_transform)?;
        kwargs.finish()
    }

    /// The configured tag that `tag` names: the name of the official enum's member (`LIBERO_PANDA`), or else a value
    /// (`libero_sim`), in any case.
    ///
    /// # Errors
    /// [`Error::Input`] listing the configured tags, or saying what is wrong with the one named.
    pub(super) fn resolve_tag(&self, tag: &str) -> Result<(&str, &EmbodimentModalities)> {
        let tag = tag.trim();
        for name in tag_of_name(self.version, tag).into_iter().chain([tag]) {
            let is_it = |known: &str| known.eq_ignore_ascii_case(name);
            if let Some((known, modalities)) = self.modality_configs.iter().find(|(known, _)| is_it(known)) {
                return Ok((known.as_str(), modalities));
            }
            if let Some((known, what)) = self.incomplete.iter().find(|(known, _)| is_it(known)) {
                let field = format!("{PROCESSOR_CONFIG}: modality_configs.{known}");
                return Err(Error::input(field, what.as_str()));
            }
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

/// The tag that is meant: the one that is named, or the only one of `known`.
///
/// # Errors
/// [`Error::Option`] where one must be named.
pub(crate) fn chosen_tag<'t>(tag: Option<&'t str>, known: &'t [String]) -> Result<&'t str> {
    match (tag, known) {
        (Some(tag), _) => Ok(tag),
        (None, [only]) => Ok(only),
        (None, _) => {
            let what = format!("expected one of {}, found none", known.join(", "));
            Err(Error::option("embodiment_tag", what))
        }
    }
}

/// What an embodiment of a checkpoint observes and does, of its configuration alone. The tag may be left out where there
/// is only one.
///
/// # Errors
/// As [`ProcessorConfig::read`]; a tag that must be named, or that the checkpoint does not have.
pub fn modalities_of(checkpoint: &Path, embodiment_tag: Option<&str>) -> Result<EmbodimentModalities> {
    let known = known_embodiment_tags(checkpoint)?;
    let config = ProcessorConfig::read(checkpoint)?;
    let (_, modalities) = config.resolve_tag(chosen_tag(embodiment_tag, &known)?)?;
    Ok(modalities.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_of(version: Version, kwargs: &str) -> Result<ProcessorConfig, String> {
        let mut config = ProcessorConfig::defaults(version);
        config.update(serde_json::from_str(kwargs).expect("an object")).map(|()| config)
    }

    fn parse(version: Version, kwargs: &str) -> ProcessorConfig {
        parse_of(version, kwargs).expect("valid config")
    }

    #[test]
    fn absent_fields_take_the_defaults_of_the_version_and_null_stays_none() {
        for (version, edge, horizon) in [(Version::N1_6, 512, 40), (Version::N1_7, 256, 50)] {
            let absent = parse(version, "{}");
            assert_eq!((absent.shortest_image_edge, absent.crop_fraction), (Some(edge), Some(0.95)));
            assert_eq!(
                (absent.max_action_horizon, absent.max_state_dim, absent.max_action_dim),
                (horizon, 29, 29)
            );
            assert!(absent.clip_outliers && absent.formalize_language);
            assert!(!absent.use_albumentations && !absent.use_percentiles && !absent.use_relative_action);
            assert!(!absent.apply_sincos_state_encoding && !absent.exclude_state);
            let null = parse(version, r#"{"shortest_image_edge": null, "crop_fraction": null}"#);
            assert_eq!((null.shortest_image_edge, null.crop_fraction), (None, None));
        }
    }

    #[test]
    fn letterbox_is_absent_true_or_false() {
        for (version, absent) in [(Version::N1_6, None), (Version::N1_7, Some(false))] {
            let letterbox = |kwargs: &str| parse(version, kwargs).letter_box_transform;
            assert_eq!(letterbox("{}"), absent);
            assert_eq!(letterbox(r#"{"letter_box_transform": true}"#), Some(true));
            assert_eq!(letterbox(r#"{"letter_box_transform": false}"#), Some(false));
            assert_eq!(letterbox(r#"{"letter_box_transform": null}"#), Some(false));
        }
    }

    #[test]
    fn keys_that_are_not_known_are_refused() {
        for version in Version::ALL {
            for key in NOT_OF_INFERENCE {
                parse(version, &format!(r#"{{"{key}": "anything"}}"#));
            }
            parse(version, r#"{"use_tactile": false}"#);
            let refused = |kwargs: &str| parse_of(version, kwargs).expect_err("refused");
            assert!(refused(r#"{"use_tactile": true}"#).contains("use_tactile: expected false"));
            let error = refused(r#"{"crop_fractoin": 0.9}"#);
            assert!(error.starts_with("processor_kwargs.crop_fractoin: expected none"), "{error}");
            assert!(refused(r#"{"crop_fraction": "x"}"#).starts_with("processor_kwargs.crop_fraction: "));
        }
    }

    #[test]
    fn an_unknown_key_of_a_modality_is_told_to_who_asks_for_the_embodiment() {
        let one = r#"{"delta_indices": [0], "modality_keys": ["a"]}"#;
        let odd = r#"{"delta_indices": [0], "modality_keys": ["a"], "exclude_state": null, "skip": 2}"#;
        let with = |state: &str| {
            format!(r#"{{"video": {one}, "state": {state}, "action": {one}, "language": {one}}}"#)
        };
        let config = format!(r#"{{"modality_configs": {{"gr1": {}, "gr2": {}}}}}"#, with(one), with(odd));
        let config = parse(Version::N1_7, &config);
        assert!(!config.resolve_tag("gr1").expect("complete").1.state.exclude_state);
        let error = config.resolve_tag("gr2").expect_err("unknown key").to_string();
        assert!(error.contains("modality_configs.gr2") && error.contains("unknown field `skip`"), "{error}");
    }

    #[test]
    fn tags_are_names_or_values_in_any_case() {
        let one = r#"{"delta_indices": [0], "modality_keys": ["a"]}"#;
        let modalities = format!(r#"{{"video": {one}, "state": {one}, "action": {one}, "language": {one}}}"#);
        let with = |version: Version, tags: [&str; 2]| {
            let tags = tags.map(|tag| format!(r#""{tag}": {modalities}"#)).join(", ");
            parse(version, &format!(r#"{{"modality_configs": {{{tags}}}}}"#))
        };
        let config = with(Version::N1_6, ["gr1", "new_embodiment"]);
        for tag in ["gr1", "GR1", " Gr1 "] {
            assert_eq!(config.resolve_tag(tag).expect("known").0, "gr1");
        }
        assert_eq!(config.resolve_tag("NEW_EMBODIMENT").expect("known").0, "new_embodiment");
        let error = config.resolve_tag("gr2").expect_err("unknown").to_string();
        assert!(error.contains("gr2") && error.contains("gr1, new_embodiment"), "{error}");

        let config = with(Version::N1_7, ["libero_sim", "my_robot"]);
        for tag in ["LIBERO_PANDA", "libero_panda", "Libero_Sim"] {
            assert_eq!(config.resolve_tag(tag).expect("known").0, "libero_sim");
        }
        assert_eq!(config.resolve_tag("MY_ROBOT").expect("known").0, "my_robot");
        // A name goes before a tag that is spelt alike.
        let both = with(Version::N1_7, ["libero_panda", "libero_sim"]);
        assert_eq!(both.resolve_tag("libero_panda").expect("known").0, "libero_sim");
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
