//! What a client is answered, in the dialect that it asked in.

use crate::observation::Form;
use crate::options::Noise;
use crate::wire::{Dialect, Writer, write_f32};
use std::time::{Duration, Instant};
use steadyhand_gr00t::ActionChunk;
use steadyhand_gr00t::processor::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, EmbodimentModalities, ModalityConfig,
};

/// What is said beside the actions.
#[derive(Debug)]
pub struct Info<'a> {
    /// The name of the model that answers.
    pub model: &'a str,
    /// The noise that the first observation's actions started from.
    pub noise: Noise,
    /// When the whole request was there.
    pub at: Instant,
    /// How long the engine ran for the slowest observation.
    pub inference: Duration,
    /// Observations that shared its inference.
    pub batch: usize,
    /// Whether the actions go on from those before.
    pub rtc: bool,
    /// Options that mean nothing here.
    pub ignored: &'a [String],
}

/// `{"error": …}`. `late` is added for a deadline that passed, so that a robot need not read texts.
pub fn error(error: &crate::Error) -> Vec<u8> {
    let mut writer = Writer::default();
    let late = matches!(error, crate::Error::Late { .. });
    writer.map(1 + usize::from(late));
    writer.str("error");
    writer.str(&error.to_string());
    if late {
        writer.str("late");
        writer.bool(true);
    }
    writer.into_bytes()
}

/// The answer to `ping`, with the number formats that the engine runs at: their identity and their name.
pub fn pong([precision, name]: &[String; 2]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(4);
    for (key, value) in [("precision", precision), ("precision_name", name)] {
        writer.str(key);
        writer.str(value);
    }
    writer.str("status");
    writer.str("ok");
    writer.str("message");
    writer.str("Server is running");
    writer.into_bytes()
}

/// The answer to `kill`.
pub fn nil() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.nil();
    writer.into_bytes()
}

fn names(writer: &mut Writer, key: &str, names: &[String]) {
    writer.str(key);
    writer.list(names.len());
    names.iter().for_each(|name| writer.str(name));
}

/// The answer to `reset`.
pub fn reset(episode: u32, ignored: &[String]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(1 + usize::from(!ignored.is_empty()));
    writer.str("episode");
    writer.uint(u64::from(episode));
    if !ignored.is_empty() {
        names(&mut writer, "ignored_options", ignored);
    }
    writer.into_bytes()
}

/// `[action, info]`: actions by joint group, `[T, D]` or, batched, `[B, T, D]`.
pub fn actions(chunks: &[ActionChunk], form: Form, dialect: Dialect, info: &Info) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.list(2);
    let groups = chunks.first().map_or(&[][..], |chunk| &chunk.groups);
    writer.map(groups.len());
    for (place, (name, first)) in groups.iter().enumerate() {
        let values: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.groups[place].1.data).copied().collect();
        let shape = [chunks.len(), first.rows, first.cols];
        let shape = if form.batched { &shape[..] } else { &shape[1..] };
        match form.flat {
            true => writer.str(&format!("action.{name}")),
            false => writer.str(name),
        }
        write_f32(&mut writer, dialect, shape, &values);
    }
    writer.map(8 + usize::from(!info.ignored.is_empty()));
    writer.str("model");
    writer.str(info.model);
    for (key, value) in [
        ("seed", info.noise.seed),
        ("episode", u64::from(info.noise.episode)),
        ("inference", u64::from(info.noise.inference)),
        ("batch", info.batch as u64),
    ] {
        writer.str(key);
        writer.uint(value);
    }
    writer.str("inference_ms");
    writer.float(info.inference.as_secs_f64() * 1e3);
    // Behind the arrays, so that it has nearly all of what writing takes.
    writer.str("server_ms");
    writer.float(info.at.elapsed().as_secs_f64() * 1e3);
    writer.str("rtc");
    writer.bool(info.rtc);
    if !info.ignored.is_empty() {
        names(&mut writer, "ignored_options", info.ignored);
    }
    writer.into_bytes()
}

/// The answer to `get_modality_config`: the modalities as the official client makes its `ModalityConfig` of.
pub fn modality_config(modalities: &EmbodimentModalities) -> Vec<u8> {
    let EmbodimentModalities { video, state, action, language } = modalities;
    let mut writer = Writer::default();
    writer.map(4);
    for (name, modality) in [("video", video), ("state", state), ("action", action), ("language", language)] {
        writer.str(name);
        writer.map(2);
        writer.str("__ModalityConfig_class__");
        writer.bool(true);
        writer.str("as_json");
        modality_fields(&mut writer, modality);
    }
    writer.into_bytes()
}

fn modality_fields(writer: &mut Writer, modality: &ModalityConfig) {
    writer.map(5);
    writer.str("delta_indices");
    writer.list(modality.delta_indices.len());
    modality.delta_indices.iter().for_each(|index| writer.int(*index));
    names(writer, "modality_keys", &modality.modality_keys);
    for (key, keys) in [
        ("sin_cos_embedding_keys", &modality.sin_cos_embedding_keys),
        ("mean_std_embedding_keys", &modality.mean_std_embedding_keys),
    ] {
        match keys {
            Some(keys) => names(writer, key, keys),
            None => {
                writer.str(key);
                writer.nil();
            }
        }
    }
    writer.str("action_configs");
    match &modality.action_configs {
        None => writer.nil(),
        Some(configs) => {
            writer.list(configs.len());
            configs.iter().for_each(|config| action_config(writer, config));
        }
    }
}

fn action_config(writer: &mut Writer, config: &ActionConfig) {
    let rep = match config.rep {
        ActionRepresentation::Relative => "RELATIVE",
        ActionRepresentation::Delta => "DELTA",
        ActionRepresentation::Absolute => "ABSOLUTE",
    };
    let kind = match config.kind {
        ActionType::Eef => "EEF",
        ActionType::NonEef => "NON_EEF",
    };
    let format = match config.format {
        ActionFormat::Default => "DEFAULT",
        ActionFormat::XyzRot6d => "XYZ_ROT6D",
        ActionFormat::XyzRotvec => "XYZ_ROTVEC",
    };
    writer.map(4);
    for (key, value) in [("rep", rep), ("type", kind), ("format", format)] {
        writer.str(key);
        writer.str(value);
    }
    writer.str("state_key");
    match &config.state_key {
        Some(key) => writer.str(key),
        None => writer.nil(),
    }
}
