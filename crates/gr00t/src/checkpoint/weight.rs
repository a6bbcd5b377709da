//! One tensor of a checkpoint, read where it lies, or made from a hash.

use super::Synthetic;
use super::mapped::MappedFile;
use half::f16;
use std::ops::Range;
use std::path::Path;
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

/// A named tensor: a view into a mapped file, or a formula. Cloning copies no elements.
#[derive(Debug, Clone)]
pub struct Weight {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    source: Source,
}

/// Where the elements come from.
#[derive(Debug, Clone)]
enum Source {
    /// Bytes of a file.
    Mapped(Arc<MappedFile>, Range<usize>),
    /// Bf16 values made as they are read.
    Synthetic(Synthetic),
    /// Nowhere: the tensor was missing, and [`super::Loader::finish`] says so.
    Absent,
}

impl Weight {
    pub(super) fn mapped(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        file: Arc<MappedFile>,
        range: Range<usize>,
    ) -> Self {
        Weight { name, dtype, shape, source: Source::Mapped(file, range) }
    }

    /// A tensor of bf16 values that a seed and its name determine.
    pub(super) fn from_seed(seed: u64, name: String, shape: Vec<usize>) -> Self {
        let source = Source::Synthetic(Synthetic::new(seed, &name, &shape));
        Weight { name, dtype: Dtype::Bf16, shape, source }
    }

    /// Stands where a tensor was missing, so that loading goes on and lists every problem at once.
    pub(super) fn absent(name: String, shape: Vec<usize>) -> Self {
        Weight { name, dtype: Dtype::F32, shape, source: Source::Absent }
    }

    /// The checkpoint's name of the tensor.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type in the file; bf16 for a synthetic tensor.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same elements as a matrix `[first dimension, all others]`.
    #[must_use]
    pub fn into_rows(self) -> Self {
        let rows = self.shape.first().copied().unwrap_or_default();
        let columns = self.shape.iter().skip(1).product();
        Weight { shape: vec![rows, columns], ..self }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as they lie in the file: little-endian, row-major, with no alignment promised. `None` for a
    /// tensor that lies in no file: [`Weight::synthetic`] says how it is made, [`Weight::read_into`] makes it.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Mapped(file, range) => Some(&file.bytes()[range.clone()]),
            Source::Synthetic(_) | Source::Absent => None,
        }
    }

    /// The file that the tensor lies in, if it lies in one.
    pub fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::Mapped(file, _) => Some(file.path()),
            Source::Synthetic(_) | Source::Absent => None,
        }
    }

    /// The first element of a tensor in a file that is a NaN or an infinity, and its place, row-major.
    pub fn first_non_finite(&self) -> Option<(usize, f32)> {
        let (bytes, size) = (self.bytes()?, self.dtype.size());
        // Such elements have all bits of the exponent set.
        let exponent: u32 = match self.dtype {
            Dtype::Bf16 => 0x7f80,
            Dtype::F16 => 0x7c00,
            Dtype::F32 => 0x7f80_0000,
        };
        let bits = |raw: &[u8]| raw.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let place = bytes.chunks_exact(size).position(|raw| bits(raw) & exponent == exponent)?;
        let mut value = [0.0];
        widen(&bytes[place * size..(place + 1) * size], self.dtype, &mut value);
        Some((place, value[0]))
    }

    /// How the elements are made, for a tensor that lies in no file.
    pub fn synthetic(&self) -> Option<Synthetic> {
        match self.source {
            Source::Synthetic(synthetic) => Some(synthetic),
            Source::Mapped(..) | Source::Absent => None,
        }
    }

    /// Widens `elements` (a range of element indices, row-major) into `out`, rounded to `format`.
    ///
    /// # Panics
    /// If the range lies outside the tensor or `out` has another length: shapes are checked on loading.
    pub fn read_into(&self, elements: Range<usize>, format: Format, out: &mut [f32]) {
        assert!(elements.end <= self.len(), "{}: read up to {} of {}", self.name, elements.end, self.len());
        assert_eq!(out.len(), elements.len(), "{}: read into a buffer of another length", self.name);
        match &self.source {
            Source::Mapped(file, range) => {
                let (size, bytes) = (self.dtype.size(), &file.bytes()[range.clone()]);
                widen(&bytes[elements.start * size..elements.end * size], self.dtype, out);
            }
            Source::Synthetic(synthetic) => {
                for (value, index) in out.iter_mut().zip(elements) {
                    *value = synthetic.value(index as u64);
                }
            }
            Source::Absent => panic!("{}: read although loading it had failed", self.name),
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

/// Little-endian elements of `dtype` as f32.
fn widen(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    match dtype {
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
}
