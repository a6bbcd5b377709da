//! The names by which robots with OpenPI's clients know what they observe.
//!
//! | | keys, the first that is there | values |
//! |---|---|---|
//! | view `V` | `video.V`, `observation/V`, `V`, or `V` in a map `images`; of an only view also `observation/image` and `image` | as in [`observation`](crate::observation), also one frame `[3, H, W]` |
//! | joint group `G` | `state.G`, `observation/G`, `G`; or all groups side by side: `observation/state`, `state` | as there; all groups `[D]` |
//! | instruction | the checkpoint's key, `prompt` | text |
//!
//! Other keys are left aside. Observations that are nested as `Gr00tPolicy` takes them stay as they are.

use crate::wire::{Array, Ndarray, Value};
use crate::{Error, Result};
use std::borrow::Cow;
use steadyhand_gr00t::processor::Processor;

/// What an embodiment asks of an observation, by the flat names of the official wrapper for simulators; none where the
/// observation is nested.
///
/// # Errors
/// Names what is missing; a state of all joint groups of another size.
pub fn flat<'m>(value: &Value<'m>, processor: &Processor) -> Result<Option<Vec<(String, Value<'m>)>>> {
    let modalities = processor.modalities();
    let Some(entries) = value.entries() else {
        return Err(Error::field("observation", format!("expected a map, found {}", value.kind())));
    };
    if matches!(value.get("video"), Some(Value::Map(_))) {
        return Ok(None);
    }
    let missing = |keys: &[String]| {
        let there = entries.iter().filter_map(|(key, _)| key.text()).take(20);
        let there: Vec<String> = there.map(|key| key.chars().take(60).collect()).collect();
        let there = if there.is_empty() { "no key".to_owned() } else { there.join(", ") };
        Err(Error::field("observation", format!("expected one of {}, found {there}", keys.join(", "))))
    };
    let mut named = Vec::new();
    let views = &modalities.video.modality_keys;
    for view in views {
        let mut keys = names("video", view);
        if views.len() == 1 {
            keys.extend(["observation/image", "image"].map(str::to_owned));
        }
        let inner = value.get("images").and_then(|images| images.get(view));
        match find(value, &keys).or_else(|| inner.map(|image| (format!("images.{view}"), image))) {
            Some((key, image)) => named.push((format!("video.{view}"), rows_first(&key, image)?)),
            None => return missing(&keys),
        }
    }
    let groups = &modalities.state.modality_keys;
    let own: Vec<_> = groups.iter().map(|group| find(value, &names("state", group))).collect();
    match find(value, &["observation/state", "state"].map(str::to_owned)) {
        Some((key, state)) if own.iter().all(Option::is_none) => {
            named.extend(split(&key, state, processor)?);
        }
        _ => {
            for (group, found) in groups.iter().zip(own) {
                match found {
                    Some((_, state)) => named.push((format!("state.{group}"), state.clone())),
                    None => return missing(&names("state", group)),
                }
            }
        }
    }
    for key in &modalities.language.modality_keys {
        let keys = [key.clone(), "prompt".to_owned()];
        match find(value, &keys) {
            Some((_, text)) => named.push((key.clone(), text.clone())),
            None => return missing(&keys),
        }
    }
    Ok(Some(named))
}

/// What a view or a joint group may be called.
fn names(modality: &str, name: &str) -> Vec<String> {
    vec![format!("{modality}.{name}"), format!("observation/{name}"), name.to_owned()]
}

/// The first of these keys that is there.
fn find<'v, 'm>(value: &'v Value<'m>, keys: &[String]) -> Option<(String, &'v Value<'m>)> {
    keys.iter().find_map(|key| Some((key.clone(), value.get(key)?)))
}

/// A frame `[3, H, W]` as `[H, W, 3]`; other arrays as they are.
fn rows_first<'m>(key: &str, image: &Value<'m>) -> Result<Value<'m>> {
    let array = Array::of(image, &format!("observation.{key}"))?;
    let Some((array, &[3, height, width])) = array.as_ref().map(|array| (array, &array.shape[..])) else {
        return Ok(image.clone());
    };
    let Some(planes) = array.bytes().filter(|_| width != 3) else { return Ok(image.clone()) };
    let plane = height * width;
    let pixel = |place: usize| [planes[place], planes[plane + place], planes[2 * plane + place]];
    Ok(Value::Ndarray(Ndarray {
        descr: "|u1".to_owned(),
        shape: vec![height, width, 3],
        data: Cow::Owned((0..plane).flat_map(pixel).collect()),
    }))
}

/// A state of all joint groups, cut into them.
fn split<'m>(key: &str, state: &Value<'m>, processor: &Processor) -> Result<Vec<(String, Value<'m>)>> {
    let field = format!("observation.{key}");
    let groups = &processor.modalities().state.modality_keys;
    let sizes: Option<Vec<usize>> = groups.iter().map(|group| processor.state_dim(group)).collect();
    let Some(sizes) = sizes else {
        let what = "expected each joint group by its name, since the checkpoint does not tell their sizes";
        return Err(Error::field(field, what));
    };
    let all: usize = sizes.iter().sum();
    let array = Array::of(state, &field)?;
    let values = array.as_ref().and_then(|array| array.floats().filter(|_| array.shape.len() == 1));
    let Some(values) = values.filter(|values| values.len() == all) else {
        let found = match array {
            Some(array) => format!("{} {:?}", array.dtype.name(), array.shape),
            None => state.kind().to_owned(),
        };
        let each = groups.iter().zip(&sizes).map(|(group, size)| format!("{group} {size}"));
        let each = each.collect::<Vec<_>>().join(", ");
        let what = format!("expected float32 or float64 [{all}] ({each}), found {found}");
        return Err(Error::field(field, what));
    };
    let mut rest = &values[..];
    let part = |(group, size): (&String, &usize)| {
        let (own, others) = rest.split_at(*size);
        rest = others;
        let data = own.iter().flat_map(|value| value.to_le_bytes()).collect();
        let array = Ndarray { descr: "<f4".to_owned(), shape: vec![*size], data: Cow::Owned(data) };
        (format!("state.{group}"), Value::Ndarray(array))
    };
    Ok(groups.iter().zip(&sizes).map(part).collect())
}
