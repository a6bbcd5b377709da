//! Observations as clients of the official server send them.
//!
//! | | batched | unbatched |
//! |---|---|---|
//! | video | uint8 `[B, T, H, W, 3]` | `[T, H, W, 3]`, or `[H, W, 3]` for one frame |
//! | state | float32 or float64 `[B, T, D]` | `[T, D]`, or `[D]` for one step |
//! | language | B texts, each alone or in a list | a text, alone or in lists |
//!
//! They are nested, `observation["video"]["ego_view"]`, as `Gr00tPolicy` takes them, or flat,
//! `observation["video.ego_view"]`, as `Gr00tSimPolicyWrapper` does. Other keys are left aside, as there.

use crate::wire::{Array, Value};
use crate::{Error, Result};
use bytes::Bytes;
use std::sync::Arc;
use steadyhand_gr00t::engine::{ModelImages, ModelInput};
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::{Image, Matrix, Observation};

/// Most observations of a request.
pub const MAX_OBSERVATIONS: usize = 64;

/// How a request was written, which its reply is written like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Whether arrays have a dimension of observations.
    pub batched: bool,
    /// Whether keys are flat.
    pub flat: bool,
}

/// Most bytes of pixels, and of a message, that a client keeps of a request for the next one.
pub const MAX_SPARE: usize = 16 << 20;

/// How many times its own size a view may keep alive: its frames stay in the message where that is no larger.
const MAX_HELD: usize = 16;

/// What of a request's model inputs is kept, to be written over by the next request: fresh memory of pixels costs as much
/// as what is written into it.
pub fn spare(inputs: impl IntoIterator<Item = ModelInput>) -> Vec<ModelInput> {
    let mut bytes = 0;
    let fits = |input: &mut ModelInput| {
        bytes += match &input.images {
            ModelImages::Pixels(images) => {
                images.iter().map(|image| size_of::<f32>() * image.data.capacity()).sum()
            }
            // They lie in the message, which is kept for itself.
            ModelImages::Raw(_) => {
                input.images = ModelImages::default();
                0
            }
        };
        bytes <= MAX_SPARE
    };
    let mut inputs: Vec<ModelInput> = inputs.into_iter().collect();
    inputs.retain_mut(fits);
    inputs
}

/// The observations of a request.
#[derive(Debug)]
pub struct Observed {
    /// At least one.
    pub observations: Vec<Observation>,
    /// How they were written.
    pub form: Form,
}

impl Observed {
    /// Reads the views, joint groups and the instruction of an embodiment.
    ///
    /// # Errors
    /// Names what is missing, or has another type or shape.
    pub fn read(value: &Value, modalities: &EmbodimentModalities) -> Result<Self> {
        Observed::read_from(&Bytes::new(), value, modalities)
    }

    /// [`Observed::read`] of a value that was read from `message`: its frames stay there where they can.
    ///
    /// # Errors
    /// As there.
    pub fn read_from(message: &Bytes, value: &Value, modalities: &EmbodimentModalities) -> Result<Self> {
        if value.entries().is_none() {
            return Err(Error::field("observation", format!("expected a map, found {}", value.kind())));
        }
        let flat = !["video", "state", "language"].iter().any(|key| value.get(key).is_some());
        let source = Source { value, flat };
        let mut observations = Vec::new();
        let mut batched = None;
        for view in &modalities.video.modality_keys {
            let (field, array) = source.array("video", view)?;
            let is_batched = array.shape.len() == 5;
            let count = if is_batched { array.shape[0] } else { 1 };
            if batched.is_none() {
                if count == 0 || count > MAX_OBSERVATIONS {
                    let what = format!("expected 1 to {MAX_OBSERVATIONS} observations, found {count}");
                    return Err(Error::field(field, what));
                }
                batched = Some(is_batched);
                observations = vec![Observation::default(); count];
            }
            check_batch(&field, batched, is_batched, observations.len(), count)?;
            for (observation, frames) in observations.iter_mut().zip(frames(&field, &array, count, message)?)
            {
                observation.images.insert(view.clone(), frames);
            }
        }
        for group in &modalities.state.modality_keys {
            let (field, array) = source.array("state", group)?;
            let is_batched = array.shape.len() == 3;
            let count = if is_batched { array.shape[0] } else { 1 };
            check_batch(&field, batched, is_batched, observations.len(), count)?;
            for (observation, rows) in observations.iter_mut().zip(matrices(&field, &array, count)?) {
                observation.state.insert(group.clone(), rows);
            }
        }
        let [key] = &modalities.language.modality_keys[..] else {
            return Err(Error::field("observation.language", "expected a checkpoint with one key"));
        };
        let instructions = source.instructions(key, observations.len())?;
        for (observation, instruction) in observations.iter_mut().zip(instructions) {
            observation.instruction = instruction;
        }
        Ok(Observed { observations, form: Form { batched: batched == Some(true), flat } })
    }
}

/// Whether an array has the dimension of observations that the first view has.
fn check_batch(
    field: &str,
    batched: Option<bool>,
    found: bool,
    count: usize,
    found_count: usize,
) -> Result<()> {
    let words = |batched| if batched { "a batch" } else { "no batch" };
    let expected = batched.unwrap_or(found);
    if expected != found {
        let what = format!("expected {} as in the first view, found {}", words(expected), words(found));
        return Err(Error::field(field, what));
    }
    match count == found_count {
        true => Ok(()),
        false => Err(Error::field(field, format!("expected {count} observations, found {found_count}"))),
    }
}

