//! OpenCV's `INTER_AREA` resize of 8-bit RGB, byte for byte, including its three paths: block
//! means at integer ratios, area coverage when shrinking, and fixed-point linear when enlarging.
//!
//! Source of the arithmetic: OpenCV 4.11 `modules/imgproc/src/resize.cpp` as built for x86-64
//! (IPP does not take these paths). Order and width of every operation matter: the area path
//! accumulates in f32, the linear path in 11-bit fixed point with truncating high halves.

use crate::Image;

const CHANNELS: usize = 3;
/// One, in the linear path's coefficients.
const LINEAR_ONE: f32 = 2048.0;

/// Resizes like `cv2.resize(src, (width, height), interpolation=cv2.INTER_AREA)`.
/// All sides must be nonzero.
pub(super) fn area(src: &Image, width: usize, height: usize) -> Image {
    if (src.width, src.height) == (width, height) {
        return src.clone();
    }
    let x = Scale::new(src.width, width);
    let y = Scale::new(src.height, height);
    let rgb = if x.ratio < 1.0 || y.ratio < 1.0 {
        enlarge(src, width, height, &x, &y)
    } else {
        match (x.integer(), y.integer()) {
            (Some(block_x), Some(block_y)) => block_means(src, width, height, block_x, block_y),
            _ => shrink(src, width, height, &x, &y),
        }
    };
    Image { width, height, rgb }
}

/// One axis: source length per output pixel, computed with OpenCV's two divisions.
struct Scale {
    ratio: f64,
    inverse: f64,
}

impl Scale {
    fn new(from: usize, to: usize) -> Self {
        let inverse = to as f64 / from as f64;
        Scale { ratio: 1.0 / inverse, inverse }
    }

    /// The ratio, when OpenCV takes it for an integer. The double rounding makes some true
    /// integers miss this test; they go the general way there and here.
    fn integer(&self) -> Option<usize> {
        let nearest = self.ratio.round_ties_even();
        ((self.ratio - nearest).abs() < f64::EPSILON).then_some(nearest as usize)
    }
}

/// Integer ratios on both axes: means of blocks; 2x2 in integers, the others through f32.
fn block_means(src: &Image, width: usize, height: usize, block_x: usize, block_y: usize) -> Vec<u8> {
    let stride = src.width * CHANNELS;
    let scale = 1.0 / (block_x * block_y) as f32;
    let mut sums = vec![0i32; width * CHANNELS];
    let mut out = Vec::with_capacity(width * height * CHANNELS);
    for y in 0..height {
        sums.fill(0);
        for row in src.rgb[y * block_y * stride..].chunks_exact(stride).take(block_y) {
            for (sum, block) in sums.chunks_exact_mut(CHANNELS).zip(row.chunks_exact(block_x * CHANNELS)) {
                for pixel in block.chunks_exact(CHANNELS) {
                    for c in 0..CHANNELS {
                        sum[c] += i32::from(pixel[c]);
                    }
                }
            }
        }
        if (block_x, block_y) == (2, 2) {
            out.extend(sums.iter().map(|&sum| ((sum + 2) >> 2) as u8));
        } else {
            out.extend(sums.iter().map(|&sum| saturate(sum as f32 * scale)));
        }
    }
    out
}

/// The source pixels under one output pixel, from `first` on, and their shares of it.
struct Window {
    first: usize,
    shares: Vec<f32>,
}

/// Windows along one axis (`computeResizeAreaTab`): slivers below 1/1000 pixel are left out.
fn windows(from: usize, to: usize, ratio: f64) -> Vec<Window> {
    let window = |out: usize| {
        let begin = out as f64 * ratio;
        let end = begin + ratio;
        let cell = ratio.min(from as f64 - begin);
        let last = (end.floor() as usize).min(from - 1);
        let whole = (begin.ceil() as usize).min(last);
        let before = whole as f64 - begin;
        let after = end - last as f64;
        let mut window = Window { first: whole, shares: Vec::with_capacity(last - whole + 2) };
        if before > 1e-3 {
            window.first -= 1;
            window.shares.push((before / cell) as f32);
        }
        window.shares.extend((whole..last).map(|_| (1.0 / cell) as f32));
        if after > 1e-3 {
            window.shares.push((after.min(1.0).min(cell) / cell) as f32);
        }
        window
    };
    (0..to).map(window).collect()
}

/// Shrinking by area coverage: rows first collapsed along x, then accumulated along y, in f32.
fn shrink(src: &Image, width: usize, height: usize, x: &Scale, y: &Scale) -> Vec<u8> {
    let stride = src.width * CHANNELS;
    let columns = windows(src.width, width, x.ratio);
    let mut row = vec![0f32; width * CHANNELS];
    let mut row_is = None;
    let mut sums = vec![0f32; width * CHANNELS];
    let mut out = Vec::with_capacity(width * height * CHANNELS);
    for window in windows(src.height, height, y.ratio) {
        sums.fill(0.0);
        for (index, share) in (window.first..).zip(&window.shares) {
            // A row that straddles two output rows is collapsed once.
            if row_is != Some(index) {
                collapse_row(&src.rgb[index * stride..][..stride], &columns, &mut row);
                row_is = Some(index);
            }
            for (sum, value) in sums.iter_mut().zip(&row) {
                *sum += share * value;
            }
        }
        out.extend(sums.iter().map(|&v| saturate(v)));
    }
    out
}

