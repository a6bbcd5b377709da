//! What an engine takes and gives: names, types, shapes; and tensors that are held to them.
//!
//! Memory for a binding is made from the binding: a [`Bound`] tensor comes from [`Bindings::bind`] alone, which
//! refuses a tensor of another type or shape and names both. A buffer of another type than its binding cannot be
//! handed to an engine.

use serde::{Deserialize, Serialize};
use std::fmt;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::Blocks;
use steadyhand_gr00t::{Error, Result};

/// Which way a binding goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The engine reads it.
    Input,
    /// The engine writes it.
    Output,
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Direction::Input => "input",
            Direction::Output => "output",
        })
    }
}

/// One input or output of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Unique in its engine.
    pub name: String,
    /// Input or output.
    pub direction: Direction,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Dimensions, outermost first; -1 where a dimension is open.
    pub shape: Vec<i64>,
    /// Of an input: the smallest, best and largest shape that the engine was built for, where it knows them.
    pub profile: Option<[Vec<i64>; 3]>,
}

impl Binding {
    /// Whether a tensor of this shape fits: fixed dimensions are equal, open ones within the profile.
    fn takes(&self, shape: &[usize]) -> bool {
        let within = |(index, size): (usize, &usize)| {
            let Ok(size) = i64::try_from(*size) else { return false };
            match (self.shape[index], &self.profile) {
                (-1, Some([least, _, most])) => {
                    let bound = |bounds: &[i64]| bounds.get(index).copied();
                    bound(least).is_some_and(|least| least <= size)
                        && bound(most).is_some_and(|most| size <= most)
                }
                (-1, None) => true,
                (fixed, _) => fixed == size,
            }
        };
        shape.len() == self.shape.len() && shape.iter().enumerate().all(within)
    }
}

impl fmt::Display for Binding {
    /// Such as `BF16 [-1, 17, 128], from [1, 17, 128] to [8, 17, 128]`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {:?}", self.dtype, self.shape)?;
        match &self.profile {
            Some([least, _, most]) => write!(formatter, ", from {least:?} to {most:?}"),
            None => Ok(()),
        }
    }
}

