//! The types of a trace's tensors, spelled as safetensors spells them, and what their bytes mean as f32.

use crate::Format;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of a stored tensor's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary64.
    F64,
    /// OCP FP8 E4M3.
    #[serde(rename = "F8_E4M3")]
    F8E4m3,
    /// OCP FP8 E5M2.
    #[serde(rename = "F8_E5M2")]
    F8E5m2,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed byte.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned byte.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Dtype; 15] = [
        Dtype::F32,
        Dtype::Bf16,
        Dtype::F16,
        Dtype::F64,
        Dtype::F8E4m3,
        Dtype::F8E5m2,
        Dtype::I64,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U64,
        Dtype::U32,
        Dtype::U16,
        Dtype::U8,
        Dtype::Bool,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::Bf16 | Dtype::F16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// The number format of a type that [`Format`] knows.
    pub const fn format(self) -> Option<Format> {
        match self {
            Dtype::F32 => Some(Format::F32),
            Dtype::Bf16 => Some(Format::Bf16),
            Dtype::F16 => Some(Format::Fp16),
            Dtype::F8E4m3 => Some(Format::Fp8E4m3),
            Dtype::F8E5m2 => Some(Format::Fp8E5m2),
            _ => None,
        }
    }

    /// The type of this spelling, `BF16` for example.
    pub(super) fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.to_string() == name)
    }

    /// Appends the values of whole elements as f32. Types wider than f32's 24 significant bits are rounded
    /// to the nearest. The first bool that is neither 0 nor 1 is returned as the error.
    pub(super) fn widen(self, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), u8> {
        let word =
            |element: &[u8]| element.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let bits = bytes.chunks_exact(self.size()).map(word);
        if let Some(format) = self.format() {
            values.extend(bits.map(|bits| format.decode(bits as u32)));
            return Ok(());
        }
        match self {
            Dtype::F64 => values.extend(bits.map(|bits| f64::from_bits(bits) as f32)),
            Dtype::I64 => values.extend(bits.map(|bits| bits as i64 as f32)),
            Dtype::I32 => values.extend(bits.map(|bits| bits as u32 as i32 as f32)),
            Dtype::I16 => values.extend(bits.map(|bits| f32::from(bits as u16 as i16))),
            Dtype::I8 => values.extend(bits.map(|bits| f32::from(bits as u8 as i8))),
            Dtype::Bool => {
                if let Some(byte) = bytes.iter().find(|byte| **byte > 1) {
                    return Err(*byte);
                }
                values.extend(bytes.iter().map(|byte| f32::from(*byte)));
            }
            _ => values.extend(bits.map(|bits| bits as f32)),
        }
        Ok(())
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}
