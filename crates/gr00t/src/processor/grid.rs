//! The sizes that a version's vision tower takes, and the resize to them.
//!
//! Source: `smart_resize` of Eagle's `processing_eagle3_vl.py` (N1.6), and that of Qwen2-VL's image processor in
//! transformers 4.57.3, which Qwen3-VL uses (N1.7).

use super::resize_separable::Method;
use crate::{Error, Result, Version};

/// `(width, height)`.
pub(super) type Size = (usize, usize);

/// The official code of both versions refuses narrower images.
const MAX_ASPECT: f64 = 200.0;

/// What a version's vision tower takes: sides in multiples of one token's, pixels within bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    /// Pixels per side of one language token: 2 x 2 patches.
    pub token_side: usize,
    min_pixels: usize,
    max_pixels: usize,
    max_side: Option<usize>,
    /// Whether an image of too many pixels shrinks from its rounded sides, or from those that it had.
    shrinks_rounded: bool,
    /// The resize to these sizes.
    pub method: Method,
}

impl Grid {
    pub const fn of(version: Version) -> Self {
        match version {
            Version::N1_6 => Grid {
                token_side: 28,
                min_pixels: 4 * 28 * 28,
                max_pixels: 4096 * 28 * 28,
                max_side: Some(500 * 14),
                shrinks_rounded: true,
                method: Method::PillowBicubic,
            },
            Version::N1_7 => Grid {
                token_side: 32,
                min_pixels: 1 << 16,
                max_pixels: 1 << 24,
                max_side: None,
                shrinks_rounded: false,
                method: Method::TorchBicubic,
            },
        }
    }

    /// The least side of a square image.
    pub fn least_square(&self) -> usize {
        self.min_pixels.isqrt()
    }

    /// Language tokens that an image of such a size becomes.
    pub fn tokens(&self, height: usize, width: usize) -> usize {
        height * width / (self.token_side * self.token_side)
    }

    /// The nearest size with sides in multiples of `token_side` and a pixel count in bounds.
    ///
    /// # Errors
    /// [`Error::Input`] about `field` for an image narrower than 1:200.
    pub fn smart_resize(&self, field: &str, (width, height): Size) -> Result<Size> {
        check_aspect(field, (width, height))?;
        let side = self.token_side as f64;
        let multiple = |count: f64| count as usize * self.token_side;
        let nearest = |length: usize| {
            let rounded = multiple((length as f64 / side).round_ties_even());
            // Without a bound a side may round to 0, which is below the least pixels.
            self.max_side.map_or(rounded, |longest| rounded.clamp(self.token_side, longest))
        };
        let (w, h) = (nearest(width), nearest(height));
        if w * h > self.max_pixels {
            let (from_w, from_h) = if self.shrinks_rounded { (w, h) } else { (width, height) };
            let beta = ((from_w * from_h) as f64 / self.max_pixels as f64).sqrt();
            let shrunk = |length: usize| multiple((length as f64 / beta / side).floor()).max(self.token_side);
            return Ok((shrunk(from_w), shrunk(from_h)));
        }
        if w * h < self.min_pixels {
            let beta = (self.min_pixels as f64 / (width * height) as f64).sqrt();
            let grown = |length: usize| multiple((length as f64 * beta / side).ceil());
            return Ok((grown(width), grown(height)));
        }
        Ok((w, h))
    }
}

/// # Errors
/// [`Error::Input`] about `field` for an image narrower than 1:200.
pub(super) fn check_aspect(field: &str, (width, height): Size) -> Result<()> {
    let aspect = width.max(height) as f64 / width.min(height) as f64;
    if aspect > MAX_ASPECT {
        let what = format!("expected sides within 1:{MAX_ASPECT}, found {width}x{height}");
        return Err(Error::input(field, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_sizes(version: Version, sizes: &[(Size, Size)]) {
        for (size, expected) in sizes {
            let found = Grid::of(version).smart_resize("image", *size).expect("in bounds");
            assert_eq!(found, *expected, "{version} {size:?}");
        }
    }

    #[test]
    fn sides_round_to_multiples_of_28_within_the_pixel_bounds() {
        // Values of the official smart_resize; 70 / 28 = 2.5 rounds to even.
        assert_sizes(
            Version::N1_6,
            &[
                ((256, 256), (252, 252)),
                ((70, 98), (56, 112)),
                ((14, 14), (56, 56)),
                ((10, 300), (28, 308)),
                ((3000, 3000), (1792, 1792)),
                ((8000, 100), (7000, 112)),
            ],
        );
    }

    #[test]
    fn sides_round_to_multiples_of_32_within_the_pixel_bounds() {
        // Values of transformers' smart_resize with factor 32, 65536 and 16777216 pixels; 272 / 32 = 8.5 rounds to even.
        assert_sizes(
            Version::N1_7,
            &[
                ((256, 256), (256, 256)),
                ((455, 256), (448, 256)),
                ((340, 256), (352, 256)),
                ((120, 160), (224, 320)),
                ((272, 304), (256, 320)),
                ((10, 300), (64, 1408)),
                ((1, 1), (256, 256)),
                ((5000, 4000), (4576, 3648)),
                ((20000, 100), (20000, 96)),
            ],
        );
        let grid = Grid::of(Version::N1_7);
        assert!(grid.smart_resize("image", (201, 1)).is_err());
        assert_eq!((grid.tokens(256, 448), Grid::of(Version::N1_6).tokens(252, 252)), (112, 81));
    }
}