/// Where arrays and texts are looked for.
struct Source<'a, 'm> {
    value: &'a Value<'m>,
    flat: bool,
}

impl<'m> Source<'_, 'm> {
    fn find(&self, modality: &str, key: &str) -> (String, Option<&Value<'m>>) {
        match self.flat {
            true => {
                let key = format!("{modality}.{key}");
                (format!("observation.{key}"), self.value.get(&key))
            }
            false => {
                let found = self.value.get(modality).and_then(|group| group.get(key));
                (format!("observation.{modality}.{key}"), found)
            }
        }
    }

    fn array(&self, modality: &str, key: &str) -> Result<(String, Array<'m>)> {
        let (field, value) = self.find(modality, key);
        let Some(value) = value else {
            return Err(Error::field(
                field,
                format!("expected an array, found none{}", self.there(modality)),
            ));
        };
        match Array::of(value, &field)? {
            Some(array) => Ok((field, array)),
            None => Err(Error::field(field, format!("expected an array, found {}", value.kind()))),
        }
    }

    /// The keys that are there instead.
    fn there(&self, modality: &str) -> String {
        let holder = if self.flat { Some(self.value) } else { self.value.get(modality) };
        let entries = holder.and_then(Value::entries).unwrap_or_default();
        let keys: Vec<String> = entries
            .iter()
            .filter_map(|(key, _)| key.text())
            .map(|key| key.chars().take(60).collect())
            .take(20)
            .collect();
        if keys.is_empty() { String::new() } else { format!("; there are {}", keys.join(", ")) }
    }

    fn instructions(&self, key: &str, count: usize) -> Result<Vec<String>> {
        let (field, value) = match self.flat {
            // The key by which some simulators name the task, as in the official wrapper.
            true if key == "task" && self.value.get("annotation.human.coarse_action").is_some() => {
                let key = "annotation.human.coarse_action";
                (format!("observation.{key}"), self.value.get(key))
            }
            true => (format!("observation.{key}"), self.value.get(key)),
            false => self.find("language", key),
        };
        let Some(value) = value else {
            return Err(Error::field(
                field,
                format!("expected a text, found none{}", self.there("language")),
            ));
        };
        let mut texts = Vec::new();
        collect(value, &field, count, &mut texts)?;
        match (texts.len(), value) {
            (found, _) if found == count => Ok(texts),
            (1, Value::Str(_)) => Ok(vec![texts.remove(0); count]),
            (found, _) => Err(Error::field(field, format!("expected {count} texts, found {found}"))),
        }
    }
}

/// The texts of nested lists and arrays of texts, in order; one more than `most` at most.
fn collect(value: &Value, field: &str, most: usize, texts: &mut Vec<String>) -> Result<()> {
    match value {
        Value::Str(text) => texts.push((*text).to_owned()),
        Value::Array(values) => {
            for value in values {
                collect(value, field, most, texts)?;
                if texts.len() > most {
                    break;
                }
            }
        }
        value => match Array::of(value, field)?.and_then(|array| array.texts()) {
            Some(found) => texts.extend(found),
            None => return Err(Error::field(field, format!("expected texts, found {}", value.kind()))),
        },
    }
    Ok(())
}

/// Frames of each observation.
fn frames(field: &str, array: &Array, count: usize, message: &Bytes) -> Result<Vec<Vec<Arc<Image>>>> {
    let wrong = |what: &str| {
        let found = format!("{} {:?}", array.dtype.name(), array.shape);
        Err(Error::field(field, format!("expected uint8 {what}, found {found}")))
    };
    let shape = "[B, T, H, W, 3], [T, H, W, 3] or [H, W, 3]";
    let Some(bytes) = array.bytes() else { return wrong(shape) };
    let (steps, height, width) = match array.shape[..] {
        [_, steps, height, width, 3] | [steps, height, width, 3] => (steps, height, width),
        [height, width, 3] => (1, height, width),
        _ => return wrong(shape),
    };
    if steps * height * width == 0 {
        return wrong("frames with pixels");
    }
    let (there, held) = (message.as_ptr_range(), bytes.as_ptr_range());
    // Arrays in Fortran's order and those of Python lie elsewhere.
    let within = there.start <= held.start && held.end <= there.end;
    let stays = within && message.len() / MAX_HELD <= bytes.len();
    let image = |rgb: &[u8]| {
        let rgb = if stays { message.slice_ref(rgb) } else { Bytes::copy_from_slice(rgb) };
        Arc::new(Image { width, height, rgb })
    };
    let size = 3 * height * width;
    Ok((0..count)
        .map(|index| {
            let own = &bytes[index * steps * size..(index + 1) * steps * size];
            own.chunks_exact(size).map(image).collect()
        })
        .collect())
}

/// Rows of each observation, or of each chunk of actions.
pub(crate) fn matrices(field: &str, array: &Array, count: usize) -> Result<Vec<Matrix>> {
    let wrong = || {
        let found = format!("{} {:?}", array.dtype.name(), array.shape);
        Err(Error::field(
            field,
            format!("expected float32 or float64 [B, T, D], [T, D] or [D], found {found}"),
        ))
    };
    let Some(values) = array.floats() else { return wrong() };
    let (rows, cols) = match array.shape[..] {
        [_, rows, cols] | [rows, cols] => (rows, cols),
        [cols] => (1, cols),
        _ => return wrong(),
    };
    if rows * cols == 0 {
        return wrong();
    }
    let matrix = |data: &[f32]| Matrix { rows, cols, data: data.to_vec() };
    Ok(values.chunks_exact(rows * cols).take(count).map(matrix).collect())
}
