//! A graph of standard operations as a network, layer by layer, for libraries whose graphs no parser reads here.
//!
//! It takes what the exports of this project's DiT and action head have. An operator without a form is refused by name,
//! with its node.

mod fold;
mod operators;

use super::ffi::{Draft, Library, Network, Wire};
use super::profile::Range;
use super::record::{Operation, OperationKind};
use std::collections::{BTreeMap, HashMap};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::{Constant, GraphFile, Node, Port, PortDim};

/// A network made from a graph.
pub(super) struct Translated {
    pub(super) network: Network,
    /// Its operations, in the graph's types.
    pub(super) operations: Vec<Operation>,
}

/// A value of the graph.
#[derive(Debug, Clone)]
enum Value {
    /// Known before the network runs; a matrix may be read transposed.
    Known { constant: Constant, transposed: bool },
    /// Known when it runs.
    Made { wire: Wire, dtype: Dtype },
}

/// A graph on its way.
struct Translation {
    draft: Draft,
    values: HashMap<String, Value>,
    /// Constants that are layers: by name, number of dimensions and whether they are transposed.
    constants: HashMap<(String, usize, bool), Wire>,
    operations: Vec<Operation>,
    /// Whether whole numbers have 32 bits: the library's have no more.
    narrow_integers: bool,
    /// Whether layers are held to the graph's types.
    held: bool,
}

/// Makes the network of a graph. An open dimension whose range is one size is fixed to it. Where the network is weakly
/// typed, `held` holds every layer to the graph's types.
///
/// # Errors
/// A node that has no form here; what the library refuses.
pub(super) fn translate(
    library: &Library,
    graph: &GraphFile,
    ranges: &BTreeMap<String, Range>,
    held: bool,
) -> Result<Translated, String> {
    let mut translation = Translation {
        draft: Draft::new(library)?,
        values: HashMap::new(),
        constants: HashMap::new(),
        operations: Vec::new(),
        narrow_integers: library.weakly_typed(),
        held,
    };
    let own = &mut translation;
    for (name, constant) in &graph.constants {
        let value = Value::Known { constant: constant.clone(), transposed: false };
        own.values.insert(name.clone(), value);
    }
    for input in &graph.inputs {
        let dtype = own.taken(input.dtype).map_err(|what| format!("input {}: {what}", input.name))?;
        let wire = own.draft.input(&input.name, dtype, &dims_of(input, ranges))?;
        own.values.insert(input.name.clone(), Value::Made { wire, dtype });
    }
    for node in &graph.nodes {
        let value =
            own.node(node).map_err(|what| format!("node {} ({}): {what}", node.name, node.operator))?;
        let [name] = &node.outputs[..] else {
            return Err(format!("node {}: expected one output, found {}", node.name, node.outputs.len()));
        };
        own.values.insert(name.clone(), value);
    }
    for output in &graph.outputs {
        own.output(output).map_err(|what| format!("output {}: {what}", output.name))?;
    }
    Ok(Translated { network: translation.draft.finish(), operations: translation.operations })
}

/// Dimensions of an input: fixed where its range is one size, -1 where it is more.
fn dims_of(input: &Port, ranges: &BTreeMap<String, Range>) -> Vec<i64> {
    let size = |dim: &PortDim| match dim {
        PortDim::Fixed(size) => *size as i64,
        PortDim::Open(name) => match ranges.get(name) {
            Some(range) if range.least == range.most => range.most as i64,
            _ => -1,
        },
    };
    input.dims.iter().map(size).collect()
}

impl Translation {
    /// A type as the library has it.
    fn taken(&self, dtype: Dtype) -> Result<Dtype, String> {
        match dtype {
            Dtype::I64 if self.narrow_integers => Ok(Dtype::I32),
            other => Ok(other),
        }
    }

    fn value(&self, name: &str) -> Result<&Value, String> {
        self.values.get(name).ok_or_else(|| format!("reads `{name}`, which nothing before it gives"))
    }