/// A tensor in host memory, as its little-endian bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of these bytes.
    ///
    /// # Errors
    /// Their number is not that of the type and shape.
    pub fn new(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Result<Self> {
        let expected = byte_count(dtype, shape)?;
        if expected != bytes.len() {
            let what = format!("expected {expected} bytes for {dtype} {shape:?}, found {}", bytes.len());
            return Err(Error::input("tensor", what));
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// More bytes than fit an address.
    pub fn zeros(dtype: Dtype, shape: &[usize]) -> Result<Self> {
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes: vec![0; byte_count(dtype, shape)?] })
    }

    /// A tensor of f32 values.
    ///
    /// # Errors
    /// Their number is not that of the shape.
    pub fn floats(shape: &[usize], values: &[f32]) -> Result<Self> {
        Tensor::new(Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Its elements' type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// A shape of another number of elements.
    pub fn reshaped(self, shape: &[usize]) -> Result<Self> {
        Tensor::new(self.dtype, shape, self.bytes)
    }

    /// Its elements, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The same tensor as another float type, and whether every value was kept; int64 as int32 where all of them fit; as
    /// it is where a type is another.
    pub fn in_format(self, dtype: Dtype) -> (Self, bool) {
        if (self.dtype, dtype) == (Dtype::I64, Dtype::I32) {
            return (self.narrowed(), true);
        }
        let (Some(from), Some(to)) = (self.dtype.format(), dtype.format()) else { return (self, true) };
        if from == to {
            return (self, true);
        }
        let mut exact = true;
        let mut bytes = Vec::with_capacity(self.bytes.len() / self.dtype.size() * dtype.size());
        for element in self.bytes.chunks_exact(self.dtype.size()) {
            let code = element.iter().rev().fold(0u32, |code, byte| code << 8 | u32::from(*byte));
            let value = from.decode(code);
            let code = to.encode(value);
            exact &= to.decode(code).to_bits() == value.to_bits() || value.is_nan();
            bytes.extend_from_slice(&code.to_le_bytes()[..dtype.size()]);
        }
        (Tensor { dtype, shape: self.shape, bytes }, exact)
    }
}

impl Tensor {
    /// An int64 tensor as int32, which TensorRT 8 has for it; as it is where a value does not fit.
    fn narrowed(self) -> Self {
        let (values, _) = self.bytes.as_chunks();
        let narrow: Option<Vec<[u8; 4]>> = values
            .iter()
            .map(|bytes| i32::try_from(i64::from_le_bytes(*bytes)).ok().map(i32::to_le_bytes))
            .collect();
        match narrow {
            Some(narrow) => Tensor { dtype: Dtype::I32, shape: self.shape, bytes: narrow.concat() },
            None => self,
        }
    }
}

fn byte_count(dtype: Dtype, shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(dtype.size(), |count, size| count.checked_mul(*size));
    count.ok_or_else(|| {
        Error::input("tensor", format!("{dtype} {shape:?} has more bytes than fit an address"))
    })
}

/// A tensor that has the type and a shape of its binding.
#[derive(Debug)]
pub struct Bound<'b> {
    binding: &'b Binding,
    tensor: Tensor,
}

impl Bound<'_> {
    /// The binding.
    pub fn binding(&self) -> &Binding {
        self.binding
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// All bindings of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bindings(Vec<Binding>);

impl Bindings {
    /// Bindings in the engine's order.
    pub fn new(bindings: Vec<Binding>) -> Self {
        Bindings(bindings)
    }

    /// Every binding.
    pub fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.0.iter()
    }

    /// The inputs.
    pub fn inputs(&self) -> impl Iterator<Item = &Binding> {
        self.iter().filter(|binding| binding.direction == Direction::Input)
    }

    /// The outputs.
    pub fn outputs(&self) -> impl Iterator<Item = &Binding> {
        self.iter().filter(|binding| binding.direction == Direction::Output)
    }

    /// The binding of this name.
    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.iter().find(|binding| binding.name == name)
    }

    /// The blocks of a DiT that an engine of these is; none for one that is no part of a DiT.
    pub fn blocks(&self) -> Option<Blocks> {
        let inputs = self.inputs().map(|input| input.name.as_str());
        Blocks::of_interface(inputs, self.outputs().map(|output| output.name.as_str()))
    }

    /// Holds tensors to the inputs: each input gets one of its type and of a shape that it takes.
    ///
    /// # Errors
    /// A tensor for no input, an input without a tensor; another type or shape, naming the binding, what it is and
    /// what the tensor is.
    pub fn bind(&self, tensors: Vec<(String, Tensor)>) -> Result<Vec<Bound<'_>>> {
        let mut bound: Vec<Bound<'_>> = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            let field = format!("input {name}");
            let Some(binding) = self.inputs().find(|binding| binding.name == name) else {
                let known: Vec<&str> = self.inputs().map(|binding| binding.name.as_str()).collect();
                return Err(Error::input(
                    field,
                    format!("expected one of {}, found another", known.join(", ")),
                ));
            };
            if bound.iter().any(|earlier| earlier.binding.name == name) {
                return Err(Error::input(field, "expected one tensor, found a second"));
            }
            if tensor.dtype != binding.dtype || !binding.takes(&tensor.shape) {
                let what = format!("expected {binding}, found {} {:?}", tensor.dtype, tensor.shape);
                return Err(Error::input(field, what));
            }
            bound.push(Bound { binding, tensor });
        }
        let missing = self.inputs().find(|input| !bound.iter().any(|bound| bound.binding.name == input.name));
        match missing {
            Some(input) => Err(Error::input(
                format!("input {}", input.name),
                format!("expected {input}, found no tensor"),
            )),
            None => Ok(bound),
        }
    }
}

/// An engine that runs one graph on tensors.
pub trait Runner {
    /// What it takes and gives.
    fn bindings(&self) -> &Bindings;

    /// The precision that it was exported at, as
    /// [`PrecisionPolicy::identity`](steadyhand_gr00t::precision::PrecisionPolicy::identity) gives it; `None` where its
    /// file does not say.
    fn precision(&self) -> Option<String> {
        None
    }

