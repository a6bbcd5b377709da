//! From coefficients to samples, to full size, to colours: whole numbers throughout, as libjpeg's slow-but-accurate
//! transform, fancy upsampling and colour tables have them.

use super::{Block, Component};

/// Fraction bits of the transform's constants, and of values between its passes.
const CONSTANT_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

/// The samples of one component.
pub(super) struct Plane {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Plane {
    fn row(&self, row: usize) -> &[u8] {
        &self.samples[row * self.width..(row + 1) * self.width]
    }
}

/// A component's samples, without what fills its last blocks.
pub(super) fn plane(component: &Component, quantization: &[u16; 64]) -> Plane {
    let (width, height) = (component.width, component.height);
    let mut samples = vec![0; width * height];
    for (index, block) in component.blocks.iter().enumerate() {
        let (left, top) = (index % component.columns * 8, index / component.columns * 8);
        if left >= width || top >= height {
            continue;
        }
        let pixels = inverse(block, quantization);
        let count = (width - left).min(8);
        for (row, pixels) in pixels.chunks_exact(8).enumerate().take(height - top) {
            let start = (top + row) * width + left;
            samples[start..start + count].copy_from_slice(&pixels[..count]);
        }
    }
    Plane { width, height, samples }
}

/// The inverse cosine transform of Loeffler, Ligtenberg and Moschytz: columns, then rows.
fn inverse(block: &Block, quantization: &[u16; 64]) -> [u8; 64] {
    let mut middle = [0i32; 64];
    for column in 0..8 {
        let value = |row: usize| {
            let at = row * 8 + column;
            i32::from(block[at]).wrapping_mul(i32::from(quantization[at]))
        };
        let out = pass(std::array::from_fn(value), CONSTANT_BITS - PASS_BITS);
        for (row, value) in out.into_iter().enumerate() {
            middle[row * 8 + column] = value;
        }
    }
    let mut samples = [0; 64];
    for (row, out) in samples.chunks_exact_mut(8).enumerate() {
        let values =
            pass(std::array::from_fn(|column| middle[row * 8 + column]), CONSTANT_BITS + PASS_BITS + 3);
        for (sample, value) in out.iter_mut().zip(values) {
            *sample = value.saturating_add(128).clamp(0, 255) as u8;
        }
    }
    samples
}

/// One pass over eight values; `drop` bits are rounded away.
fn pass(v: [i32; 8], drop: u32) -> [i32; 8] {
    let fix = |a: i32, constant: i32| a.wrapping_mul(constant);
    let sum = |a: i32, b: i32| a.wrapping_add(b);
    // Even part.
    let z1 = fix(sum(v[2], v[6]), 4433);
    let (even2, even3) = (sum(z1, fix(v[6], -15137)), sum(z1, fix(v[2], 6270)));
    let even0 = sum(v[0], v[4]).wrapping_shl(CONSTANT_BITS);
    let even1 = v[0].wrapping_sub(v[4]).wrapping_shl(CONSTANT_BITS);
    let (a0, a3) = (sum(even0, even3), even0.wrapping_sub(even3));
    let (a1, a2) = (sum(even1, even2), even1.wrapping_sub(even2));
    // Odd part.
    let [t0, t1, t2, t3] = [v[7], v[5], v[3], v[1]];
    let z5 = fix(sum(sum(t0, t2), sum(t1, t3)), 9633);
    let (z1, z2) = (fix(sum(t0, t3), -7373), fix(sum(t1, t2), -20995));
    let (z3, z4) = (sum(fix(sum(t0, t2), -16069), z5), sum(fix(sum(t1, t3), -3196), z5));
    let b3 = sum(fix(t0, 2446), sum(z1, z3));
    let b2 = sum(fix(t1, 16819), sum(z2, z4));
    let b1 = sum(fix(t2, 25172), sum(z2, z3));
    let b0 = sum(fix(t3, 12299), sum(z1, z4));
    let round = |value: i32| value.wrapping_add(1 << (drop - 1)) >> drop;
    let (plus, minus) = (|a: i32, b: i32| round(sum(a, b)), |a: i32, b: i32| round(a.wrapping_sub(b)));
    [
        plus(a0, b0),
        plus(a1, b1),
        plus(a2, b2),
        plus(a3, b3),
        minus(a3, b3),
        minus(a2, b2),
        minus(a1, b1),
        minus(a0, b0),
    ]
}

/// The plane at full size: by triangles where it is twice as coarse, otherwise by repetition.
pub(super) fn stretch(plane: Plane, across: usize, down: usize, width: usize, height: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(width * height);
    // Triangles need more than two samples a row, but for those that only go down.
    let fancy = plane.width > 2;
    for row in 0..height {
        let near = (row / down).min(plane.height - 1);
        // The row of samples that is second nearest.
        let far = match row % 2 {
            0 => near.saturating_sub(1),
            _ => (near + 1).min(plane.height - 1),
        };
        let (near, far) = (plane.row(near), plane.row(far));
        let mixed = || near.iter().zip(far).map(|(near, far)| 3 * u32::from(*near) + u32::from(*far));
        let start = out.len();
        match (across, down) {
            (1, 1) => out.extend_from_slice(near),
            (2, 1) if fancy => {
                let samples: Vec<u32> = near.iter().map(|sample| u32::from(*sample)).collect();
                doubled(&samples, [1, 2], 2, &mut out);
            }
            (2, 2) if fancy => doubled(&mixed().collect::<Vec<u32>>(), [8, 7], 4, &mut out),
            (1, 2) => {
                let bias = 1 + row as u32 % 2;
                out.extend(mixed().map(|sum| ((sum + bias) >> 2) as u8));
            }
            _ => out.extend(near.iter().flat_map(|sample| std::iter::repeat_n(*sample, across))),
        }
        out.truncate(start + width);
    }
    out
}

/// A row at twice its width: each sample three parts of itself and one of its neighbour, rounded by turns.
fn doubled(samples: &[u32], bias: [u32; 2], shift: u32, out: &mut Vec<u8>) {
    let last = samples.len() - 1;
    for (at, sample) in samples.iter().enumerate() {
        let left = samples[at.saturating_sub(1)];
        let right = samples[(at + 1).min(last)];
        out.push(((3 * sample + left + bias[0]) >> shift) as u8);
        out.push(((3 * sample + right + bias[1]) >> shift) as u8);
    }
}

/// Red, green and blue of luma and chroma.
pub(super) fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        y + ((91_881 * cr + HALF) >> 16),
        y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16),
        y + ((116_130 * cb + HALF) >> 16),
    ]
    .map(|value| value.clamp(0, 255) as u8)
}
