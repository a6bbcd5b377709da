//! A graph under construction: nodes in the order they are recorded, names that stay unique, constants and
//! casts that exist once.

use super::data::{Data, element_type};
use super::proto::{
    AttributeProto, Dimension, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorType, TypeProto,
    ValueInfoProto, attribute_type, data_type,
};
use crate::checkpoint::Weight;
use std::collections::HashMap;
use steadyhand_fidelity::Format;

/// A dimension of a graph input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dim {
    /// Always this.
    Fixed(usize),
    /// Known when the graph runs.
    Named(String),
}

/// An attribute of a node.
#[derive(Debug, Clone)]
pub(super) enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
    Float(&'static str, f32),
    Text(&'static str, &'static str),
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializers: Vec<TensorProto>,
    data: Data,
    /// How often a name was asked for.
    names: HashMap<String, usize>,
    casts: HashMap<(String, i32), String>,
    constants: HashMap<(Vec<usize>, Vec<u32>, Format), String>,
    integers: HashMap<(Vec<i64>, bool), String>,
    weights: HashMap<(String, Format), String>,
    transposed: HashMap<String, String>,
}

impl Graph {
    /// `name`, or with a number where it is taken.
    fn unique(&mut self, name: &str) -> String {
        let mut found = name.to_owned();
        while self.names.contains_key(&found) {
            let count = self.names.entry(name.to_owned()).or_default();
            *count += 1;
            found = format!("{name}.{count}");
        }
        self.names.insert(found.clone(), 1);
        found
    }

    /// Appends a node below the site `at`; the name of its one output.
    pub(super) fn node(&mut self, at: &str, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        let name = self.unique(&format!("{at}/{op}"));
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.clone()],
            name: name.clone(),
            op_type: op.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
        });
        name
    }

    /// Gives the result of the node recorded last the name of its site; other values keep theirs.
    pub(super) fn name_result(&mut self, value: String, site: &str) -> String {
        let name = self.unique(site);
        match self.nodes.last_mut() {
            Some(node) if node.output[0] == value => {
                node.output[0].clone_from(&name);
                if let ("Cast", Some(to)) = (node.op_type.as_str(), node.attribute.first()) {
                    let key = (node.input[0].clone(), to.i.unwrap_or_default() as i32);
                    self.casts.insert(key, name.clone());
                }
                name
            }
            _ => value,
        }
    }

    /// `value` as an element type; the same cast is recorded once.
    pub(super) fn cast_to(&mut self, value: &str, to: i32) -> String {
        let key = (value.to_owned(), to);
        if let Some(name) = self.casts.get(&key) {
            return name.clone();
        }
        let name = self.node(value, "Cast", &[value], &[Attribute::Int("to", i64::from(to))]);
        self.casts.insert(key, name.clone());
        name
    }

    /// `value` of format `from` in format `to`.
    pub(super) fn cast(&mut self, value: &str, from: Format, to: Format) -> String {
        if from == to { value.to_owned() } else { self.cast_to(value, element_type(to)) }
    }

    /// A one-dimensional constant.
    pub(super) fn integers(&mut self, values: &[i64]) -> String {
        self.integer_tensor(values, false)
    }

    /// A constant without dimensions.
    pub(super) fn integer(&mut self, value: i64) -> String {
        self.integer_tensor(&[value], true)
    }

    fn integer_tensor(&mut self, values: &[i64], scalar: bool) -> String {
        let key = (values.to_vec(), scalar);
        if let Some(name) = self.integers.get(&key) {
            return name.clone();
        }
        let name = self.unique("constant.int64");
        self.initializers.push(TensorProto {
            name: name.clone(),
            dims: if scalar { Vec::new() } else { vec![values.len() as i64] },
            data_type: data_type::INT64,
            raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            ..TensorProto::default()
        });
        self.integers.insert(key, name.clone());
        name
    }

    /// A constant of this shape.
    pub(super) fn constant(&mut self, shape: &[usize], values: &[f32], format: Format) -> String {
        let key = (shape.to_vec(), values.iter().map(|value| value.to_bits()).collect(), format);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.unique(&format!("constant.{format}"));
        let tensor = self.data.constant(&name, shape, values, format);
        self.initializers.push(tensor);
        self.constants.insert(key, name.clone());
        name
    }

    /// A weight in `format`, under the checkpoint's name.
    pub(super) fn weight(&mut self, weight: &Weight, format: Format) -> String {
        let key = (weight.name().to_owned(), format);
        if let Some(name) = self.weights.get(&key) {
            return name.clone();
        }
        let name = self.unique(weight.name());
        let tensor = self.data.weight(&name, weight, format);
        self.initializers.push(tensor);
        self.weights.insert(key, name.clone());
        name
    }

    /// A matrix with its two dimensions exchanged; recorded once, and folded by every runtime.
    pub(super) fn transposed(&mut self, matrix: &str) -> String {
        if let Some(name) = self.transposed.get(matrix) {
            return name.clone();
        }
        let name = self.node(matrix, "Transpose", &[matrix], &[Attribute::Ints("perm", vec![1, 0])]);
        self.transposed.insert(matrix.to_owned(), name.clone());
        name
    }

    pub(super) fn input(&mut self, name: &str, element: i32, dims: &[Dim]) -> String {
        let name = self.unique(name);
        self.inputs.push(value_info(&name, element, dims));
        name
    }

    /// Makes `value` the output `name`.
    pub(super) fn output(&mut self, value: &str, name: &str, element: i32, dims: &[Dim]) {
        self.nodes.push(NodeProto {
            input: vec![value.to_owned()],
            output: vec![name.to_owned()],
            name: format!("{name}/Identity"),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
        });
        self.outputs.push(value_info(name, element, dims));
    }

    /// The finished graph and the data beside it.
    pub(super) fn finish(self, name: &str) -> (GraphProto, Data) {
        let graph = GraphProto {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.initializers,
            input: self.inputs,
            output: self.outputs,
        };
        (graph, self.data)
    }
}

fn attribute(attribute: &Attribute) -> AttributeProto {
    let named = |name: &str, kind: i32| AttributeProto {
        name: name.to_owned(),
        r#type: kind,
        ..AttributeProto::default()
    };
    match attribute {
        Attribute::Int(name, value) => AttributeProto { i: Some(*value), ..named(name, attribute_type::INT) },
        Attribute::Ints(name, values) => {
            AttributeProto { ints: values.clone(), ..named(name, attribute_type::INTS) }
        }
        Attribute::Float(name, value) => {
            AttributeProto { f: Some(*value), ..named(name, attribute_type::FLOAT) }
        }
        Attribute::Text(name, value) => {
            AttributeProto { s: Some(value.as_bytes().to_vec()), ..named(name, attribute_type::STRING) }
        }
    }
}

fn value_info(name: &str, element: i32, dims: &[Dim]) -> ValueInfoProto {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => Dimension { dim_value: Some(*size as i64), dim_param: None },
        Dim::Named(name) => Dimension { dim_value: None, dim_param: Some(name.clone()) },
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor_type = TensorType { elem_type: element, shape: Some(shape) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}