    /// Runs it once; a tensor for every output, of the output's own type.
    ///
    /// # Errors
    /// As [`Bindings::bind`]; the engine's own.
    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings() -> Bindings {
        let binding = |name: &str, direction, dtype, shape: &[i64], profile| Binding {
            name: name.to_owned(),
            direction,
            dtype,
            shape: shape.to_vec(),
            profile,
        };
        let profile = Some([vec![1, 4], vec![1, 4], vec![2, 4]]);
        Bindings::new(vec![
            binding("tokens", Direction::Input, Dtype::Bf16, &[-1, 4], profile),
            binding("timestep", Direction::Input, Dtype::I64, &[-1], None),
            binding("output", Direction::Output, Dtype::Bf16, &[-1, 4], None),
        ])
    }

    fn refusal(tensors: Vec<(&str, Tensor)>) -> String {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        bindings().bind(tensors).expect_err("a refusal").to_string()
    }

    fn zeros(dtype: Dtype, shape: &[usize]) -> Tensor {
        Tensor::zeros(dtype, shape).expect("small")
    }

    #[test]
    fn tensors_that_fit_are_bound() {
        let tensors = vec![("timestep", zeros(Dtype::I64, &[1])), ("tokens", zeros(Dtype::Bf16, &[2, 4]))];
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let bindings = bindings();
        let bound = bindings.bind(tensors).expect("they fit");
        assert_eq!(
            bound.iter().map(|bound| &bound.binding().name).collect::<Vec<_>>(),
            ["timestep", "tokens"]
        );
    }

    #[test]
    fn a_tensor_of_another_type_is_refused_with_both_types() {
        let found = refusal(vec![("tokens", zeros(Dtype::F16, &[1, 4]))]);
        assert_eq!(found, "input tokens: expected BF16 [-1, 4], from [1, 4] to [2, 4], found F16 [1, 4]");
        let found = refusal(vec![("timestep", zeros(Dtype::I32, &[1]))]);
        assert_eq!(found, "input timestep: expected I64 [-1], found I32 [1]");
    }

    #[test]
    fn shapes_and_names_that_do_not_fit_are_refused() {
        for shape in [&[3, 4][..], &[0, 4], &[1, 5], &[4]] {
            let found = refusal(vec![("tokens", zeros(Dtype::Bf16, shape))]);
            assert!(found.ends_with(&format!("found BF16 {shape:?}")), "{found}");
        }
        let found = refusal(vec![("output", zeros(Dtype::Bf16, &[1, 4]))]);
        assert_eq!(found, "input output: expected one of tokens, timestep, found another");
        let found = refusal(vec![("timestep", zeros(Dtype::I64, &[1]))]);
        assert!(found.starts_with("input tokens: ") && found.ends_with("found no tensor"), "{found}");
        let time = || ("timestep", zeros(Dtype::I64, &[1]));
        assert_eq!(refusal(vec![time(), time()]), "input timestep: expected one tensor, found a second");
    }

    #[test]
    fn a_change_of_format_says_whether_it_kept_the_values() {
        let tensor = |values: &[f32]| Tensor::floats(&[values.len()], values).expect("as many");
        let (kept, exact) = tensor(&[1.5, -0.0, f32::INFINITY]).in_format(Dtype::Bf16);
        assert!(exact && kept.dtype() == Dtype::Bf16);
        assert_eq!(kept.bytes(), [0xc0, 0x3f, 0x00, 0x80, 0x80, 0x7f]);
        assert!(!tensor(&[1.001]).in_format(Dtype::Bf16).1);
        assert!(!tensor(&[70000.0]).in_format(Dtype::F16).1);
        let (whole, exact) = zeros(Dtype::I64, &[1]).in_format(Dtype::Bf16);
        assert!(exact && whole.dtype() == Dtype::I64);
    }

    #[test]
    fn whole_numbers_become_narrower_where_they_fit() {
        let tensor =
            |value: i64| Tensor::new(Dtype::I64, &[1], value.to_le_bytes().to_vec()).expect("as many");
        let (narrow, exact) = tensor(-7).in_format(Dtype::I32);
        assert!(exact && narrow.dtype() == Dtype::I32);
        assert_eq!(narrow.bytes(), (-7i32).to_le_bytes());
        assert_eq!(tensor(1 << 40).in_format(Dtype::I32).0.dtype(), Dtype::I64);
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        let found = Tensor::new(Dtype::F16, &[3], vec![0; 5]).expect_err("a refusal").to_string();
        assert_eq!(found, "tensor: expected 6 bytes for F16 [3], found 5");
        assert!(Tensor::zeros(Dtype::F32, &[usize::MAX, 2]).is_err());
    }
}