    /// Input `index` of a node.
    fn read(&self, node: &Node, index: usize) -> Result<Value, String> {
        let name = node.inputs.get(index).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("expected an input {index}, found none"))?;
        self.value(name).cloned()
    }

    /// Input `index` of a node as whole numbers that are known.
    fn integers(&self, node: &Node, index: usize) -> Result<Vec<i64>, String> {
        match self.read(node, index)? {
            Value::Known { constant, .. } => constant
                .integers()
                .ok_or_else(|| format!("input {index}: expected I64, found {}", constant.dtype)),
            Value::Made { .. } => {
                Err(format!("input {index}: expected constants, found what is known when the network runs"))
            }
        }
    }

    fn dtype(&self, value: &Value) -> Result<Dtype, String> {
        match value {
            Value::Known { constant, .. } => self.taken(constant.dtype),
            Value::Made { dtype, .. } => Ok(*dtype),
        }
    }

    /// Dimensions of a value, as they are read; -1 where open.
    fn dims(&self, value: &Value) -> Result<Vec<i64>, String> {
        match value {
            Value::Known { constant, transposed } => {
                let mut dims: Vec<i64> = constant.dims.iter().map(|dim| *dim as i64).collect();
                if *transposed {
                    dims.reverse();
                }
                Ok(dims)
            }
            Value::Made { wire, .. } => self.draft.dims(*wire),
        }
    }

    /// A value as a tensor of `rank` dimensions, more of one element in front.
    fn wire(&mut self, at: &str, value: &Value, rank: usize) -> Result<Wire, String> {
        match value {
            Value::Known { constant, transposed } => {
                let key = (at.to_owned(), rank.max(constant.dims.len()), *transposed);
                if let Some(wire) = self.constants.get(&key) {
                    return Ok(*wire);
                }
                let constant = self.narrowed(constant)?;
                let ones = rank.saturating_sub(constant.dims.len());
                let dims: Vec<i64> =
                    std::iter::repeat_n(1, ones).chain(constant.dims.iter().map(|dim| *dim as i64)).collect();
                let wire = self.draft.constant(at, constant.dtype, &dims, &constant.bytes)?;
                let wire = if *transposed {
                    let mut order: Vec<usize> = (0..dims.len()).collect();
                    order[ones..].reverse();
                    self.draft.shuffle(at, wire, Some(&order), None)?
                } else {
                    wire
                };
                self.constants.insert(key, wire);
                Ok(wire)
            }
            Value::Made { wire, dtype } => {
                let dims = self.draft.dims(*wire)?;
                if dims.len() >= rank {
                    return Ok(*wire);
                }
                let ones = rank - dims.len();
                let sources: Vec<Option<usize>> =
                    std::iter::repeat_n(None, ones).chain((0..dims.len()).map(Some)).collect();
                let lifted = self.draft.shuffle(at, *wire, None, Some(&redimensioned(&dims, &sources)?))?;
                self.hold(lifted, *dtype, *dtype)?;
                Ok(lifted)
            }
        }
    }

    /// Holds the layer of a tensor to the types that the graph has, where that is asked for and the types are floats'.
    fn hold(&self, wire: Wire, precision: Dtype, result: Dtype) -> Result<(), String> {
        let floats = [Dtype::F32, Dtype::F16];
        if self.held && floats.contains(&precision) && floats.contains(&result) {
            self.draft.hold(wire, precision, result)?;
        }
        Ok(())
    }

    /// What a layer gave, of the type that its operands have.
    fn made(&self, wire: Wire, dtype: Dtype) -> Result<Value, String> {
        self.hold(wire, dtype, dtype)?;
        Ok(Value::Made { wire, dtype })
    }

    fn operation(&mut self, node: &Node, kind: OperationKind, dtype: Dtype) {
        self.operations.push(Operation { name: node.name.clone(), kind, dtype: Some(dtype) });
    }

    /// Makes a value an output of its own.
    fn output(&mut self, output: &Port) -> Result<(), String> {
        let dtype = self.taken(output.dtype)?;
        let value = self.value(&output.name)?.clone();
        let found = self.dtype(&value)?;
        if found != dtype {
            return Err(format!("expected {dtype}, found {found}"));
        }
        let wire = self.wire(&output.name, &value, 0)?;
        let own = self.draft.identity(&format!("{}/Identity", output.name), wire)?;
        self.hold(own, dtype, dtype)?;
        self.draft.output(own, &output.name, dtype)
    }
}

/// Dimensions for a reshape in which each is that of a source, or one: 0 keeps the one at its place, -1 is the only open
/// one elsewhere.
fn redimensioned(dims: &[i64], sources: &[Option<usize>]) -> Result<Vec<i64>, String> {
    let mut inferred = 0;
    let mut size = |(place, source): (usize, &Option<usize>)| match source {
        None => 1,
        Some(source) if dims[*source] >= 0 => dims[*source],
        Some(source) if *source == place => 0,
        Some(_) => {
            inferred += 1;
            -1
        }
    };
    let reshaped: Vec<i64> = sources.iter().enumerate().map(&mut size).collect();
    if inferred > 1 {
        return Err(format!(
            "of {dims:?} more than one open dimension moves; give them one size each (--shapes)"
        ));
    }
    Ok(reshaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_keep_their_place_or_are_inferred() {
        let lifted = redimensioned(&[-1, 17], &[None, Some(0), Some(1)]).expect("one moves");
        assert_eq!(lifted, [1, -1, 17]);
        let mask = redimensioned(&[-1, -1], &[Some(0), None, None, Some(1)]).expect("one moves");
        assert_eq!(mask, [0, 1, 1, -1]);
        assert!(redimensioned(&[-1, -1], &[None, Some(0), Some(1)]).is_err());
    }
}
