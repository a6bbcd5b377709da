//! Bits stored as one format and read as another: the classic fault of an engine's boundary.

use super::Format;

/// Two formats whose stored values differ in size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "reinterpretation: expected formats of one width, found {stored} of {} bits read as {read} of {} bits",
    stored.bits(), read.bits()
)]
pub struct WidthMismatch {
    /// The format that was written.
    pub stored: Format,
    /// The format that was read.
    pub read: Format,
}

/// What `value` becomes when it is stored as `stored` and its bits are read as `read`.
///
/// # Errors
/// The formats differ in width: [`reinterpret_bytes`] handles those.
pub fn reinterpret(value: f32, stored: Format, read: Format) -> Result<f32, WidthMismatch> {
    if stored.bits() != read.bits() {
        return Err(WidthMismatch { stored, read });
    }
    Ok(read.decode(stored.encode(value)))
}

/// What a buffer of `values`, written as `stored` in little-endian order, holds when it is read as `read`.
///
/// The result has as many values as the bytes make: twice as many for f32 read as bf16, half as many the
/// other way; bytes left over that make no whole value are dropped.
pub fn reinterpret_bytes(values: &[f32], stored: Format, read: Format) -> Vec<f32> {
    if stored.bits() == read.bits() {
        return values.iter().map(|value| read.decode(stored.encode(*value))).collect();
    }
    let (written, taken) = ((stored.bits() / 8) as usize, (read.bits() / 8) as usize);
    let mut bytes = Vec::with_capacity(values.len() * written);
    for value in values {
        bytes.extend_from_slice(&stored.encode(*value).to_le_bytes()[..written]);
    }
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
    bytes.chunks_exact(taken).map(|chunk| read.decode(word(chunk))).collect()
}
