//! NumPy arrays as requests have them, and actions as NumPy arrays.

use numpy::ndarray::{Array3, ArrayView2, ArrayView3, ShapeError};
use numpy::{
    IntoPyArray, PyArray, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods, ToPyArray,
};
use pyo3::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;
use steadyhand_gr00t::{ActionChunk, Image, Matrix};
use steadyhand_serve::{Ndarray, Value};

/// An array of Python, held for reading.
pub struct Held<'py> {
    descr: String,
    shape: Vec<usize>,
    values: Values<'py>,
}

enum Values<'py> {
    /// Frames: left where they are.
    Bytes(PyReadonlyArrayDyn<'py, u8>),
    /// Joint positions and actions, which are few.
    Copied(Vec<u8>),
    /// Of a type that nothing here reads.
    Unread,
}

/// Holds an array. One of bytes in C order is not copied; views in another order are, once.
///
/// # Errors
/// Another thread is writing to it through this crate.
pub fn held<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Held<'py>> {
    let shape = array.shape().to_vec();
    let ordered = match array.is_c_contiguous() {
        true => array.as_any().clone(),
        false => array.call_method1("copy", ("C",))?,
    };
    let (descr, values) = if let Ok(bytes) = ordered.cast::<PyArrayDyn<u8>>() {
        ("|u1".to_owned(), Values::Bytes(bytes.try_readonly()?))
    } else if let Ok(floats) = ordered.cast::<PyArrayDyn<f32>>() {
        let floats = floats.try_readonly()?;
        let bytes = floats.as_slice()?.iter().flat_map(|value| value.to_le_bytes());
        ("<f4".to_owned(), Values::Copied(bytes.collect()))
    } else if let Ok(floats) = ordered.cast::<PyArrayDyn<f64>>() {
        let floats = floats.try_readonly()?;
        let bytes = floats.as_slice()?.iter().flat_map(|value| value.to_le_bytes());
        ("<f8".to_owned(), Values::Copied(bytes.collect()))
    } else {
        (array.dtype().getattr("str")?.extract()?, Values::Unread)
    };
    Ok(Held { descr, shape, values })
}

impl Held<'_> {
    /// The array as a request has it. One that nothing reads has a type that the request's reader names.
    pub fn value(&self) -> Value<'_> {
        let data = match &self.values {
            // Contiguous, or it would have been copied into an order that is.
            Values::Bytes(bytes) => Cow::Borrowed(bytes.as_slice().unwrap_or_default()),
            Values::Copied(bytes) => Cow::Borrowed(&bytes[..]),
            Values::Unread => Cow::Borrowed(&[][..]),
        };
        Value::Ndarray(Ndarray { descr: self.descr.clone(), shape: self.shape.clone(), data })
    }
}

/// Actions of the joint group at this place: of the first chunk `[action_horizon, dim]`, or `[B, action_horizon, dim]` of
/// all.
///
/// # Errors
/// Chunks of different shapes; Python has no memory left.
pub fn actions<'py>(
    py: Python<'py>,
    chunks: &[ActionChunk],
    place: usize,
    batched: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let of = |chunk: &ActionChunk| chunk.groups.get(place).map(|(_, actions)| actions.data.len());
    let (Some(first), true) = (chunks.first(), chunks.iter().all(|chunk| of(chunk) == of(&chunks[0]))) else {
        return Err(crate::error(&anyhow::Error::msg("expected actions of one shape for all observations")));
    };
    let Matrix { rows, cols, data } = &first.groups[place].1;
    let wrong = |error: ShapeError| crate::error(&error.into());
    Ok(match (batched, chunks.len()) {
        (false, _) => ArrayView2::from_shape((*rows, *cols), data).map_err(wrong)?.to_pyarray(py).into_any(),
        (true, 1) => {
            ArrayView3::from_shape((1, *rows, *cols), data).map_err(wrong)?.to_pyarray(py).into_any()
        }
        (true, count) => {
            let all = chunks.iter().flat_map(|chunk| &chunk.groups[place].1.data).copied().collect();
            Array3::from_shape_vec((count, *rows, *cols), all).map_err(wrong)?.into_pyarray(py).into_any()
        }
    })
}

/// Frames of one size, `[T, H, W, 3]`.
///
/// # Errors
/// Frames of different sizes; Python has no memory left.
pub fn frames<'py>(py: Python<'py>, frames: &[Arc<Image>]) -> PyResult<Bound<'py, PyAny>> {
    let (height, width) = frames.first().map_or((0, 0), |frame| (frame.height, frame.width));
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| &frame.rgb).copied().collect();
    Ok(PyArray::from_vec(py, bytes).reshape([frames.len(), height, width, 3])?.into_any())
}

/// A matrix, `[rows, cols]`.
///
/// # Errors
/// Python has no memory left.
pub fn matrix<'py>(py: Python<'py>, matrix: &Matrix) -> PyResult<Bound<'py, PyAny>> {
    Ok(PyArray::from_slice(py, &matrix.data).reshape([matrix.rows, matrix.cols])?.into_any())
}

/// The initial noise of `count` observations: `[count, rows, cols]`, or `[rows, cols]` for one.
///
/// # Errors
/// Another shape.
pub fn noise(array: &PyReadonlyArrayDyn<'_, f32>, count: usize, shape: [usize; 2]) -> PyResult<Vec<Matrix>> {
    let [rows, cols] = shape;
    let found = array.shape();
    if found != [count, rows, cols] && !(count == 1 && found == shape) {
        let what = format!("noise: expected float32 [{count}, {rows}, {cols}], found {found:?}");
        return Err(crate::error(&anyhow::Error::msg(what)));
    }
    let values: Vec<f32> = array.as_array().iter().copied().collect();
    let matrix = |data: &[f32]| Matrix { rows, cols, data: data.to_vec() };
    Ok(values.chunks_exact(rows * cols).map(matrix).collect())
}
