//! A graph read back from its file, for what builds something from it node by node.

use super::ports::{model_of_file, port};
use super::proto::{
    AttributeProto, EXTERNAL, NodeProto, StringStringEntryProto, TensorProto, attribute_type,
};
use super::{Port, ports};
use crate::checkpoint::MappedFile;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use steadyhand_fidelity::trace::Dtype;

/// A graph of standard operations, with its tensors.
#[derive(Debug)]
pub struct GraphFile {
    /// Version of its operators.
    pub opset: i64,
    /// What it takes.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Port>,
    /// Its operations, each after those that it depends on.
    pub nodes: Vec<Node>,
    /// Its tensors, by name.
    pub constants: BTreeMap<String, Constant>,
}

/// An operation.
#[derive(Debug)]
pub struct Node {
    /// Unique in its graph where the file was written by this crate.
    pub name: String,
    /// Such as `MatMul`.
    pub operator: String,
    /// Names of the values that it reads; empty for one that was left out.
    pub inputs: Vec<String>,
    /// Names of the values that it gives.
    pub outputs: Vec<String>,
    attributes: BTreeMap<String, Attribute>,
}

/// A value of an attribute.
#[derive(Debug)]
enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
}

impl Node {
    /// A whole number, or `otherwise` where there is no such attribute.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn int(&self, name: &str, otherwise: i64) -> Result<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => Ok(*value),
            None => Ok(otherwise),
            Some(_) => Err(self.other_kind(name, "a whole number")),
        }
    }

    /// Whole numbers; none where there is no such attribute.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            None => Ok(None),
            Some(_) => Err(self.other_kind(name, "whole numbers")),
        }
    }

    fn other_kind(&self, name: &str, expected: &str) -> Error {
        let field = format!("node {} ({}), attribute {name}", self.name, self.operator);
        Error::input(field, format!("expected {expected}, found another kind"))
    }
}

/// A tensor of a graph.
#[derive(Debug, Clone)]
pub struct Constant {
    /// Its elements' type.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Its elements.
    pub bytes: Bytes,
}

impl Constant {
    /// Its elements, where they are int64.
    pub fn integers(&self) -> Option<Vec<i64>> {
        if self.dtype != Dtype::I64 {
            return None;
        }
        let (elements, _) = self.bytes.as_slice().as_chunks();
        Some(elements.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }
}

/// Bytes that stay as they are as long as anything has them.
#[derive(Debug, Clone)]
pub struct Bytes(Held);

#[derive(Debug, Clone)]
enum Held {
    Own(Arc<[u8]>),
    Mapped(Arc<MappedFile>, Range<usize>),
}

impl Bytes {
    /// Bytes of their own.
    pub fn new(bytes: Vec<u8>) -> Self {
        Bytes(Held::Own(bytes.into()))
    }

    /// The bytes. They do not move.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Held::Own(bytes) => bytes,
            Held::Mapped(file, range) => file.bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl GraphFile {
    /// Whether any of its tensors, inputs or outputs has this type.
    pub fn has(&self, dtype: Dtype) -> bool {
        let mut ports = self.inputs.iter().chain(&self.outputs);
        ports.any(|port| port.dtype == dtype)
            || self.constants.values().any(|constant| constant.dtype == dtype)
    }

    /// Reads a graph; its tensors are mapped where they lie in a file of their own.
    ///
    /// # Errors
    /// A file that cannot be read, is no ONNX, or has a tensor whose bytes are not those of its type and dimensions.
    pub fn read(path: &Path) -> Result<Self> {
        let model = model_of_file(path)?;
        let refuse = |what: &str| Error::file(path, what);
        let graph = model.graph.ok_or_else(|| refuse("expected a graph, found none"))?;
        let standard = model.opset_import.iter().find(|set| set.domain.is_empty());
        let opset = standard.ok_or_else(|| refuse("expected an opset of ONNX, found none"))?.version;
        let read_ports = |infos: &[super::proto::ValueInfoProto], is_output| -> Result<Vec<Port>> {
            let of = |info: &super::proto::ValueInfoProto| {
                let what = format!("{}: expected a tensor of a known type", info.name);
                port(info, is_output).ok_or_else(|| Error::file(path, what))
            };
            infos.iter().map(of).collect()
        };
        let mut files = Files { graph: path, open: BTreeMap::new() };
        let constants = graph.initializer.iter().map(|tensor| {
            let constant = files.constant(tensor);
            let constant =
                constant.map_err(|what| Error::file(path, format!("tensor {}: {what}", tensor.name)));
            Ok((tensor.name.clone(), constant?))
        });
        Ok(GraphFile {
            opset,
            inputs: read_ports(&graph.input, false)?,
            outputs: read_ports(&graph.output, true)?,
            constants: constants.collect::<Result<_>>()?,
            nodes: graph.node.into_iter().map(node).collect(),
        })
    }
}

fn node(node: NodeProto) -> Node {
    let attributes = node.attribute.into_iter().filter_map(|attribute| {
        let name = attribute.name.clone();
        Some((name, value(attribute)?))
    });
    Node {
        attributes: attributes.collect(),
        name: node.name,
        operator: node.op_type,
        inputs: node.input,
        outputs: node.output,
    }
}

/// None for numbers and texts, which no operation that is read here has.
fn value(attribute: AttributeProto) -> Option<Attribute> {
    Some(match attribute.r#type {
        attribute_type::INT => Attribute::Int(attribute.i?),
        attribute_type::INTS => Attribute::Ints(attribute.ints),
        _ => return None,
    })
}

/// Files with tensors of a graph.
struct Files<'p> {
    graph: &'p Path,
    open: BTreeMap<PathBuf, Arc<MappedFile>>,
}

