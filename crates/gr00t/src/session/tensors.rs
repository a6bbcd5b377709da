//! Named tensors of a safetensors file, read whole: fixtures and recorded noise.

use crate::checkpoint::files;
use crate::{Error, Result};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Far above any fixture or noise.
const MAX_BYTES: u64 = 1 << 32;

/// A tensor's shape and values.
#[derive(Debug, Clone)]
pub struct Tensor<T> {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<T>,
}

/// The tensors of one file by element type.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    floats: BTreeMap<String, Tensor<f32>>,
    integers: BTreeMap<String, Tensor<i64>>,
    bytes: BTreeMap<String, Tensor<u8>>,
}

impl Tensors {
    /// Reads a file of F32, I64 and U8 tensors.
    ///
    /// # Errors
    /// A file that cannot be read, is cut short, or has a tensor of another dtype.
    pub fn read(path: &Path) -> Result<Self> {
        let contents = steadyhand_files::read_up_to(path, MAX_BYTES);
        let contents = contents.map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        let parsed = files::safetensors(path, &contents)?;
        let mut tensors = Tensors {
            path: path.to_path_buf(),
            floats: BTreeMap::new(),
            integers: BTreeMap::new(),
            bytes: BTreeMap::new(),
        };
        for (name, view) in parsed.iter() {
            let (name, shape, data) = (name.to_owned(), view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
                    tensors.floats.insert(name, Tensor { shape, values });
                }
                Dtype::I64 => {
                    let values = data.as_chunks().0.iter().map(|raw| i64::from_le_bytes(*raw)).collect();
                    tensors.integers.insert(name, Tensor { shape, values });
                }
                Dtype::U8 => {
                    tensors.bytes.insert(name, Tensor { shape, values: data.to_vec() });
                }
                other => {
                    let what = format!("{name}: expected F32, I64 or U8, found {other:?}");
                    return Err(Error::file(path, what));
                }
            }
        }
        Ok(tensors)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All f32 tensors by name.
    pub fn floats(&self) -> &BTreeMap<String, Tensor<f32>> {
        &self.floats
    }

    /// All u8 tensors by name.
    pub fn bytes(&self) -> &BTreeMap<String, Tensor<u8>> {
        &self.bytes
    }

    /// The f32 tensor `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn float(&self, name: &str) -> Result<&Tensor<f32>> {
        self.floats.get(name).ok_or_else(|| self.missing(name, "F32"))
    }

    /// The i64 tensor `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn integer(&self, name: &str) -> Result<&Tensor<i64>> {
        self.integers.get(name).ok_or_else(|| self.missing(name, "I64"))
    }

    fn missing(&self, name: &str, dtype: &str) -> Error {
        Error::file(&self.path, format!("{name}: expected an {dtype} tensor, found none"))
    }
}
