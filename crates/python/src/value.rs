//! Python's values as those that a server's clients send.

use crate::arrays::{Held, held};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use steadyhand_serve::Value;

/// Most containers within each other: one that holds itself has no end.
const MAX_DEPTH: usize = 24;

/// A Python value whose texts and arrays are held, so that a [`Value`] can borrow them.
pub enum Tree<'py> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Bound<'py, PyBytes>),
    List(Vec<Tree<'py>>),
    Map(Vec<(String, Tree<'py>)>),
    Array(Held<'py>),
    /// What no request has; by the name of its type.
    Other(String),
}

/// What a value is.
///
/// # Errors
/// A number of more than 128 bits; lists or maps in each other without end.
pub fn tree<'py>(value: &Bound<'py, PyAny>) -> PyResult<Tree<'py>> {
    at_depth(value, 0)
}

fn at_depth<'py>(value: &Bound<'py, PyAny>, depth: usize) -> PyResult<Tree<'py>> {
    if depth > MAX_DEPTH {
        let what = format!("observation: expected at most {MAX_DEPTH} maps and lists within each other");
        return Err(crate::error(&anyhow::Error::msg(what)));
    }
    if value.is_none() {
        return Ok(Tree::None);
    }
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        // Texts of NumPy: as Python's own.
        if [b'U', b'O'].contains(&array.dtype().kind()) {
            return at_depth(&value.call_method0("tolist")?, depth + 1);
        }
        return Ok(Tree::Array(held(array)?));
    }
    if let Ok(map) = value.cast::<PyDict>() {
        let entry = |(key, value): (Bound<'py, PyAny>, Bound<'py, PyAny>)| {
            Ok((key.str()?.to_string(), at_depth(&value, depth + 1)?))
        };
        return Ok(Tree::Map(map.iter().map(entry).collect::<PyResult<_>>()?));
    }
    let list = |items: Vec<Bound<'py, PyAny>>| {
        let items = items.iter().map(|item| at_depth(item, depth + 1));
        Ok(Tree::List(items.collect::<PyResult<_>>()?))
    };
    if let Ok(items) = value.cast::<PyList>() {
        return list(items.iter().collect());
    }
    if let Ok(items) = value.cast::<PyTuple>() {
        return list(items.iter().collect());
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Tree::Text(text.to_str()?.to_owned()));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Tree::Bytes(bytes.clone()));
    }
    if let Ok(truth) = value.cast::<PyBool>() {
        return Ok(Tree::Bool(truth.is_true()));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(Tree::Int(value.extract()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(Tree::Float(value.extract()?));
    }
    // A NumPy scalar.
    if value.hasattr("dtype")? && value.hasattr("item")? {
        return at_depth(&value.call_method0("item")?, depth + 1);
    }
    // A tensor of PyTorch in host memory, and whatever else NumPy can look at.
    if value.hasattr("__array__")?
        && let Ok(array) = value.py().import("numpy")?.call_method1("asarray", (value,))
    {
        return at_depth(&array, depth + 1);
    }
    Ok(Tree::Other(value.get_type().name()?.to_string()))
}

impl Tree<'_> {
    /// The value as a request has it.
    pub fn value(&self) -> Value<'_> {
        match self {
            Tree::None => Value::Nil,
            Tree::Bool(truth) => Value::Bool(*truth),
            Tree::Int(number) => Value::Int(*number),
            Tree::Float(number) => Value::Float(*number),
            Tree::Text(text) => Value::Str(text),
            Tree::Bytes(bytes) => Value::Bin(bytes.as_bytes()),
            Tree::List(items) => Value::Array(items.iter().map(Tree::value).collect()),
            Tree::Map(entries) => {
                Value::Map(entries.iter().map(|(key, value)| (Value::Str(key), value.value())).collect())
            }
            Tree::Array(array) => array.value(),
            Tree::Other(name) => Value::Object(name),
        }
    }
}
