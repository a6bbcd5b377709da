//! One loaded graph: its bindings say what each buffer must be, and nothing else is handed over.

use super::{OnnxRunner, Sessions};
use half::{bf16, f16};
use ort::session::{Session, SessionInputValue};
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, ValueType,
};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::export::Component;
use steadyhand_gr00t::ops::cpu::Tensor;
use steadyhand_gr00t::{Error, Result};

/// A graph in a session.
pub(super) struct Graph {
    path: PathBuf,
    session: Session,
}

/// A value for an input of the graph.
pub(super) struct Feed {
    name: String,
    shape: Vec<usize>,
    values: Values,
}

enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    Bools(Vec<bool>),
}

impl Feed {
    pub(super) fn floats(name: String, shape: &[usize], values: Vec<f32>) -> Self {
        Feed { name, shape: shape.to_vec(), values: Values::Floats(values) }
    }

    pub(super) fn integers(name: &str, shape: &[usize], values: Vec<i64>) -> Self {
        Feed { name: name.to_owned(), shape: shape.to_vec(), values: Values::Integers(values) }
    }

    pub(super) fn bools(name: &str, shape: &[usize], values: Vec<bool>) -> Self {
        Feed { name: name.to_owned(), shape: shape.to_vec(), values: Values::Bools(values) }
    }

    fn kind(&self) -> &'static str {
        match self.values {
            Values::Floats(_) => "floats",
            Values::Integers(_) => "integers",
            Values::Bools(_) => "bools",
        }
    }
}

impl Graph {
    /// Loads the graph in `path`.
    pub(super) fn load(sessions: &Sessions, path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::file(path, "expected an ONNX file, found none"));
        }
        let builder = Session::builder(&sessions.environment).map_err(|error| refused(path, &error))?;
        let builder = builder.with_execution_providers([sessions.provider.dispatch()]);
        let mut builder = builder.map_err(|error| refused(path, &error))?;
        let session = builder.commit_from_file(path).map_err(|error| refused(path, &error))?;
        Ok(Graph { path: path.to_path_buf(), session })
    }

    /// The same graph, run by its bindings.
    pub(super) fn into_runner(self) -> Result<OnnxRunner> {
        OnnxRunner::new(&self.path, self.session)
    }

    /// The export's own words about itself.
    fn metadata(&self, key: &str) -> Result<String> {
        let metadata = self.session.metadata().map_err(|error| refused(&self.path, &error))?;
        let key = format!("steadyhand.{key}");
        let value = metadata.custom(&key);
        value.ok_or_else(|| Error::file(&self.path, format!("{key}: expected in the metadata, found none")))
    }

    /// Checks what the graph was exported from.
    pub(super) fn expect_metadata(&self, key: &str, expected: &str) -> Result<()> {
        let found = self.metadata(key)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::file(&self.path, format!("steadyhand.{key}: expected {expected}, found {found}")))
    }

    pub(super) fn component(&self) -> Result<Component> {
        self.metadata("component")?.parse()
    }

    /// Runs the graph and gives its output `output`, which must have this shape.
    pub(super) fn run(&mut self, mut feeds: Vec<Feed>, output: &str, shape: [usize; 3]) -> Result<Tensor> {
        let mut inputs: Vec<(String, SessionInputValue)> = Vec::with_capacity(feeds.len());
        for binding in self.session.inputs() {
            let Some(index) = feeds.iter().position(|feed| feed.name == binding.name()) else {
                let names: Vec<&str> = feeds.iter().map(|feed| feed.name.as_str()).collect();
                let what = format!("input {}: expected one of {}", binding.name(), names.join(", "));
                return Err(Error::file(&self.path, what));
            };
            let feed = feeds.swap_remove(index);
            inputs.push((feed.name.clone(), self.bind(binding, feed)?.into()));
        }
        if let Some(feed) = feeds.first() {
            return Err(Error::file(
                &self.path,
                format!("input {}: the graph has none of this name", feed.name),
            ));
        }
        let path = &self.path;
        let outputs = self.session.run(inputs).map_err(|error| refused(path, &error))?;
        let value = outputs.get(output);
        let value = value.ok_or_else(|| Error::file(path, format!("output {output}: the graph has none")))?;
        read(value, shape).ok_or_else(|| {
            let what = format!("output {output}: expected floats {shape:?}, found {}", value.dtype());
            Error::file(path, what)
        })
    }

    /// The feed as the binding declares it.
    fn bind(&self, binding: &Outlet, feed: Feed) -> Result<DynValue> {
        let found = format!("{} {:?}", feed.kind(), feed.shape);
        let mismatch = || {
            let what = format!("input {}: expected {}, found {found}", binding.name(), binding.dtype());
            Error::file(&self.path, what)
        };
        let ValueType::Tensor { ty, shape, .. } = binding.dtype() else { return Err(mismatch()) };
        // Dimensions that are open in the graph are negative.
        let fits = |(declared, found): (&i64, &usize)| *declared < 0 || *declared == *found as i64;
        if shape.len() != feed.shape.len() || !shape.iter().zip(&feed.shape).all(fits) {
            return Err(mismatch());
        }
        let shape = feed.shape;
        let bound = match (feed.values, ty) {
            (Values::Floats(values), TensorElementType::Float32) => tensor(shape, values),
            (Values::Floats(values), TensorElementType::Float16) => {
                tensor(shape, values.into_iter().map(f16::from_f32).collect())
            }
            (Values::Floats(values), TensorElementType::Bfloat16) => {
                tensor(shape, values.into_iter().map(bf16::from_f32).collect())
            }
            (Values::Integers(values), TensorElementType::Int64) => tensor(shape, values),
            (Values::Bools(values), TensorElementType::Bool) => tensor(shape, values),
            _ => return Err(mismatch()),
        };
        bound.map_err(|error| refused(&self.path, &error))
    }
}

/// An error of ONNX Runtime's about `path`.
pub(super) fn refused(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::file(path, format!("onnxruntime: {error}"))
}

fn tensor<T>(shape: Vec<usize>, values: Vec<T>) -> ort::Result<DynValue>
where
    T: PrimitiveTensorElementType + Debug + Clone + 'static,
{
    Ok(OrtTensor::from_array((shape, values))?.into_dyn())
}

/// Floats of this shape, widened; nothing for anything else.
fn read(value: &DynValue, expected: [usize; 3]) -> Option<Tensor> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else { return None };
    if !shape.iter().eq(expected.map(|dim| dim as i64).iter()) {
        return None;
    }
    let values = match ty {
        TensorElementType::Float32 => value.try_extract_tensor::<f32>().ok()?.1.to_vec(),
        TensorElementType::Float16 => {
            value.try_extract_tensor::<f16>().ok()?.1.iter().map(|value| value.to_f32()).collect()
        }
        TensorElementType::Bfloat16 => {
            value.try_extract_tensor::<bf16>().ok()?.1.iter().map(|value| value.to_f32()).collect()
        }
        _ => return None,
    };
    Tensor::from_values(expected, values)
}