fn collapse_row(pixels: &[u8], columns: &[Window], row: &mut [f32]) {
    for (out, window) in row.chunks_exact_mut(CHANNELS).zip(columns) {
        let mut sum = [0f32; CHANNELS];
        for (pixel, share) in pixels[window.first * CHANNELS..].chunks_exact(CHANNELS).zip(&window.shares) {
            for c in 0..CHANNELS {
                sum[c] += f32::from(pixel[c]) * share;
            }
        }
        out.copy_from_slice(&sum);
    }
}

/// Two neighbours and their weights in units of 1/2048.
struct Blend {
    first: usize,
    second: usize,
    weights: [i32; 2],
}

/// Positions along one axis when enlarging: `INTER_AREA`'s own offsets, not pixel centres.
fn blends(from: usize, to: usize, scale: &Scale) -> impl Iterator<Item = Blend> {
    let (ratio, inverse) = (scale.ratio, scale.inverse);
    (0..to).map(move |out| {
        let first = (out as f64 * ratio).floor();
        let offset = ((out + 1) as f64 - (first + 1.0) * inverse) as f32;
        let fraction = if offset <= 0.0 { 0.0 } else { offset - offset.floor() };
        let weights = [1.0 - fraction, fraction].map(|w| (w * LINEAR_ONE).round_ties_even() as i32);
        let first = (first as usize).min(from - 1);
        Blend { first, second: (first + 1).min(from - 1), weights }
    })
}

/// Enlarging (or enlarging one axis only): linear in fixed point, x before y.
fn enlarge(src: &Image, width: usize, height: usize, x: &Scale, y: &Scale) -> Vec<u8> {
    let stride = src.width * CHANNELS;
    let columns: Vec<Blend> = blends(src.width, width, x)
        .map(|b| Blend { first: b.first * CHANNELS, second: b.second * CHANNELS, ..b })
        .collect();
    let blend_row = |index: usize| -> Vec<i32> {
        let pixels = &src.rgb[index * stride..][..stride];
        let mut row = Vec::with_capacity(width * CHANNELS);
        for blend in &columns {
            let [a, b] = blend.weights;
            // The last column stands alone with full weight there, which the equal neighbours give here.
            let (p, q) = (&pixels[blend.first..][..CHANNELS], &pixels[blend.second..][..CHANNELS]);
            row.extend((0..CHANNELS).map(|c| i32::from(p[c]) * a + i32::from(q[c]) * b));
        }
        row
    };
    let mut rows = RowPair::new(blend_row);
    let mut out = Vec::with_capacity(width * height * CHANNELS);
    for blend in blends(src.height, height, y) {
        let [a, b] = blend.weights;
        let (upper, lower) = rows.get(blend.first, blend.second);
        // Each product keeps its high 16 bits before the sum, as the SIMD code's multiply does.
        let mix = |(&u, &l): (&i32, &i32)| ((((a * (u >> 4)) >> 16) + ((b * (l >> 4)) >> 16) + 2) >> 2) as u8;
        out.extend(upper.iter().zip(lower).map(mix));
    }
    out
}

/// The two most recently used blended rows: neighbouring output rows share them.
struct RowPair<F> {
    make: F,
    rows: [(usize, Vec<i32>); 2],
}

impl<F: Fn(usize) -> Vec<i32>> RowPair<F> {
    fn new(make: F) -> Self {
        let row = make(0);
        RowPair { make, rows: [(0, row.clone()), (0, row)] }
    }

    fn get(&mut self, upper: usize, lower: usize) -> (&[i32], &[i32]) {
        if self.rows[0].0 != upper && self.rows[1].0 == upper {
            self.rows.swap(0, 1);
        }
        for (slot, index) in self.rows.iter_mut().zip([upper, lower]) {
            if slot.0 != index {
                *slot = (index, (self.make)(index));
            }
        }
        (&self.rows[0].1, &self.rows[1].1)
    }
}

/// OpenCV's `saturate_cast<uchar>(float)`: nearest, ties to even.
fn saturate(value: f32) -> u8 {
    value.round_ties_even().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::super::pattern;
    use super::*;

    #[test]
    fn bytes_equal_opencv() {
        // (from width, height, to width, height, digest), made by opencv-python 4.11.0.86.
        for (from_width, from_height, width, height, expected) in [
            // Area coverage.
            (256, 256, 252, 252, 0xbaadf6b8076585),
            (640, 480, 341, 256, 0x100a26f2e0f7b81),
            (480, 640, 256, 341, 0x1009bff1bc25a1a),
            (1280, 720, 455, 256, 0x156b0301f57a9f1),
            (641, 479, 97, 101, 0x1ccc0f76c9b972),
            // Integer ratios: 2x2 blocks, then 3x3.
            (512, 512, 256, 256, 0xc0de4b48653d59),
            (640, 480, 320, 240, 0xe1df36ed673881),
            (768, 768, 256, 256, 0xc0c117ad5cec10),
            // Enlarging, on both axes or on one.
            (323, 243, 340, 256, 0xffd3566c7d1a71),
            (243, 243, 256, 256, 0xc0b1cd5dfcfc8a),
            (100, 100, 341, 256, 0xffe47bd73a5310),
            (3, 5, 28, 28, 0x2854627654ed5),
            (1, 1, 2, 3, 0x39f379393b0),
            (7, 1, 97, 101, 0x1cc84e5110241b),
            (1, 7, 2, 3, 0x415714ce2c4),
            (256, 256, 341, 256, 0x100c24ae4bbd7a0),
        ] {
            let resized = area(&pattern::image(from_width, from_height), width, height);
            let found = pattern::digest(&resized.rgb);
            assert_eq!(found, expected, "{from_width}x{from_height} to {width}x{height}");
        }
    }
}
