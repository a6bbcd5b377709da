//! A reproducible test image and a digest of bytes, so that tests can hold what other libraries
//! made of the image as one number per size.

use crate::Image;

/// Noise-like RGB: every byte is a hash of its index.
pub(super) fn image(width: usize, height: usize) -> Image {
    let byte = |index: u32| {
        let mut v = index.wrapping_mul(2_654_435_761);
        v ^= v >> 15;
        v = v.wrapping_mul(2_246_822_519);
        v ^= v >> 13;
        (v >> 24) as u8
    };
    Image { width, height, rgb: (0..(width * height * 3) as u32).map(byte).collect() }
}

/// Position-dependent checksum: one level off anywhere changes it.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let term = |(index, &byte): (usize, &u8)| {
        (u64::from(byte) + 1).wrapping_mul(u64::from((index as u32).wrapping_mul(2_654_435_761) | 1))
    };
    bytes.iter().enumerate().map(term).fold(0, u64::wrapping_add)
}
