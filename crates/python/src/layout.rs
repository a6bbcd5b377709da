//! Observations as robots' programs have them: dictionaries of arrays in C order, read by the keys of the embodiment.
//!
//! What is otherwise, and what is wrong, is left to the reader of requests ([`crate::value`]), which says what it is.

use bytes::Bytes;
use numpy::{Element, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use std::sync::Arc;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::{Image, Observation};
use steadyhand_serve::{Form, MAX_OBSERVATIONS, Observed};

/// The keys of an embodiment as Python's texts, made once.
pub struct Layout {
    video: Py<PyString>,
    state: Py<PyString>,
    language: Py<PyString>,
    views: Vec<Key>,
    groups: Vec<Key>,
    /// Nested and flat alike.
    instruction: Py<PyString>,
    actions: Vec<Key>,
}

/// A name, alone as nested observations have it, and behind its modality as flat ones do.
struct Key {
    name: String,
    nested: Py<PyString>,
    flat: Py<PyString>,
}

/// Whether an array has a dimension of observations, and how many they are.
type Batch = (bool, usize);

/// Frames in C order, held for reading: uint8 `[B, T, H, W, 3]`, `[T, H, W, 3]` or `[H, W, 3]`.
struct Frames<'py> {
    array: PyReadonlyArrayDyn<'py, u8>,
    batch: Batch,
    /// T, H and W.
    shape: [usize; 3],
}

/// Rows of a joint group in C order, held for reading: `[B, T, D]`, `[T, D]` or `[D]`.
struct Rows<'py, T: Element> {
    array: PyReadonlyArrayDyn<'py, T>,
    batch: Batch,
    /// T and D.
    shape: [usize; 2],
}

impl Layout {
    /// Of an embodiment; `None` for one of several instructions, which nothing reads.
    pub fn new(py: Python<'_>, modalities: &EmbodimentModalities) -> Option<Self> {
        let text = |text: &str| PyString::intern(py, text).unbind();
        let keys = |modality: &str, names: &[String]| {
            let key = |name: &String| Key {
                name: name.clone(),
                nested: text(name),
                flat: text(&format!("{modality}.{name}")),
            };
            names.iter().map(key).collect()
        };
        let [instruction] = &modalities.language.modality_keys[..] else { return None };
        Some(Layout {
            video: text("video"),
            state: text("state"),
            language: text("language"),
            views: keys("video", &modalities.video.modality_keys),
            groups: keys("state", &modalities.state.modality_keys),
            instruction: text(instruction),
            actions: keys("action", &modalities.action.modality_keys),
        })
    }

    /// The key of the joint group `name` at this place of the actions, as the observation was written.
    pub fn action<'py>(&self, py: Python<'py>, place: usize, name: &str, flat: bool) -> Bound<'py, PyString> {
        match self.actions.get(place).filter(|key| key.name == name) {
            Some(key) if flat => key.flat.bind(py).clone(),
            Some(key) => key.nested.bind(py).clone(),
            None if flat => PyString::new(py, &format!("action.{name}")),
            None => PyString::new(py, name),
        }
    }

    /// Copies an observation's arrays into observations of this embodiment that were read before, taken of `kept` as long
    /// as it has some: memory that is there already takes a frame in a tenth of the time. `None` for what has another form.
    ///
    /// # Errors
    /// A key that cannot be compared.
    pub fn read<'a>(
        &'a self,
        observation: &Bound<'a, PyAny>,
        kept: &mut Vec<Observation>,
    ) -> PyResult<Option<Observed>> {
        let Ok(observation) = observation.cast_exact::<PyDict>() else { return Ok(None) };
        let py = observation.py();
        let of = |modality: &Py<PyString>| observation.get_item(modality.bind(py));
        let nested = (of(&self.video)?, of(&self.state)?, of(&self.language)?);
        let (video, state, language, flat) = match &nested {
            // As in the reader of requests, a flat key that stands for another one is looked for there.
            (None, None, None) if self.instruction.bind(py).to_str()? == "task" => return Ok(None),
            (None, None, None) => (observation, observation, observation, true),
            (Some(video), Some(state), Some(language)) => {
                let dicts = (video.cast::<PyDict>(), state.cast::<PyDict>(), language.cast::<PyDict>());
                let (Ok(video), Ok(state), Ok(language)) = dicts else { return Ok(None) };
                (video, state, language, false)
            }
            _ => return Ok(None),
        };
        let text = |key: &'a Key| if flat { key.flat.bind(py) } else { key.nested.bind(py) };
        let mut batch = None;
        let mut observations = Vec::new();
        for key in &self.views {
            let Some(array) = video.get_item(text(key))? else { return Ok(None) };
            let Some(frames) = Frames::of(&array) else { return Ok(None) };
            if *batch.get_or_insert(frames.batch) != frames.batch {
                return Ok(None);
            }
            observations.resize_with(frames.batch.1, || kept.pop().unwrap_or_default());
            frames.copy(&key.name, &mut observations);
        }
        let Some(batch) = batch else { return Ok(None) };
        for key in &self.groups {
            let Some(array) = state.get_item(text(key))? else { return Ok(None) };
            let single = copy_rows(&array, &key.name, batch, &mut observations, |value: &f32| *value);
            if !single && !copy_rows(&array, &key.name, batch, &mut observations, |value: &f64| *value as f32)
            {
                return Ok(None);
            }
        }
        let Some(texts) = language.get_item(self.instruction.bind(py))? else { return Ok(None) };
        let form = Form { batched: batch.0, flat };
        Ok(copy_texts(&texts, &mut observations).then_some(Observed { observations, form }))
    }
}

