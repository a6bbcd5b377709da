//! Values of a reply as Python's.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_serve::Value;

/// `get_modality_config` as a server answers it, as dictionaries and lists.
///
/// # Errors
/// Python has no memory left.
pub fn modalities<'py>(py: Python<'py>, modalities: &EmbodimentModalities) -> PyResult<Bound<'py, PyAny>> {
    let reply = steadyhand_serve::modality_config(modalities);
    let value = steadyhand_serve::read(&reply).map_err(|error| crate::error(&error.into()))?;
    python(py, &value)
}

fn python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Bool(truth) => truth.into_bound_py_any(py),
        Value::Int(number) => number.into_bound_py_any(py),
        Value::Float(number) => number.into_bound_py_any(py),
        Value::Str(text) => text.into_bound_py_any(py),
        Value::Bin(bytes) => bytes.into_bound_py_any(py),
        Value::Array(items) => {
            let items = items.iter().map(|item| python(py, item)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, items)?.into_any())
        }
        Value::Map(entries) => {
            let map = PyDict::new(py);
            for (key, value) in entries {
                map.set_item(python(py, key)?, python(py, value)?)?;
            }
            Ok(map.into_any())
        }
        // Replies have neither arrays nor objects of this process.
        Value::Nil | Value::Ndarray(_) | Value::Object(_) => Ok(py.None().into_bound(py)),
    }
}
