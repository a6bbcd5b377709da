//! A network, layer by layer.

use super::dims::{Dims, MAX_DIMS};
use super::network::Network;
use super::{Library, abi, logger, name, type_number};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::Bytes;

/// `ReduceOperation::kAVG`.
const MEAN: i32 = 4;

/// `ActivationType`.
#[derive(Debug, Clone, Copy)]
pub(in crate::tensorrt) enum Activation {
    Relu = 0,
    Sigmoid = 1,
    Tanh = 2,
}

/// `ElementWiseOperation`.
#[derive(Debug, Clone, Copy)]
pub(in crate::tensorrt) enum Elementwise {
    Sum = 0,
    Product = 1,
    Difference = 4,
    Quotient = 5,
    And = 8,
}

/// `UnaryOperation`.
#[derive(Debug, Clone, Copy)]
pub(in crate::tensorrt) enum Unary {
    Sqrt = 2,
    Sin = 6,
    Cos = 7,
    Erf = 19,
    Not = 20,
}

/// A tensor of the draft that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tensorrt) struct Wire(usize);

/// A tensor of the network, and the layer that gives it; none for an input.
struct Made {
    tensor: NonNull<c_void>,
    layer: Option<NonNull<c_void>>,
}

/// A network that is being made. Every wire is one that this draft gave.
pub(in crate::tensorrt) struct Draft {
    made: Vec<Made>,
    /// How many layers were to have a name.
    names: HashMap<String, usize>,
    network: Network,
}

