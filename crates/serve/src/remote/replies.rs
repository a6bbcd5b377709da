//! What servers answer.

use crate::options::Noise;
use crate::wire::{Array, Value, read};
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::{ActionChunk, Matrix};

/// A server's error, where the reply is one.
pub fn error_of(reply: &[u8]) -> Option<String> {
    let value = read(reply).ok()?;
    match value.get("error")? {
        Value::Nil => None,
        error => Some(error.text().unwrap_or("an error without text").chars().take(2000).collect()),
    }
}

/// What a reply to `get_action` gives.
#[derive(Debug)]
pub struct Given {
    /// In the order of the modalities.
    pub chunk: ActionChunk,
    /// The noise that the server says the actions started from.
    pub noise: Option<Noise>,
    /// Whether it says that they go on from the chunk before.
    pub rtc: bool,
}

/// Why a reply is none: the field and what was found; whether its actions are no numbers, which those of other
/// observations may be.
pub struct Flaw {
    pub field: String,
    pub what: String,
    pub not_finite: bool,
}

impl Flaw {
    pub fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Flaw { field: field.into(), what: what.into(), not_finite: false }
    }
}

/// Reads the reply to `get_action` of one observation in a batch: `[action, info]`, or the actions alone.
///
/// # Errors
/// Names, shapes or types of actions other than those of the modalities; values that are not finite.
pub fn actions(reply: &[u8], modalities: &EmbodimentModalities) -> Result<Given, Flaw> {
    let value = read(reply).map_err(|error| Flaw::new("reply", error.to_string()))?;
    let (actions, info) = match &value {
        Value::Array(both) if both.len() == 2 => (&both[0], Some(&both[1])),
        map @ Value::Map(_) => (map, None),
        other => {
            let what = format!("expected [action, info], found {}", other.kind());
            return Err(Flaw::new("reply", what));
        }
    };
    let Some(entries) = actions.entries() else {
        return Err(Flaw::new("action", format!("expected a map of joint groups, found {}", actions.kind())));
    };
    let mut chunk = ActionChunk::default();
    for group in &modalities.action.modality_keys {
        let field = format!("action.{group}");
        let Some(found) = actions.get(group).or_else(|| actions.get(&field)) else {
            let there: Vec<String> = entries
                .iter()
                .filter_map(|(key, _)| key.text())
                .map(|key| key.chars().take(60).collect())
                .take(20)
                .collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Flaw::new(field, format!("expected an array, found none; there are {there}")));
        };
        let matrix = matrix(found, &field, modalities.action.delta_indices.len())?;
        chunk.groups.push((group.clone(), matrix));
    }
    let info = |key: &str| info.and_then(|info| info.get(key));
    let whole = |key: &str| match info(key) {
        Some(Value::Int(value)) => u64::try_from(*value).ok(),
        _ => None,
    };
    let noise = || {
        let small = |key: &str| whole(key).and_then(|value| u32::try_from(value).ok());
        Some(Noise { seed: whole("seed")?, episode: small("episode")?, inference: small("inference")? })
    };
    Ok(Given { chunk, noise: noise(), rtc: info("rtc") == Some(&Value::Bool(true)) })
}

/// `[T, D]` of an array `[1, T, D]` or `[T, D]`, with all of its `steps`.
fn matrix(value: &Value, field: &str, steps: usize) -> Result<Matrix, Flaw> {
    let array = Array::of(value, field).map_err(|error| {
        let text = error.to_string();
        Flaw::new(field, text.strip_prefix(&format!("{field}: ")).unwrap_or(&text))
    })?;
    let Some(array) = array else {
        let what =
            format!("expected an array as .npy bytes or as msgpack-numpy has it, found {}", value.kind());
        return Err(Flaw::new(field, what));
    };
    let wrong = || {
        let found = format!("{} {:?}", array.dtype.name(), array.shape);
        Flaw::new(
            field,
            format!("expected float32 or float64 [1, {steps}, D] or [{steps}, D], found {found}"),
        )
    };
    let (rows, cols) = match array.shape[..] {
        [1, rows, cols] | [rows, cols] => (rows, cols),
        _ => return Err(wrong()),
    };
    let data = array.floats().ok_or_else(wrong)?;
    if rows != steps || cols == 0 {
        return Err(wrong());
    }
    match data.iter().position(|value| !value.is_finite()) {
        None => Ok(Matrix { rows, cols, data }),
        Some(place) => {
            let (step, joint) = (place / cols, place % cols);
            let what = format!("expected finite values, found {} at step {step}, {joint}", data[place]);
            Err(Flaw { not_finite: true, ..Flaw::new(field, what) })
        }
    }
}