impl Files<'_> {
    fn constant(&mut self, tensor: &TensorProto) -> Result<Constant, String> {
        let dtype = ports::dtype(tensor.data_type)
            .ok_or_else(|| format!("expected a known type, found ONNX's {}", tensor.data_type))?;
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let dims = dims.ok_or_else(|| format!("expected dimensions, found {:?}", tensor.dims))?;
        let expected = dims.iter().try_fold(dtype.size(), |count, dim| count.checked_mul(*dim));
        let bytes = match (&tensor.raw_data, tensor.data_location) {
            (_, Some(EXTERNAL)) => self.mapped(&tensor.external_data, expected)?,
            (Some(bytes), _) => Bytes::new(bytes.clone()),
            (None, _) => return Err("expected its bytes in the graph or in a file, found neither".to_owned()),
        };
        let found = bytes.as_slice().len();
        if expected != Some(found) {
            return Err(format!("expected the bytes of {dtype} {dims:?}, found {found}"));
        }
        Ok(Constant { dtype, dims, bytes })
    }

    /// A tensor's part of a file beside the graph.
    fn mapped(&mut self, entries: &[StringStringEntryProto], length: Option<usize>) -> Result<Bytes, String> {
        let entry =
            |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let number = |key: &str| {
            entry(key).map(|value| value.parse::<usize>().map_err(|_| format!("{key}: `{value}`")))
        };
        let location = Path::new(entry("location").unwrap_or_default());
        // A name, not a way to somewhere else.
        let name = location.file_name().filter(|name| Path::new(name) == location);
        let name = name.ok_or_else(|| format!("expected a file beside the graph, found {location:?}"))?;
        let path = self.graph.with_file_name(name);
        let file = match self.open.get(&path) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(MappedFile::open(&path).map_err(|error| error.to_string())?);
                self.open.insert(path.clone(), Arc::clone(&file));
                file
            }
        };
        let start = number("offset").transpose()?.unwrap_or(0);
        let length = number("length").transpose()?.or(length).unwrap_or(0);
        let end = start.checked_add(length).filter(|end| *end <= file.bytes().len());
        let end = end.ok_or_else(|| {
            let found = file.bytes().len();
            format!("expected {length} bytes from {start} on in {}, found a file of {found}", path.display())
        })?;
        Ok(Bytes(Held::Mapped(file, start..end)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{GraphProto, ModelProto, OperatorSetIdProto, data_type};
    use super::*;
    use prost::Message;

    fn entry(key: &str, value: &str) -> StringStringEntryProto {
        StringStringEntryProto { key: key.to_owned(), value: value.to_owned() }
    }

    fn tensor(location: &str, offset: &str) -> TensorProto {
        TensorProto {
            name: "weight".to_owned(),
            dims: vec![2, 1],
            data_type: data_type::FLOAT,
            data_location: Some(EXTERNAL),
            external_data: vec![entry("location", location), entry("offset", offset), entry("length", "8")],
            ..TensorProto::default()
        }
    }

    fn read(tensor: TensorProto) -> Result<GraphFile> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("graph.onnx");
        std::fs::write(folder.path().join("graph.data"), [0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64])
            .expect("a file");
        let model = ModelProto {
            graph: Some(GraphProto { initializer: vec![tensor], ..GraphProto::default() }),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
            ..ModelProto::default()
        };
        std::fs::write(&path, model.encode_to_vec()).expect("a file");
        GraphFile::read(&path)
    }

    #[test]
    fn tensors_are_read_from_where_they_lie() {
        let graph = read(tensor("graph.data", "4")).expect("a graph");
        let weight = &graph.constants["weight"];
        assert_eq!((graph.opset, weight.dtype, &weight.dims[..]), (17, Dtype::F32, &[2, 1][..]));
        assert_eq!(weight.bytes.as_slice(), [0, 0, 128, 63, 0, 0, 0, 64]);
    }

    #[test]
    fn tensors_that_do_not_lie_there_are_refused() {
        let refusal = |tensor: TensorProto| read(tensor).expect_err("a refusal").to_string();
        let found = refusal(tensor("../graph.data", "4"));
        assert!(found.contains("tensor weight: expected a file beside the graph"), "{found}");
        let found = refusal(tensor("graph.data", "8"));
        assert!(
            found.contains("expected 8 bytes from 8 on in ") && found.ends_with("a file of 12"),
            "{found}"
        );
        let found = refusal(TensorProto { dims: vec![3], ..tensor("graph.data", "0") });
        assert!(found.ends_with("expected the bytes of F32 [3], found 8"), "{found}");
        let found = refusal(TensorProto { data_type: 8, ..tensor("graph.data", "0") });
        assert!(found.ends_with("expected a known type, found ONNX's 8"), "{found}");
    }
}