impl Draft {
    /// A network without layers.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn new(library: &Library) -> Result<Self, String> {
        Ok(Draft { made: Vec::new(), names: HashMap::new(), network: Network::empty(library)? })
    }

    /// The network that was made.
    pub(in crate::tensorrt) fn finish(self) -> Network {
        self.network
    }

    /// An input; -1 where a dimension is open.
    ///
    /// # Errors
    /// A type or dimensions that the library does not take; its reasons.
    pub(in crate::tensorrt) fn input(
        &mut self,
        input: &str,
        dtype: Dtype,
        dims: &[i64],
    ) -> Result<Wire, String> {
        let (input_name, dims, number) = (name(input)?, Dims::new(dims)?, number(dtype)?);
        // SAFETY: the network lives, and the name over the call.
        let tensor = unsafe { self.network.network.input_of(input_name.as_ptr(), number, &dims) };
        let tensor = NonNull::new(tensor).ok_or_else(|| refused(input, "is refused"))?;
        self.made.push(Made { tensor, layer: None });
        Ok(Wire(self.made.len() - 1))
    }

    /// Makes a tensor an output of this name and type.
    ///
    /// # Errors
    /// A type that the library does not take; its reasons.
    pub(in crate::tensorrt) fn output(
        &mut self,
        wire: Wire,
        output: &str,
        dtype: Dtype,
    ) -> Result<(), String> {
        let (output_name, number) = (name(output)?, number(dtype)?);
        let tables = self.network.network.tables;
        // SAFETY: the network lives and has the tensor; the name lives over the call, and the library copies it.
        unsafe {
            let tensor = abi::NetworkTensor::from_address(self.address(wire), tables);
            let tensor = tensor.ok_or_else(|| refused(output, "is no tensor"))?;
            tensor.set_name(output_name.as_ptr());
            self.network.network.mark_output(self.address(wire));
            if let Some(weak) = tables.weak {
                tensor.set_data_type(weak.set_tensor_type, number);
            }
            if tensor.data_type() != number {
                return Err(refused(output, &format!("cannot be {dtype}")));
            }
        }
        Ok(())
    }

    /// A constant of these bytes.
    ///
    /// # Errors
    /// A type or dimensions that the library does not take; its reasons.
    pub(in crate::tensorrt) fn constant(
        &mut self,
        at: &str,
        dtype: Dtype,
        dims: &[i64],
        bytes: &Bytes,
    ) -> Result<Wire, String> {
        let count = dims.iter().product::<i64>();
        if usize::try_from(count).ok().and_then(|count| count.checked_mul(dtype.size()))
            != Some(bytes.as_slice().len())
        {
            let found = bytes.as_slice().len();
            return Err(format!("constant {at}: expected the bytes of {dtype} {dims:?}, found {found}"));
        }
        let (dims, data_type) = (Dims::new(dims)?, number(dtype)?);
        self.network.constants.push(bytes.clone());
        let weights = abi::Weights { data_type, values: bytes.as_slice().as_ptr().cast(), count };
        // SAFETY: the network lives, and the bytes, which do not move, as long as it.
        let layer = unsafe { self.network.network.constant_of(&dims, weights) };
        self.made_by(at, layer)
    }

    /// A function of every element.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn unary(
        &mut self,
        at: &str,
        of: Wire,
        operation: Unary,
    ) -> Result<Wire, String> {
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.add_unary(self.address(of), operation as i32) };
        self.made_by(at, layer)
    }

    /// A non-linearity of every element.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn activation(
        &mut self,
        at: &str,
        of: Wire,
        kind: Activation,
    ) -> Result<Wire, String> {
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.add_activation(self.address(of), kind as i32) };
        self.made_by(at, layer)
    }

    /// A function of the elements of two tensors of as many dimensions each.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn elementwise(
        &mut self,
        at: &str,
        [left, right]: [Wire; 2],
        operation: Elementwise,
    ) -> Result<Wire, String> {
        let (left, right) = (self.address(left), self.address(right));
        // SAFETY: the network lives and has the tensors.
        let layer = unsafe { self.network.network.add_elementwise(left, right, operation as i32) };
        self.made_by(at, layer)
    }

    /// One tensor's elements where the condition holds, another's elsewhere; all have as many dimensions.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn select(
        &mut self,
        at: &str,
        [condition, then, otherwise]: [Wire; 3],
    ) -> Result<Wire, String> {
        let (condition, then) = (self.address(condition), self.address(then));
        // SAFETY: the network lives and has the tensors.
        let layer = unsafe { self.network.network.add_select(condition, then, self.address(otherwise)) };
        self.made_by(at, layer)
    }

    /// Matrix products of the last two dimensions, the second of them of transposed matrices where asked for.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn product(
        &mut self,
        at: &str,
        [left, right]: [Wire; 2],
        transposed: bool,
    ) -> Result<Wire, String> {
        let (left, right) = (self.address(left), self.address(right));
        // SAFETY: the network lives and has the tensors. `MatrixOperation`: kNONE is 0, kTRANSPOSE 1.
        let layer =
            unsafe { self.network.network.add_matrix_multiply(left, 0, right, i32::from(transposed)) };
        self.made_by(at, layer)
    }

    /// Softmax along an axis.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn softmax(&mut self, at: &str, of: Wire, axis: usize) -> Result<Wire, String> {
        let tables = self.network.network.tables;
        // SAFETY: the network lives and has the tensor; the layer is a softmax.
        let layer = unsafe {
            let layer = self.network.network.add_softmax(self.address(of));
            let softmax = abi::Softmax::from_address(layer, tables);
            softmax.ok_or_else(|| refused(at, "is refused"))?.set_axes(1 << axis);
            layer
        };
        self.made_by(at, layer)
    }

    /// The mean along an axis, which stays as one element.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn mean(&mut self, at: &str, of: Wire, axis: usize) -> Result<Wire, String> {
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.add_reduce(self.address(of), MEAN, 1 << axis, true) };
        self.made_by(at, layer)
    }

    /// The elements with their dimensions in another order, then with other dimensions: 0 keeps the one at its place, -1
    /// stands for what is left.
    ///
    /// # Errors
    /// Dimensions that the library does not take; its reasons.
    pub(in crate::tensorrt) fn shuffle(
        &mut self,
        at: &str,
        of: Wire,
        order: Option<&[usize]>,
        dims: Option<&[i64]>,
    ) -> Result<Wire, String> {
        let tables = self.network.network.tables;
        let mut permutation = [0; MAX_DIMS];
        for (to, from) in permutation.iter_mut().zip(order.unwrap_or_default()) {
            *to = *from as i32;
        }
        let dims = dims.map(Dims::new).transpose()?;
        // SAFETY: the network lives and has the tensor; the layer is a shuffle, and copies what it is given.
        let layer = unsafe {
            let layer = self.network.network.add_shuffle(self.address(of));
            let shuffle = abi::Shuffle::from_address(layer, tables);
            let shuffle = shuffle.ok_or_else(|| refused(at, "is refused"))?;
            if order.is_some() {
                shuffle.set_first_transpose(&permutation);
            }
            if let Some(dims) = &dims {
                shuffle.reshape(dims);
            }
            layer
        };
        self.made_by(at, layer)
    }

    /// `size` elements from `start` on along each axis, `stride` apart.
    ///
    /// # Errors
    /// Dimensions that the library does not take; its reasons.
    pub(in crate::tensorrt) fn slice(
        &mut self,
        at: &str,
        of: Wire,
        [start, size, stride]: [&[i64]; 3],
    ) -> Result<Wire, String> {
        let (start, size, stride) = (Dims::new(start)?, Dims::new(size)?, Dims::new(stride)?);
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.slice_of(self.address(of), &start, &size, &stride) };
        self.made_by(at, layer)
    }

    /// Makes the size of a slice what a tensor says: whole numbers, one for each dimension.
    pub(in crate::tensorrt) fn size_of_slice(&mut self, slice: Wire, size: Wire) {
        if let Some(layer) = self.layer(slice) {
            // SAFETY: the network lives and has the layer and the tensor. A slice's input 2 is its size.
            unsafe { layer.set_input(2, self.address(size)) };
        }
    }

    /// The dimensions of a tensor as whole numbers.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn shape(&mut self, at: &str, of: Wire) -> Result<Wire, String> {
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.add_shape(self.address(of)) };
        self.made_by(at, layer)
    }

    /// Tensors one after the other along an axis.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn concatenation(
        &mut self,
        at: &str,
        of: &[Wire],
        axis: usize,
    ) -> Result<Wire, String> {
        let tables = self.network.network.tables;
        let addresses: Vec<*mut c_void> = of.iter().map(|wire| self.address(*wire)).collect();
        // SAFETY: the network lives and has the tensors, whose addresses live over the call; the layer is a
        // concatenation.
        let layer = unsafe {
            let layer = self.network.network.add_concatenation(addresses.as_ptr(), addresses.len() as i32);
            let concatenation = abi::Concatenation::from_address(layer, tables);
            concatenation.ok_or_else(|| refused(at, "is refused"))?.set_axis(axis as i32);
            layer
        };
        self.made_by(at, layer)
    }

    /// Elements chosen along an axis.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn gather(
        &mut self,
        at: &str,
        [data, indices]: [Wire; 2],
        axis: usize,
    ) -> Result<Wire, String> {
        let (data, indices) = (self.address(data), self.address(indices));
        // SAFETY: the network lives and has the tensors.
        let layer = unsafe { self.network.network.add_gather(data, indices, axis as i32) };
        self.made_by(at, layer)
    }

    /// A tensor as another type.
    ///
    /// # Errors
    /// A type that the library does not take; its reasons.
    pub(in crate::tensorrt) fn cast(&mut self, at: &str, of: Wire, to: Dtype) -> Result<Wire, String> {
        let tables = self.network.network.tables;
        let number = number(to)?;
        if let Some(place) = tables.add_cast {
            // SAFETY: the network lives and has the tensor; the version's table has the function at the place.
            let layer = unsafe { self.network.network.add_cast(place, self.address(of), number) };
            return self.made_by(at, layer);
        }
        let wire = self.identity(at, of)?;
        if let (Some(layer), Some(weak)) = (self.layer(wire), tables.weak) {
            // SAFETY: the network lives and has the layer; the version's table has the function at the place.
            unsafe { layer.set_output_type(weak.set_output_type, 0, number) };
        }
        Ok(wire)
    }

    /// The same tensor by another name.
    ///
    /// # Errors
    /// The library's reasons.
    pub(in crate::tensorrt) fn identity(&mut self, at: &str, of: Wire) -> Result<Wire, String> {
        // SAFETY: the network lives and has the tensor.
        let layer = unsafe { self.network.network.add_identity(self.address(of)) };
        self.made_by(at, layer)
    }

    /// Holds the layer that gives a tensor to a precision and to the type of its result, where the network is weakly
    /// typed and the layer not an input; a flag of the builder says whether it must obey.
    ///
    /// # Errors
    /// A type that the library does not take.
    pub(in crate::tensorrt) fn hold(
        &self,
        wire: Wire,
        precision: Dtype,
        result: Dtype,
    ) -> Result<(), String> {
        let (precision, result) = (number(precision)?, number(result)?);
        if let (Some(layer), Some(weak)) = (self.layer(wire), self.network.network.tables.weak) {
            // SAFETY: the network lives and has the layer; the version's table has the functions at these places.
            unsafe {
                layer.set_precision(weak.set_precision, precision);
                layer.set_output_type(weak.set_output_type, 0, result);
            }
        }
        Ok(())
    }

    /// The dimensions of a tensor; -1 where open.
    ///
    /// # Errors
    /// Inputs that do not fit each other: the library's reasons.
    pub(in crate::tensorrt) fn dims(&self, wire: Wire) -> Result<Vec<i64>, String> {
        // SAFETY: the network lives and has the tensor.
        let dims = unsafe {
            let tensor = abi::NetworkTensor::from_address(self.address(wire), self.network.network.tables);
            tensor.map(|tensor| tensor.dims())
        };
        let dims = dims.ok_or_else(|| logger::errors("a tensor of the network is missing"))?;
        dims.to_vec().map_err(|what| logger::errors(&what))
    }

    fn address(&self, wire: Wire) -> *mut c_void {
        self.made[wire.0].tensor.as_ptr()
    }

    fn layer(&self, wire: Wire) -> Option<abi::Layer> {
        let object = self.made[wire.0].layer?;
        Some(abi::Layer { object, tables: self.network.network.tables })
    }

    /// Names a layer and keeps its result.
    fn made_by(&mut self, at: &str, layer: *mut c_void) -> Result<Wire, String> {
        // The library refuses a name that another layer has.
        let count = self.names.entry(at.to_owned()).and_modify(|count| *count += 1).or_insert(1);
        let layer_name = if *count == 1 { name(at)? } else { name(&format!("{at} #{count}"))? };
        // SAFETY: the address is null or that of a layer of the living network; the library copies the name.
        let (layer, tensor) = unsafe {
            let layer = abi::Layer::from_address(layer, self.network.network.tables);
            let layer = layer.ok_or_else(|| refused(at, "is refused"))?;
            layer.set_name(layer_name.as_ptr());
            (layer.object, layer.output(0))
        };
        let tensor = NonNull::new(tensor).ok_or_else(|| refused(at, "gives nothing"))?;
        self.made.push(Made { tensor, layer: Some(layer) });
        Ok(Wire(self.made.len() - 1))
    }
}

/// A type by the library's number.
fn number(dtype: Dtype) -> Result<i32, String> {
    type_number(dtype).ok_or_else(|| format!("expected a type that TensorRT has, found {dtype}"))
}

/// What the library says of a layer that it does not make.
fn refused(at: &str, what: &str) -> String {
    format!("{at}: {}", logger::errors(what))
}