/// An array in C order, where it is one of `T`.
fn ordered<'py, T: Element>(value: &Bound<'py, PyAny>) -> Option<PyReadonlyArrayDyn<'py, T>> {
    let array = value.cast::<PyArrayDyn<T>>().ok()?;
    array.is_c_contiguous().then(|| array.try_readonly().ok())?
}

fn fits((_, count): Batch, shape: &[usize]) -> bool {
    (1..=MAX_OBSERVATIONS).contains(&count) && !shape.contains(&0)
}

impl<'py> Frames<'py> {
    fn of(value: &Bound<'py, PyAny>) -> Option<Self> {
        let array = ordered(value)?;
        let (batch, shape) = match *array.shape() {
            [count, steps, height, width, 3] => ((true, count), [steps, height, width]),
            [steps, height, width, 3] => ((false, 1), [steps, height, width]),
            [height, width, 3] => ((false, 1), [1, height, width]),
            _ => return None,
        };
        fits(batch, &shape).then_some(Frames { array, batch, shape })
    }

    fn copy(&self, view: &str, observations: &mut [Observation]) {
        let [steps, height, width] = self.shape;
        let size = 3 * height * width;
        // In C order, or they would not be here.
        let all = self.array.as_slice().unwrap_or_default();
        for (observation, own) in observations.iter_mut().zip(all.chunks_exact(steps * size)) {
            let images = match observation.images.get_mut(view) {
                Some(images) => images,
                None => observation.images.entry(view.to_owned()).or_default(),
            };
            images.resize_with(steps, || Arc::new(Image { width, height, rgb: Bytes::new() }));
            for (image, rgb) in images.iter_mut().zip(own.chunks_exact(size)) {
                match Arc::get_mut(image) {
                    Some(image) => {
                        (image.width, image.height) = (width, height);
                        let mut memory = Vec::from(std::mem::take(&mut image.rgb));
                        memory.clear();
                        memory.extend_from_slice(rgb);
                        image.rgb = memory.into();
                    }
                    // Something still has the frame of an earlier call.
                    None => *image = Arc::new(Image { width, height, rgb: Bytes::copy_from_slice(rgb) }),
                }
            }
        }
    }
}

impl<'py, T: Element> Rows<'py, T> {
    fn of(value: &Bound<'py, PyAny>) -> Option<Self> {
        let array = ordered(value)?;
        let (batch, shape) = match *array.shape() {
            [count, steps, dims] => ((true, count), [steps, dims]),
            [steps, dims] => ((false, 1), [steps, dims]),
            [dims] => ((false, 1), [1, dims]),
            _ => return None,
        };
        fits(batch, &shape).then_some(Rows { array, batch, shape })
    }
}

/// Copies the rows of a joint group, where `array` is one of `T` and has them for this batch.
fn copy_rows<T: Element>(
    array: &Bound<'_, PyAny>,
    group: &str,
    batch: Batch,
    observations: &mut [Observation],
    value: impl Fn(&T) -> f32,
) -> bool {
    let Some(found) = Rows::of(array).filter(|rows| rows.batch == batch) else { return false };
    let [rows, cols] = found.shape;
    let all = found.array.as_slice().unwrap_or_default();
    for (observation, own) in observations.iter_mut().zip(all.chunks_exact(rows * cols)) {
        let matrix = match observation.state.get_mut(group) {
            Some(matrix) => matrix,
            None => observation.state.entry(group.to_owned()).or_default(),
        };
        (matrix.rows, matrix.cols) = (rows, cols);
        matrix.data.clear();
        matrix.data.extend(own.iter().map(&value));
    }
    true
}

/// Whether the texts are one for all observations, or a list with one for each, alone or in a list of its own.
fn copy_texts(texts: &Bound<'_, PyAny>, observations: &mut [Observation]) -> bool {
    let copy = |text: &Bound<'_, PyString>, observation: &mut Observation| {
        let Ok(text) = text.to_str() else { return false };
        observation.instruction.clear();
        observation.instruction.push_str(text);
        true
    };
    if let Ok(text) = texts.cast::<PyString>() {
        return observations.iter_mut().all(|observation| copy(text, observation));
    }
    let Ok(texts) = texts.cast_exact::<PyList>() else { return false };
    texts.len() == observations.len()
        && texts.iter().zip(observations).all(|(text, observation)| match text.cast_exact::<PyList>() {
            Ok(alone) if alone.len() == 1 => alone
                .get_item(0)
                .is_ok_and(|text| text.cast::<PyString>().is_ok_and(|text| copy(text, observation))),
            Ok(_) => false,
            Err(_) => text.cast::<PyString>().is_ok_and(|text| copy(text, observation)),
        })
}
