//! What a server says that its policy observes and does, held against a checkpoint.

use crate::wire::Value;
use serde_json::{Map, Value as Json, json};
use steadyhand_gr00t::processor::{EmbodimentModalities, ModalityConfig};

/// Names of the modalities.
const NAMES: [&str; 4] = ["video", "state", "action", "language"];
/// Fields of a modality that are read; servers may have others.
const FIELDS: [&str; 5] =
    ["delta_indices", "modality_keys", "sin_cos_embedding_keys", "mean_std_embedding_keys", "action_configs"];
/// Most time steps of a modality, and most frames of an observation: what a checkpoint may have.
const MAX_STEPS: usize = 1 << 10;
const MAX_FRAMES: usize = 64;

/// Reads the reply to `get_modality_config`: modalities by name, each as the official server writes it, a map, or JSON.
///
/// # Errors
/// The field, what was expected and what was found.
pub fn read(reply: &Value) -> Result<EmbodimentModalities, (String, String)> {
    let mut all = Map::new();
    for name in NAMES {
        let wrong = |what: String| (name.to_owned(), what);
        let value = reply.get(name).ok_or_else(|| wrong("expected a modality, found none".to_owned()))?;
        let fields = match value.get("as_json") {
            Some(Value::Str(text)) => serde_json::from_str(text).unwrap_or(Json::Null),
            Some(inner) => json_of(inner),
            None => json_of(value),
        };
        let Json::Object(fields) = fields else {
            return Err(wrong("expected a map or JSON of one, found another value".to_owned()));
        };
        let known = fields.into_iter().filter(|(field, _)| FIELDS.contains(&field.as_str()));
        all.insert(name.to_owned(), Json::Object(known.collect()));
    }
    let modalities: EmbodimentModalities = serde_json::from_value(Json::Object(all))
        .map_err(|error| ("modalities".to_owned(), error.to_string()))?;
    check(&modalities)?;
    Ok(modalities)
}

fn check(modalities: &EmbodimentModalities) -> Result<(), (String, String)> {
    let EmbodimentModalities { video, language, .. } = modalities;
    for (name, modality) in named(modalities) {
        let steps = modality.delta_indices.len();
        if modality.modality_keys.is_empty() || !(1..=MAX_STEPS).contains(&steps) {
            let what = format!(
                "expected at least one key and 1 to {MAX_STEPS} delta_indices, found {} and {steps}",
                modality.modality_keys.len()
            );
            return Err((name.to_owned(), what));
        }
    }
    let frames = video.modality_keys.len().saturating_mul(video.delta_indices.len());
    if frames > MAX_FRAMES {
        let what = format!("expected at most {MAX_FRAMES} frames of an observation, found {frames}");
        return Err(("video".to_owned(), what));
    }
    match language.modality_keys.len() {
        1 => Ok(()),
        found => Err(("language.modality_keys".to_owned(), format!("expected one, found {found}"))),
    }
}

fn named(modalities: &EmbodimentModalities) -> [(&'static str, &ModalityConfig); 4] {
    let EmbodimentModalities { video, state, action, language } = modalities;
    [("video", video), ("state", state), ("action", action), ("language", language)]
}

/// The first difference between what a server and a checkpoint say: the field, the checkpoint's value, the server's.
pub fn difference(
    checkpoint: &EmbodimentModalities,
    server: &EmbodimentModalities,
) -> Option<(String, String, String)> {
    for ((name, expected), (_, found)) in named(checkpoint).into_iter().zip(named(server)) {
        let pairs = [
            ("modality_keys", json!(expected.modality_keys), json!(found.modality_keys)),
            ("delta_indices", json!(expected.delta_indices), json!(found.delta_indices)),
        ];
        for (field, expected, found) in pairs {
            if expected != found {
                return Some((format!("{name}.{field}"), expected.to_string(), found.to_string()));
            }
        }
        // A server need not say how it computes.
        if let (Some(expected), Some(found)) = (&expected.action_configs, &found.action_configs)
            && expected != found
        {
            let field = format!("{name}.action_configs");
            return Some((field, format!("{expected:?}"), format!("{found:?}")));
        }
    }
    None
}

/// Texts of enums are written in either case.
fn json_of(value: &Value) -> Json {
    match value {
        Value::Nil | Value::Ndarray(_) | Value::Object(_) | Value::Bin(_) => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => i64::try_from(*value).map_or(Json::Null, |value| json!(value)),
        Value::Float(value) => json!(value),
        Value::Str(text) => json!(text),
        Value::Array(values) => Json::Array(values.iter().map(json_of).collect()),
        Value::Map(entries) => {
            let entry = |(key, value): &(Value, Value)| {
                let key = key.text()?.to_owned();
                let value = match (key.as_str(), value) {
                    ("rep" | "type" | "format", Value::Str(text)) => json!(text.to_ascii_uppercase()),
                    (_, value) => json_of(value),
                };
                Some((key, value))
            };
            Json::Object(entries.iter().filter_map(entry).collect())
        }
    }
}
