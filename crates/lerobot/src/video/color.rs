//! YUV 4:2:0 to RGB exactly as FFmpeg's swscale converts to `rgb24`: 16-bit fixed point, nearest chroma.
//!
//! swscale's x86 code, which FFmpeg, PyAV and torchcodec run, multiplies 16-bit lanes and keeps the high
//! halves: with `mh(a, c) = (a * c) >> 16`, Y' = mh(8 Y - offset, y), U' = 8 U - 1024, V' likewise, and
//! R = Y' + mh(V', vr), G = Y' + mh(U', ug) + mh(V', vg), B = Y' + mh(U', ub), clamped to 0..=255.
//! The coefficients come from the matrix's ITU numbers by swscale's own rounding steps ([`Matrix`]).

use super::{Frame, scaled};

/// The colour tags of a bitstream or a file, as far as they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tags {
    /// `matrix_coefficients` of ITU-T H.273. None or 2 is "unspecified".
    pub(super) matrix: Option<u8>,
    /// Whether luma runs over 0..=255 instead of 16..=235. None is "unspecified".
    pub(super) full_range: Option<bool>,
}

impl Tags {
    /// These tags, with gaps filled from `other`.
    pub(super) fn or(self, other: Tags) -> Tags {
        Tags { matrix: self.matrix.or(other.matrix), full_range: self.full_range.or(other.full_range) }
    }
}

/// One decoded picture: 8-bit planes without padding. Chroma is `[ceil(h/2), ceil(w/2)]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) y: Vec<u8>,
    pub(super) u: Vec<u8>,
    pub(super) v: Vec<u8>,
    pub(super) tags: Tags,
}

/// What V adds to red, U to blue, U and V to green, in 1/65536 for limited range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) vr: i64,
    pub(super) ub: i64,
    pub(super) ug: i64,
    pub(super) vg: i64,
    /// Whether luma runs over 0..=255; chroma is then narrowed from 255 to 224.
    pub(super) full_range: bool,
}

impl Matrix {
    /// The matrix for these tags. Unspecified means BT.601 and limited range, whatever the picture's size:
    /// swscale's default. None for matrices that swscale does not convert from (such as YCgCo).
    pub(super) fn new(tags: Tags) -> Option<Matrix> {
        let (vr, ub, ug, vg) = match tags.matrix.unwrap_or(2) {
            1 => (117_489, 138_438, -13_975, -34_925),         // BT.709
            2 | 5 | 6 => (104_597, 132_201, -25_675, -53_279), // unspecified, BT.470BG, BT.601
            4 => (104_448, 132_798, -24_759, -53_109),         // FCC
            7 => (117_579, 136_230, -16_907, -35_559),         // SMPTE 240M
            9 | 10 => (110_013, 140_363, -12_277, -42_626),    // BT.2020
            _ => return None,
        };
        let full_range = tags.full_range.unwrap_or(false);
        let chroma = |c: i64| if full_range { c * 224 / 255 } else { c };
        Some(Matrix { vr: chroma(vr), ub: chroma(ub), ug: chroma(ug), vg: chroma(vg), full_range })
    }
}

/// swscale's fixed-point coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Coefficients {
    y: i32,
    y_offset: i32,
    vr: i32,
    ub: i32,
    ug: i32,
    vg: i32,
}

impl Coefficients {
    fn new(matrix: Matrix) -> Coefficients {
        // Luma is stretched from 219 steps to 255.
        let (y, y_offset) = if matrix.full_range { (65_536, 0) } else { (65_536 * 255 / 219, 16 << 3) };
        Coefficients {
            y: round(y),
            y_offset,
            vr: round(matrix.vr),
            ub: round(matrix.ub),
            ug: round(matrix.ug),
            vg: round(matrix.vg),
        }
    }
}

/// From 1/65536 to 1/8192, rounded as swscale rounds (half upwards).
fn round(c: i64) -> i32 {
    let rounded = (c * (1 << 13) + (1 << 15)) >> 16;
    i32::try_from(rounded.clamp(-0x7fff, 0x7fff)).unwrap_or(0)
}

/// The high half of a 16-bit product.
#[inline(always)]
fn mh(a: i32, c: i32) -> i32 {
    (a * c) >> 16
}

/// Converts a picture to RGB, `[height, width, 3]`.
pub(super) fn to_rgb(picture: &Picture, matrix: Matrix) -> Frame {
    // swscale's fast code takes even heights only.
    if !picture.height.is_multiple_of(2) {
        return scaled::to_rgb(picture, matrix);
    }
    let c = Coefficients::new(matrix);
    let (width, height) = (picture.width, picture.height);
    let chroma_width = width.div_ceil(2);
    let mut rgb = vec![0; width * height * 3];
    let rows = rgb.chunks_exact_mut((width * 3).max(1)).zip(picture.y.chunks_exact(width.max(1)));
    for (row, (out, y)) in rows.enumerate() {
        let chroma = (row / 2) * chroma_width..(row / 2 + 1) * chroma_width;
        let (Some(u), Some(v)) = (picture.u.get(chroma.clone()), picture.v.get(chroma)) else { break };
        let pairs = out.chunks_mut(6).zip(y.chunks(2)).zip(u.iter().zip(v));
        for ((pixels, lumas), (u, v)) in pairs {
            let (u, v) = ((i32::from(*u) << 3) - 1024, (i32::from(*v) << 3) - 1024);
            let (r, g, b) = (mh(v, c.vr), mh(u, c.ug) + mh(v, c.vg), mh(u, c.ub));
            for (pixel, luma) in pixels.chunks_exact_mut(3).zip(lumas) {
                let y = mh((i32::from(*luma) << 3) - c.y_offset, c.y);
                for (channel, add) in pixel.iter_mut().zip([r, g, b]) {
                    *channel = (y + add).clamp(0, 255) as u8;
                }
            }
        }
    }
    Frame { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_of_bt601_limited_are_those_measured_against_ffmpeg() {
        let expected = Coefficients { y: 9539, y_offset: 128, vr: 13075, ub: 16525, ug: -3209, vg: -6660 };
        assert_eq!(Matrix::new(Tags::default()).map(Coefficients::new), Some(expected));
    }

    #[test]
    fn grey_stays_grey_and_odd_widths_fit() {
        for full_range in [false, true] {
            let matrix = Matrix::new(Tags { matrix: Some(1), full_range: Some(full_range) }).unwrap();
            let picture = Picture {
                width: 3,
                height: 4,
                y: vec![if full_range { 255 } else { 235 }; 12],
                u: vec![128; 4],
                v: vec![128; 4],
                tags: Tags::default(),
            };
            let frame = to_rgb(&picture, matrix);
            assert_eq!(frame.rgb.len(), 36);
            assert!(frame.rgb.iter().all(|v| *v >= 254), "{:?}", frame.rgb);
        }
    }

    #[test]
    fn unknown_matrices_are_refused() {
        assert_eq!(Matrix::new(Tags { matrix: Some(8), full_range: None }), None);
    }
}
