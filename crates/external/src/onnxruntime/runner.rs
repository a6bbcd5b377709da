//! A graph run by its bindings, whatever it is a graph of.

use super::graph::refused;
use super::library;
use crate::bindings::{Binding, Bindings, Bound, Direction, Runner, Tensor};
use half::{bf16, f16};
use ort::session::{Session, SessionInputValue};
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, ValueType,
};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::{Error, Result};

/// An ONNX file in ONNX Runtime, on the CPU.
pub struct OnnxRunner {
    path: PathBuf,
    session: Session,
    bindings: Bindings,
}

impl OnnxRunner {
    /// Loads the graph in `path`; `library` is ONNX Runtime's library or its folder where it is not to be looked for.
    ///
    /// # Errors
    /// No library; a file that ONNX Runtime does not load; a binding of a type that is not handled.
    pub fn load(path: &Path, library: Option<&Path>) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::file(path, "expected an ONNX file, found none"));
        }
        let environment = library::load(library)?;
        let mut builder = Session::builder(&environment).map_err(|error| refused(path, &error))?;
        OnnxRunner::new(path, builder.commit_from_file(path).map_err(|error| refused(path, &error))?)
    }

    /// A graph that was loaded from `path`.
    pub(super) fn new(path: &Path, session: Session) -> Result<Self> {
        let inputs = session.inputs().iter().map(|outlet| binding(path, outlet, Direction::Input));
        let outputs = session.outputs().iter().map(|outlet| binding(path, outlet, Direction::Output));
        let bindings = inputs.chain(outputs).collect::<Result<_>>()?;
        Ok(OnnxRunner { path: path.to_path_buf(), session, bindings: Bindings::new(bindings) })
    }
}

impl Runner for OnnxRunner {
    fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    fn precision(&self) -> Option<String> {
        self.session.metadata().ok()?.custom("steadyhand.precision")
    }

    fn run(&mut self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        let OnnxRunner { path, session, bindings } = self;
        let bound = bindings.bind(inputs)?;
        let values = bound.iter().map(|bound| {
            let value = to_value(bound).map_err(|error| refused(path, &error))?;
            Ok((bound.binding().name.clone(), value.into()))
        });
        let values: Vec<(String, SessionInputValue)> = values.collect::<Result<_>>()?;
        let results = session.run(values).map_err(|error| refused(path, &error))?;
        let outputs = bindings.outputs().map(|output| {
            let missing = || Error::file(&*path, format!("output {}: the graph gave none", output.name));
            let value = results.get(&output.name).ok_or_else(missing)?;
            Ok((output.name.clone(), from_value(path, output, value)?))
        });
        outputs.collect()
    }
}

fn binding(path: &Path, outlet: &Outlet, direction: Direction) -> Result<Binding> {
    let of_this_type = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => dtype(*ty).map(|dtype| (dtype, shape)),
        _ => None,
    };
    let Some((dtype, shape)) = of_this_type else {
        let what = format!(
            "{direction} {}: expected a tensor of floats, int64 or bool, found {}",
            outlet.name(),
            outlet.dtype()
        );
        return Err(Error::file(path, what));
    };
    let shape = shape.iter().map(|size| (*size).max(-1)).collect();
    Ok(Binding { name: outlet.name().to_owned(), direction, dtype, shape, profile: None })
}

fn dtype(ty: TensorElementType) -> Option<Dtype> {
    match ty {
        TensorElementType::Float32 => Some(Dtype::F32),
        TensorElementType::Float16 => Some(Dtype::F16),
        TensorElementType::Bfloat16 => Some(Dtype::Bf16),
        TensorElementType::Int64 => Some(Dtype::I64),
        TensorElementType::Bool => Some(Dtype::Bool),
        _ => None,
    }
}

fn to_value(bound: &Bound<'_>) -> ort::Result<DynValue> {
    let tensor = bound.tensor();
    match tensor.dtype() {
        Dtype::F32 => value(tensor, f32::from_le_bytes),
        Dtype::F16 => value(tensor, f16::from_le_bytes),
        Dtype::Bf16 => value(tensor, bf16::from_le_bytes),
        Dtype::I64 => value(tensor, i64::from_le_bytes),
        // No graph's binding has another type: see `dtype`.
        _ => value(tensor, |[byte]: [u8; 1]| byte != 0),
    }
}

fn value<T, const SIZE: usize>(tensor: &Tensor, read: impl Fn([u8; SIZE]) -> T) -> ort::Result<DynValue>
where
    T: PrimitiveTensorElementType + Debug + Clone + 'static,
{
    let (elements, _) = tensor.bytes().as_chunks::<SIZE>();
    let values: Vec<T> = elements.iter().map(|bytes| read(*bytes)).collect();
    Ok(OrtTensor::from_array((tensor.shape().to_vec(), values))?.into_dyn())
}

/// The value of an output, which must have the output's type.
fn from_value(path: &Path, output: &Binding, value: &DynValue) -> Result<Tensor> {
    let shape = match value.dtype() {
        ValueType::Tensor { ty, shape, .. } if dtype(*ty) == Some(output.dtype) => shape,
        other => {
            return Err(Error::file(
                path,
                format!("output {}: expected {output}, found {other}", output.name),
            ));
        }
    };
    let shape: Vec<usize> = shape.iter().map(|size| usize::try_from(*size).unwrap_or_default()).collect();
    let bytes = to_bytes(output.dtype, value).map_err(|error| refused(path, &error))?;
    Tensor::new(output.dtype, &shape, bytes)
}

fn to_bytes(dtype: Dtype, value: &DynValue) -> ort::Result<Vec<u8>> {
    Ok(match dtype {
        Dtype::F32 => bytes(value.try_extract_tensor::<f32>()?.1, |value| value.to_le_bytes()),
        Dtype::F16 => bytes(value.try_extract_tensor::<f16>()?.1, |value| value.to_le_bytes()),
        Dtype::Bf16 => bytes(value.try_extract_tensor::<bf16>()?.1, |value| value.to_le_bytes()),
        Dtype::I64 => bytes(value.try_extract_tensor::<i64>()?.1, |value| value.to_le_bytes()),
        // As in `to_value`.
        _ => bytes(value.try_extract_tensor::<bool>()?.1, |value| [u8::from(*value)]),
    })
}

fn bytes<T, const SIZE: usize>(values: &[T], write: impl Fn(&T) -> [u8; SIZE]) -> Vec<u8> {
    values.iter().flat_map(write).collect()
}
