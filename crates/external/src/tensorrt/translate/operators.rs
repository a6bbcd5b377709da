//! The operators, each as layers.

use super::{Translation, Value, fold, redimensioned};
use crate::tensorrt::ffi::{Activation, Elementwise, Unary, Wire};
use crate::tensorrt::record::OperationKind;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::Node;

/// `TensorProto.DataType`s that a Cast goes to.
const TYPES: [(i64, Dtype); 5] =
    [(1, Dtype::F32), (7, Dtype::I64), (9, Dtype::Bool), (10, Dtype::F16), (16, Dtype::Bf16)];

impl Translation {
    /// What a node gives.
    pub(super) fn node(&mut self, node: &Node) -> Result<Value, String> {
        match node.operator.as_str() {
            "Identity" => self.read(node, 0),
            "Cast" => self.cast(node),
            "Add" => self.elementwise(node, Elementwise::Sum),
            "Sub" => self.elementwise(node, Elementwise::Difference),
            "Mul" => self.elementwise(node, Elementwise::Product),
            "Div" => self.elementwise(node, Elementwise::Quotient),
            "And" => self.elementwise(node, Elementwise::And),
            "Not" => self.unary(node, Unary::Not),
            "Sqrt" => self.unary(node, Unary::Sqrt),
            "Sin" => self.unary(node, Unary::Sin),
            "Cos" => self.unary(node, Unary::Cos),
            "Erf" => self.unary(node, Unary::Erf),
            "Relu" => self.activation(node, Activation::Relu),
            "Sigmoid" => self.activation(node, Activation::Sigmoid),
            "Tanh" => self.activation(node, Activation::Tanh),
            "MatMul" => self.product(node),
            "Softmax" => self.softmax(node),
            "ReduceMean" => self.mean(node),
            "Where" => self.select(node),
            "Transpose" => self.transpose(node),
            "Reshape" => self.reshape(node),
            "Unsqueeze" => self.unsqueeze(node),
            "Concat" => self.concat(node),
            "Slice" => self.slice(node),
            "Gather" => self.gather(node),
            "Shape" => self.shape(node),
            "Expand" => self.expand(node),
            _ => Err(
                "expected an operator that layers are made of, found another; graphs for it are those of \
                      --target tensorrt:8.5 and the components dit and action_head"
                    .to_owned(),
            ),
        }
    }

    fn cast(&mut self, node: &Node) -> Result<Value, String> {
        let number = int(node, "to", 0)?;
        let to = TYPES.iter().find(|(known, _)| *known == number);
        let (_, to) = to.ok_or_else(|| format!("to: expected a known type, found ONNX's {number}"))?;
        let to = self.taken(*to)?;
        let value = self.read(node, 0)?;
        if let Value::Known { constant, transposed } = &value
            && let Some(constant) = fold::cast(constant, to)
        {
            return Ok(Value::Known { constant, transposed: *transposed });
        }
        let (wire, dtype) = (self.wire(&node.inputs[0], &value, 0)?, self.dtype(&value)?);
        if dtype == to {
            return Ok(Value::Made { wire, dtype });
        }
        let wire = self.draft.cast(&node.name, wire, to)?;
        Ok(Value::Made { wire, dtype: to })
    }

    /// Inputs of a node, all of as many dimensions as the one that has most, and their type, which is the same for all
    /// from the `first` on.
    fn broadcast<const COUNT: usize>(
        &mut self,
        node: &Node,
        first: usize,
    ) -> Result<([Wire; COUNT], Dtype), String> {
        let values: Vec<Value> = (0..COUNT).map(|index| self.read(node, index)).collect::<Result<_, _>>()?;
        let mut rank = 0;
        for value in &values {
            rank = rank.max(self.dims(value)?.len());
        }
        let types: Vec<Dtype> = values.iter().map(|value| self.dtype(value)).collect::<Result<_, _>>()?;
        if types[first..].iter().any(|dtype| *dtype != types[first]) {
            return Err(format!("expected operands of one type, found {types:?}"));
        }
        let mut wires = Vec::with_capacity(COUNT);
        for (value, name) in values.iter().zip(&node.inputs) {
            wires.push(self.wire(name, value, rank)?);
        }
        let wires = wires.try_into().map_err(|_| "expected other inputs".to_owned())?;
        Ok((wires, types[first]))
    }

    fn elementwise(&mut self, node: &Node, operation: Elementwise) -> Result<Value, String> {
        let (operands, dtype) = self.broadcast::<2>(node, 0)?;
        let wire = self.draft.elementwise(&node.name, operands, operation)?;
        self.made(wire, dtype)
    }

    /// The one input of a node, as a tensor.
    fn only(&mut self, node: &Node) -> Result<(Wire, Dtype), String> {
        let value = self.read(node, 0)?;
        Ok((self.wire(&node.inputs[0], &value, 0)?, self.dtype(&value)?))
    }

