//! What a graph takes and gives, and what a file says of itself.

use super::proto::{ModelProto, ValueInfoProto, data_type};
use super::{Recorder, Value};
use crate::{Error, Result};
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_fidelity::trace::Dtype;

/// No protobuf message is longer.
const MOST_BYTES: u64 = 2 << 30;

/// An input or output of a recorded graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Whether the graph writes it.
    pub is_output: bool,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub dims: Vec<PortDim>,
}

/// A dimension of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortDim {
    /// Always this.
    Fixed(usize),
    /// Known when the graph runs; dimensions of one name are equal.
    Open(String),
}

impl Recorder<'_> {
    /// Makes `x` the graph's output `name`, and gives its inputs and outputs in place of writing it.
    pub fn ports(self, x: &Value, name: &str) -> Vec<Port> {
        self.output(x, name);
        let (graph, _) = self.graph.into_inner().finish(name);
        let inputs = graph.input.iter().filter_map(|info| port(info, false));
        inputs.chain(graph.output.iter().filter_map(|info| port(info, true))).collect()
    }
}

/// None for what this recorder does not record.
pub(super) fn port(info: &ValueInfoProto, is_output: bool) -> Option<Port> {
    let tensor = info.r#type.as_ref()?.tensor_type.as_ref()?;
    let dtype = dtype(tensor.elem_type)?;
    let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match (dim.dim_value, &dim.dim_param) {
        (Some(size), _) => PortDim::Fixed(usize::try_from(size).unwrap_or_default()),
        (None, name) => PortDim::Open(name.clone().unwrap_or_default()),
    });
    Some(Port { name: info.name.clone(), is_output, dtype, dims: dims.collect() })
}

/// The type of this `TensorProto.DataType`; none for one that this recorder does not record.
pub(super) fn dtype(element: i32) -> Option<Dtype> {
    Some(match element {
        data_type::FLOAT => Dtype::F32,
        data_type::FLOAT16 => Dtype::F16,
        data_type::BFLOAT16 => Dtype::Bf16,
        data_type::INT64 => Dtype::I64,
        data_type::BOOL => Dtype::Bool,
        _ => return None,
    })
}

/// What an ONNX file's metadata says of an export of this crate: the entries whose keys begin with `steadyhand.`,
/// without that; none for a file of another's.
///
/// # Errors
/// The file cannot be read or is no ONNX.
pub fn file_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    let own = model_of_file(path)?.metadata_props.into_iter().filter_map(|entry| {
        let key = entry.key.strip_prefix("steadyhand.")?.to_owned();
        Some((key, entry.value))
    });
    Ok(own.collect())
}

/// An ONNX file's message.
///
/// # Errors
/// As [`file_metadata`].
pub(super) fn model_of_file(path: &Path) -> Result<ModelProto> {
    let length = std::fs::metadata(path).map_err(|source| Error::io(path, source))?.len();
    if length > MOST_BYTES {
        return Err(Error::file(
            path,
            format!("expected an ONNX file of at most 2 GiB, found {length} bytes"),
        ));
    }
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let model = ModelProto::decode(bytes.as_slice());
    model.map_err(|error| Error::file(path, format!("expected an ONNX file: {error}")))
}
