//! One tensor of a checkpoint, read where it lies.

use super::mapped::MappedFile;
use half::f16;
use std::ops::Range;
use std::sync::Arc;
use steadyhand_fidelity::Format;

/// The element types a checkpoint may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
}

impl Dtype {
    pub(super) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::F32 => Some(Dtype::F32),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::F32 => 4,
        }
    }

    /// The number format of the elements.
    pub fn format(self) -> Format {
        match self {
            Dtype::Bf16 => Format::Bf16,
            Dtype::F16 => Format::Fp16,
            Dtype::F32 => Format::F32,
        }
    }
}

/// A named tensor: a view into a mapped file. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Weight {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    file: Option<Arc<MappedFile>>,
    range: Range<usize>,
}

impl Weight {
    pub(super) fn mapped(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        file: Arc<MappedFile>,
        range: Range<usize>,
    ) -> Self {
        Weight { name, dtype, shape, file: Some(file), range }
    }

    /// Stands where a tensor was missing, so that loading goes on and lists every problem at once.
    pub(super) fn absent(name: String, shape: Vec<usize>) -> Self {
        Weight { name, dtype: Dtype::F32, shape, file: None, range: 0..0 }
    }

    /// The checkpoint's name of the tensor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as they lie in the file: little-endian, row-major, with no alignment promised.
    pub fn bytes(&self) -> &[u8] {
        self.file.as_ref().map_or(&[], |file| &file.bytes()[self.range.clone()])
    }

    /// Widens `elements` (a range of element indices, row-major) into `out`, rounded to `format`.
    ///
    /// # Panics
    /// If the range lies outside the tensor or `out` has another length: shapes are checked on loading.
    pub fn read_into(&self, elements: Range<usize>, format: Format, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes()[elements.start * size..elements.end * size];
        assert_eq!(out.len(), elements.len(), "{}: read into a buffer of another length", self.name);
        match self.dtype {
            Dtype::Bf16 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16);
                }
            }
            Dtype::F16 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *value = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
                }
            }
            Dtype::F32 => {
                for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                }
            }
        }
        if !format.contains(self.dtype.format()) {
            format.round_slice(out);
        }
    }

    /// The whole tensor as f32, rounded to `format`.
    pub fn to_vec(&self, format: Format) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.read_into(0..self.len(), format, &mut values);
        values
    }
}
