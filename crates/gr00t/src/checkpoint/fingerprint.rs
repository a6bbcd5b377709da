//! A short name for the weights of a checkpoint.

use super::Checkpoint;
use rayon::prelude::*;
use std::convert::Infallible;

/// The multiplier of 64-bit FNV-1a.
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// The start of 64-bit FNV-1a.
pub const START: u64 = 0xcbf2_9ce4_8422_2325;

impl Checkpoint {
    /// 16 hexadecimal digits of every tensor's name, shape, dtype and bytes, whatever files they lie in.
    ///
    /// FNV-1a over 64-bit little-endian words instead of bytes, each step followed by `h ^= h >> 32` so that
    /// high bits reach low ones; a last, shorter word is filled up with zeros. A tensor's value is taken over
    /// its name's bytes, the name's length, the number of its dimensions, the dimensions, the bytes of an
    /// element (and 1 for bf16), then its bytes; the checkpoint's over its tensors' values in the order of
    /// their names. It tells checkpoints apart; it does not withstand someone who wants two to look alike.
    pub fn fingerprint(&self) -> String {
        let tensors: Vec<_> = self.tensors().collect();
        let values: Vec<u64> = tensors
            .par_iter()
            .map(|(name, weight)| {
                let mut hash = bytes(START, name.as_bytes());
                hash = step(hash, name.len() as u64);
                hash = step(hash, weight.shape().len() as u64);
                hash = weight.shape().iter().fold(hash, |hash, dim| step(hash, *dim as u64));
                let is_bf16 = weight.dtype() == super::Dtype::Bf16;
                hash = step(hash, weight.dtype().size() as u64 + u64::from(is_bf16));
                bytes(hash, weight.bytes().expect("every tensor of a checkpoint lies in a file"))
            })
            .collect();
        format!("{:016x}", values.into_iter().fold(START, step))
    }
}

/// 16 hexadecimal digits of named bytes, in the order given, by the steps of [`Checkpoint::fingerprint`]: over each
/// name, its length, the number of bytes and the bytes.
pub fn fingerprint<N: AsRef<str>, C: AsRef<[u8]>>(parts: impl IntoIterator<Item = (N, C)>) -> String {
    let Ok(found) = try_fingerprint::<N, C, Infallible>(parts.into_iter().map(Ok));
    found
}

/// [`fingerprint`] of parts that may be missing. One part is looked at at a time.
///
/// # Errors
/// The first part that could not be had.
pub fn try_fingerprint<N: AsRef<str>, C: AsRef<[u8]>, E>(
    parts: impl IntoIterator<Item = Result<(N, C), E>>,
) -> Result<String, E> {
    let hash = parts.into_iter().try_fold(START, |hash, part| {
        let (name, contents) = part?;
        let (name, contents) = (name.as_ref(), contents.as_ref());
        let hash = step(bytes(hash, name.as_bytes()), name.len() as u64);
        Ok(bytes(step(hash, contents.len() as u64), contents))
    })?;
    Ok(format!("{hash:016x}"))
}

/// The value after one word.
pub fn step(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(PRIME);
    hash ^ (hash >> 32)
}

/// The value after `bytes`, from the value before.
pub fn bytes(hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let hash = words.iter().fold(hash, |hash, word| step(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    if rest.is_empty() { hash } else { step(hash, u64::from_le_bytes(last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_bounds_count() {
        let of = |parts: &[(&str, &[u8])]| fingerprint(parts.iter().copied());
        let all = [
            of(&[("a", b"bc")]),
            of(&[("ab", b"c")]),
            of(&[("a", b"b"), ("", b"c")]),
            of(&[("a", b"bd")]),
            of(&[]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(one.len() == 16 && !all[..index].contains(one), "{all:?}");
        }
    }

    #[test]
    fn every_byte_counts() {
        let data = [7u8; 21];
        let whole = bytes(START, &data);
        for index in 0..data.len() {
            let mut other = data;
            other[index] ^= 1;
            assert_ne!(bytes(START, &other), whole, "byte {index}");
        }
    }
}