    fn unary(&mut self, node: &Node, operation: Unary) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let wire = self.draft.unary(&node.name, of, operation)?;
        self.made(wire, dtype)
    }

    fn activation(&mut self, node: &Node, kind: Activation) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let wire = self.draft.activation(&node.name, of, kind)?;
        self.made(wire, dtype)
    }

    /// A constant that is read transposed is multiplied as it lies.
    fn product(&mut self, node: &Node) -> Result<Value, String> {
        let (left, right) = (self.read(node, 0)?, self.read(node, 1)?);
        let (dtype, other) = (self.dtype(&left)?, self.dtype(&right)?);
        if dtype != other {
            return Err(format!("expected operands of one type, found {dtype} and {other}"));
        }
        let rank = self.dims(&left)?.len().max(self.dims(&right)?.len());
        let (right, transposed) = match right {
            Value::Known { constant, transposed } => {
                (Value::Known { constant, transposed: false }, transposed)
            }
            made => (made, false),
        };
        let left = self.wire(&node.inputs[0], &left, rank)?;
        let right = self.wire(&node.inputs[1], &right, rank)?;
        let wire = self.draft.product(&node.name, [left, right], transposed)?;
        self.operation(node, OperationKind::Product, dtype);
        self.made(wire, dtype)
    }

    fn softmax(&mut self, node: &Node) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let axis = axis(int(node, "axis", -1)?, self.draft.dims(of)?.len())?;
        let wire = self.draft.softmax(&node.name, of, axis)?;
        self.operation(node, OperationKind::Softmax, dtype);
        self.made(wire, dtype)
    }

    fn mean(&mut self, node: &Node) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let axes = match ints(node, "axes")? {
            Some(axes) => axes,
            None => self.integers(node, 1)?,
        };
        let [only] = axes[..] else { return Err(format!("axes: expected one, found {axes:?}")) };
        if int(node, "keepdims", 1)? != 1 {
            return Err("keepdims: expected 1, found another".to_owned());
        }
        let axis = axis(only, self.draft.dims(of)?.len())?;
        let wire = self.draft.mean(&node.name, of, axis)?;
        self.made(wire, dtype)
    }

    fn select(&mut self, node: &Node) -> Result<Value, String> {
        let (operands, dtype) = self.broadcast::<3>(node, 1)?;
        let wire = self.draft.select(&node.name, operands)?;
        self.made(wire, dtype)
    }

    fn transpose(&mut self, node: &Node) -> Result<Value, String> {
        let value = self.read(node, 0)?;
        let rank = self.dims(&value)?.len();
        let order = match ints(node, "perm")? {
            Some(order) => order.iter().map(|place| axis(*place, rank)).collect::<Result<Vec<_>, _>>()?,
            None => (0..rank).rev().collect(),
        };
        match value {
            Value::Known { constant, transposed } if order == [1, 0] => {
                Ok(Value::Known { constant, transposed: !transposed })
            }
            value => {
                let (of, dtype) = (self.wire(&node.inputs[0], &value, 0)?, self.dtype(&value)?);
                let wire = self.draft.shuffle(&node.name, of, Some(&order), None)?;
                self.made(wire, dtype)
            }
        }
    }

    fn reshape(&mut self, node: &Node) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let dims = self.integers(node, 1)?;
        let wire = self.draft.shuffle(&node.name, of, None, Some(&dims))?;
        self.made(wire, dtype)
    }

    fn unsqueeze(&mut self, node: &Node) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let axes = self.integers(node, 1)?;
        let dims = self.draft.dims(of)?;
        let rank = dims.len() + axes.len();
        let axes = axes.iter().map(|place| axis(*place, rank)).collect::<Result<Vec<_>, _>>()?;
        let mut next = 0..dims.len();
        let sources: Vec<Option<usize>> =
            (0..rank).map(|place| if axes.contains(&place) { None } else { next.next() }).collect();
        let wire = self.draft.shuffle(&node.name, of, None, Some(&redimensioned(&dims, &sources)?))?;
        self.made(wire, dtype)
    }

    fn concat(&mut self, node: &Node) -> Result<Value, String> {
        let values: Vec<Value> =
            (0..node.inputs.len()).map(|index| self.read(node, index)).collect::<Result<_, _>>()?;
        let first = values.first().ok_or("expected inputs, found none")?;
        let (rank, dtype) = (self.dims(first)?.len(), self.dtype(first)?);
        let axis = axis(int(node, "axis", 0)?, rank)?;
        let known: Option<Vec<Vec<i64>>> = values
            .iter()
            .map(|value| match value {
                Value::Known { constant, .. } if rank == 1 => constant.integers(),
                _ => None,
            })
            .collect();
        if let Some(known) = known {
            return Ok(fold::integers(&known.concat()));
        }
        let mut wires = Vec::with_capacity(values.len());
        for (value, name) in values.iter().zip(&node.inputs) {
            if self.dtype(value)? != dtype {
                return Err("expected values of one type, found others".to_owned());
            }
            wires.push(self.wire(name, value, rank)?);
        }
        let wire = self.draft.concatenation(&node.name, &wires, axis)?;
        self.made(wire, dtype)
    }

    fn slice(&mut self, node: &Node) -> Result<Value, String> {
        let (of, dtype) = self.only(node)?;
        let dims = self.draft.dims(of)?;
        let [starts, ends, axes] = [1, 2, 3].map(|index| self.integers(node, index));
        let ([start], [end], [only]) = (&starts?[..], &ends?[..], &axes?[..]) else {
            return Err("expected one axis, found another number".to_owned());
        };
        let axis = axis(*only, dims.len())?;
        let length = dims[axis];
        if length < 0 {
            let what = format!("along the open dimension {axis} of {dims:?}; give it one size (--shapes)");
            return Err(what);
        }
        let place = |place: &i64| if *place < 0 { place + length } else { *place }.clamp(0, length);
        let (start, end) = (place(start), place(end));
        let size = (end - start).max(0);
        let mut starts = vec![0; dims.len()];
        starts[axis] = start;
        let mut sizes = dims.clone();
        sizes[axis] = size;
        let strides = vec![1; dims.len()];
        if dims.iter().all(|dim| *dim >= 0) {
            let wire = self.draft.slice(&node.name, of, [&starts, &sizes, &strides])?;
            return self.made(wire, dtype);
        }
        // Sizes of open dimensions are asked for when the network runs: the smaller of each one's own and of this one's.
        let whole = self.draft.shape(&format!("{}/Shape", node.name), of)?;
        let mut kept: Vec<i64> = vec![1; dims.len()];
        kept[axis] = 0;
        let mut added = vec![0; dims.len()];
        added[axis] = size;
        let mut own = Vec::with_capacity(2);
        for (role, numbers) in [("kept", kept), ("added", added)] {
            let numbers = fold::integers(&numbers);
            own.push(self.wire(&format!("{}/{role}", node.name), &numbers, 1)?);
        }
        let at = format!("{}/Shape", node.name);
        let others = self.draft.elementwise(&at, [whole, own[0]], Elementwise::Product)?;
        let size = self.draft.elementwise(&at, [others, own[1]], Elementwise::Sum)?;
        let wire = self.draft.slice(&node.name, of, [&starts, &starts, &strides])?;
        self.draft.size_of_slice(wire, size);
        self.made(wire, dtype)
    }

    fn gather(&mut self, node: &Node) -> Result<Value, String> {
        let (data, dtype) = self.only(node)?;
        let axis = axis(int(node, "axis", 0)?, self.draft.dims(data)?.len())?;
        let indices = self.read(node, 1)?;
        let indices = self.wire(&node.inputs[1], &indices, 0)?;
        let wire = self.draft.gather(&node.name, [data, indices], axis)?;
        self.made(wire, dtype)
    }

    /// Dimensions that are the same in every run are constants.
    fn shape(&mut self, node: &Node) -> Result<Value, String> {
        let value = self.read(node, 0)?;
        let dims = self.dims(&value)?;
        let place = |place: i64| {
            if place < 0 { place + dims.len() as i64 } else { place }.clamp(0, dims.len() as i64)
        };
        let (start, end) = (place(int(node, "start", 0)?), place(int(node, "end", i64::MAX)?));
        let asked = dims.get(start as usize..end as usize).unwrap_or_default();
        if asked.iter().any(|dim| *dim < 0) {
            return Err(format!("of the open dimensions {dims:?}; give them one size each (--shapes)"));
        }
        Ok(fold::integers(asked))
    }

    fn expand(&mut self, node: &Node) -> Result<Value, String> {
        let value = self.read(node, 0)?;
        let asked = self.integers(node, 1)?;
        let (of, dtype) = (self.wire(&node.inputs[0], &value, asked.len())?, self.dtype(&value)?);
        let dims = self.draft.dims(of)?;
        if dims.iter().any(|dim| *dim < 0) || dims.len() != asked.len() {
            return Err(format!("of {dims:?} to {asked:?}; give open dimensions one size each (--shapes)"));
        }
        let sizes: Vec<i64> = dims.iter().zip(&asked).map(|(own, asked)| *own.max(asked)).collect();
        // A step of nothing along what has one element repeats it.
        let strides: Vec<i64> = dims.iter().map(|dim| i64::from(*dim != 1)).collect();
        let wire = self.draft.slice(&node.name, of, [&vec![0; dims.len()], &sizes, &strides])?;
        self.made(wire, dtype)
    }
}

/// An axis that may count from the end.
fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let place = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(place).ok().filter(|place| *place < rank);
    found.ok_or_else(|| format!("axis: expected one of {rank} dimensions, found {axis}"))
}

fn int(node: &Node, name: &str, otherwise: i64) -> Result<i64, String> {
    node.int(name, otherwise).map_err(|error| error.to_string())
}

fn ints(node: &Node, name: &str) -> Result<Option<Vec<i64>>, String> {
    let found = node.ints(name).map_err(|error| error.to_string())?;
    Ok(found.map(<[i64]>::to_vec))
}
