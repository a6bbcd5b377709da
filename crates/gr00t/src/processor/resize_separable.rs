//! Antialiased 8-bit resizes in two fixed-point passes, byte for byte: Pillow's bicubic, torchvision's bicubic
//! and bilinear.
//!
//! All filter along x into bytes, then along y, with windows that widen when shrinking; they
//! differ in the filter and in the bits of a coefficient. Source: Pillow `src/libImaging/Resample.c`;
//! PyTorch `aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h`, which torchvision uses for
//! uint8 tensors on CPUs with AVX2 or better. Pillow up to 12 always filters along x first, which
//! is what happens here; Pillow 13 starts with y where that is less work, and rounds differently then.

use super::plan::Windows;
use super::view::{CHANNELS, Frame, Recent, View, spare};
use crate::Image;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Filter shape and coefficient format of one library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `PIL.Image.resize`, whose default for RGB is bicubic (a = -0.5); 22-bit coefficients.
    PillowBicubic,
    /// `torchvision.transforms.v2.Resize` with bicubic and antialias: Pillow's filter; coefficients use as many bits
    /// as an int16 holds.
    TorchBicubic,
    /// `torchvision.transforms.v2.Resize` with its default bilinear and antialias; coefficients
    /// as for bicubic.
    TorchBilinear,
}

impl Method {
    /// Half the filter's width at ratio 1.
    fn support(self) -> f64 {
        match self {
            Method::PillowBicubic | Method::TorchBicubic => 2.0,
            Method::TorchBilinear => 1.0,
        }
    }

    fn filter(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Method::TorchBilinear if x < 1.0 => 1.0 - x,
            Method::TorchBilinear => 0.0,
            Method::PillowBicubic | Method::TorchBicubic if x < 1.0 => {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            }
            Method::PillowBicubic | Method::TorchBicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Method::PillowBicubic | Method::TorchBicubic => 0.0,
        }
    }

    /// Bits after the binary point of a coefficient.
    fn precision(self, largest: f64) -> u32 {
        match self {
            // 8 bits of pixel, 2 bits of headroom for overshoot, out of 32.
            Method::PillowBicubic => 22,
            Method::TorchBicubic | Method::TorchBilinear => {
                let fits = |bits: u32| ((0.5 + largest * f64::from(1u32 << bits)) as i64) < (1 << 15);
                (0..22).find(|&bits| !fits(bits + 1)).unwrap_or(22)
            }
        }
    }
}

/// Resizes to `width` x `height`; a side that stays is not filtered. All sides must be nonzero.
pub(super) fn resize<'a>(src: View<'a>, width: usize, height: usize, method: Method) -> Frame<'a> {
    static AXES: Recent<(usize, usize, Method), Axis> = Recent::new();
    let axis = |from, to| AXES.get((from, to, method), || Axis::new(from, to, method));
    let narrowed = match src.width() == width {
        true => Frame::Same(src),
        false => {
            let axis = axis(src.width(), width);
            Frame::New(Arch::new().dispatch(AlongX { src, axis: &axis }))
        }
    };
    if src.height() == height {
        return narrowed;
    }
    let axis = axis(src.height(), height);
    let resized = Frame::New(Arch::new().dispatch(AlongY { src: narrowed.view(), axis: &axis }));
    narrowed.recycle();
    resized
}

/// The windows of one axis of the resize, for who computes it elsewhere.
pub(super) fn plan(from: usize, to: usize, method: Method) -> Windows {
    let Axis { taps, starts, weights, precision, .. } = Axis::new(from, to, method);
    let firsts = starts.into_iter().map(|first| first as u32).collect();
    Windows { firsts, taps, last: from as u32 - 1, weights, precision }
}

/// [`along_x`], compiled for each kind of vector instructions. A closure would not be: it is compiled once.
struct AlongX<'a> {
    src: View<'a>,
    axis: &'a Axis,
}

impl WithSimd for AlongX<'_> {
    type Output = Image;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Image {
        along_x(self.src, self.axis)
    }
}

/// [`along_y`], likewise.
struct AlongY<'a> {
    src: View<'a>,
    axis: &'a Axis,
}

impl WithSimd for AlongY<'_> {
    type Output = Image;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Image {
        along_y(self.src, self.axis)
    }
}

/// The windows of one axis. All have the same number of taps, some of them with the coefficient 0, so that
/// whole stretches of pixels are multiplied alike.
struct Axis {
    taps: usize,
    /// The first source pixel of each output pixel.
    starts: Vec<usize>,
    /// `[outputs, taps]`.
    weights: Vec<i32>,
    /// `[taps, outputs, channels]`: the same once more for every byte of a row.
    spread: Vec<i32>,
    /// Stretches of output pixels whose windows start at neighbouring pixels.
    runs: Vec<Range<usize>>,
    precision: u32,
}

/// Shorter runs are computed pixel by pixel.
const MIN_RUN: usize = 4;

impl Axis {
    fn new(from: usize, to: usize, method: Method) -> Self {
        let ratio = from as f64 / to as f64;
        let stretch = ratio.max(1.0);
        let support = method.support() * stretch;
        let weights = |out: usize| {
            let center = (out as f64 + 0.5) * ratio;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let filter = |x: usize| method.filter((x as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(filter).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|w| w / sum).collect::<Vec<f64>>())
        };
        let windows: Vec<(usize, Vec<f64>)> = (0..to).map(weights).collect();
        let largest = windows.iter().flat_map(|(_, w)| w).fold(0.0, |a: f64, &b| a.max(b));
        let precision = method.precision(largest);
        let one = f64::from(1u32 << precision);
        let fixed = |w: f64| (w * one + 0.5f64.copysign(w)) as i32;
        let taps = windows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let mut axis = Axis {
            taps,
            starts: Vec::with_capacity(to),
            weights: vec![0; to * taps],
            spread: vec![0; to * taps * CHANNELS],
            runs: Vec::new(),
            precision,
        };
        for (out, (first, window)) in windows.iter().enumerate() {
            // Taps beyond the last pixel are put before the first one instead.
            let start = (*first).min(from - taps);
            for (tap, weight) in (first - start..).zip(window) {
                axis.weights[out * taps + tap] = fixed(*weight);
                axis.spread[(tap * to + out) * CHANNELS..][..CHANNELS].fill(fixed(*weight));
            }
            axis.starts.push(start);
        }
        axis.runs = runs(to, |out| axis.starts[out] == axis.starts[out - 1] + 1);
        axis
    }

    /// The coefficients of one tap for the bytes of a run.
    fn run_weights(&self, tap: usize, run: &Range<usize>) -> &[i32] {
        &self.spread[(tap * self.starts.len() + run.start) * CHANNELS..][..run.len() * CHANNELS]
    }
}

/// Divides `0..len` where an element does not continue the one before it.
pub(super) fn runs(len: usize, continues: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for end in 1..=len {
        if end == len || !continues(end) {
            runs.push(start..end);
            start = end;
        }
    }
    runs
}

#[inline(always)]
fn along_x(src: View, axis: &Axis) -> Image {
    let width = axis.starts.len();
    let mut rgb = spare(width * src.height() * CHANNELS);
    for (out, row) in rgb.chunks_exact_mut(width * CHANNELS).zip(src.rows()) {
        for run in &axis.runs {
            let out = &mut out[run.start * CHANNELS..run.end * CHANNELS];
            if run.len() < MIN_RUN {
                pixels(row, axis, run, out);
                continue;
            }
            let row = &row[axis.starts[run.start] * CHANNELS..];
            match axis.taps {
                3 => axis.run::<3>(row, run, out),
                4 => axis.run::<4>(row, run, out),
                5 => axis.run::<5>(row, run, out),
                6 => axis.run::<6>(row, run, out),
                7 => axis.run::<7>(row, run, out),
                8 => axis.run::<8>(row, run, out),
                _ => axis.run_of_any(row, run, out),
            }
        }
    }
    Image { width, height: src.height(), rgb: rgb.into() }
}

impl Axis {
    /// The bytes of a run of `TAPS` taps, whose first window begins with `row`.
    #[inline(always)]
    fn run<const TAPS: usize>(&self, row: &[u8], run: &Range<usize>, out: &mut [u8]) {
        let weights: [&[i32]; TAPS] = std::array::from_fn(|tap| self.run_weights(tap, run));
        let bytes: [&[u8]; TAPS] = std::array::from_fn(|tap| &row[tap * CHANNELS..][..out.len()]);
        let half = 1 << (self.precision - 1);
        for (at, out) in out.iter_mut().enumerate() {
            let mut sum = half;
            for tap in 0..TAPS {
                sum += i32::from(bytes[tap][at]) * weights[tap][at];
            }
            *out = to_byte(sum, self.precision);
        }
    }

    #[inline(always)]
    fn run_of_any(&self, row: &[u8], run: &Range<usize>, out: &mut [u8]) {
        let mut sums = vec![1 << (self.precision - 1); out.len()];
        for tap in 0..self.taps {
            let bytes = &row[tap * CHANNELS..];
            for ((sum, byte), weight) in sums.iter_mut().zip(bytes).zip(self.run_weights(tap, run)) {
                *sum += i32::from(*byte) * weight;
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = to_byte(*sum, self.precision);
        }
    }
}

#[inline(always)]
fn pixels(row: &[u8], axis: &Axis, run: &Range<usize>, out: &mut [u8]) {
    for (at, out) in run.clone().zip(out.chunks_exact_mut(CHANNELS)) {
        let weights = &axis.weights[at * axis.taps..][..axis.taps];
        let mut sum = [1 << (axis.precision - 1); CHANNELS];
        for (pixel, weight) in row[axis.starts[at] * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
            for c in 0..CHANNELS {
                sum[c] += i32::from(pixel[c]) * weight;
            }
        }
        for c in 0..CHANNELS {
            out[c] = to_byte(sum[c], axis.precision);
        }
    }
}

#[inline(always)]
fn along_y(src: View, axis: &Axis) -> Image {
    let stride = src.width() * CHANNELS;
    let height = axis.starts.len();
    let mut rgb = spare(stride * height);
    let windows = axis.starts.iter().zip(axis.weights.chunks_exact(axis.taps));
    for (out, (start, weights)) in rgb.chunks_exact_mut(stride).zip(windows) {
        match axis.taps {
            3 => rows::<3>(src, *start, weights, axis.precision, out),
            4 => rows::<4>(src, *start, weights, axis.precision, out),
            5 => rows::<5>(src, *start, weights, axis.precision, out),
            6 => rows::<6>(src, *start, weights, axis.precision, out),
            7 => rows::<7>(src, *start, weights, axis.precision, out),
            8 => rows::<8>(src, *start, weights, axis.precision, out),
            _ => rows_of_any(src, *start, weights, axis.precision, out),
        }
    }
    Image { width: src.width(), height, rgb: rgb.into() }
}

/// One row of `TAPS` rows from `start` on.
#[inline(always)]
fn rows<const TAPS: usize>(src: View, start: usize, weights: &[i32], precision: u32, out: &mut [u8]) {
    let rows: [&[u8]; TAPS] = std::array::from_fn(|tap| &src.row(start + tap)[..out.len()]);
    let weights: [i32; TAPS] = std::array::from_fn(|tap| weights[tap]);
    let half = 1 << (precision - 1);
    for (at, out) in out.iter_mut().enumerate() {
        let mut sum = half;
        for tap in 0..TAPS {
            sum += i32::from(rows[tap][at]) * weights[tap];
        }
        *out = to_byte(sum, precision);
    }
}

#[inline(always)]
fn rows_of_any(src: View, start: usize, weights: &[i32], precision: u32, out: &mut [u8]) {
    let mut sums = vec![1 << (precision - 1); out.len()];
    for (row, weight) in (start..).zip(weights).filter(|(_, weight)| **weight != 0) {
        for (sum, value) in sums.iter_mut().zip(src.row(row)) {
            *sum += i32::from(*value) * weight;
        }
    }
    for (out, sum) in out.iter_mut().zip(&sums) {
        *out = to_byte(*sum, precision);
    }
}

#[inline(always)]
fn to_byte(sum: i32, precision: u32) -> u8 {
    (sum >> precision).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::super::pattern;
    use super::*;

    fn assert_digest(from: (usize, usize), to: (usize, usize), method: Method, expected: u64) {
        let image = pattern::image(from.0, from.1);
        let Frame::New(resized) = resize(View::of(&image), to.0, to.1, method) else { panic!("{from:?}") };
        assert_eq!(pattern::digest(&resized.rgb), expected, "{method:?} {from:?} to {to:?}");
    }

    #[test]
    fn bytes_equal_pillow() {
        // (from width, height, to width, height, digest), made by Pillow 11.3.0.
        for (from_width, from_height, width, height, expected) in [
            (256, 256, 252, 252, 0xbaa801dbb97673),
            (323, 243, 336, 252, 0xf9216a8ccaea26),
            (480, 640, 256, 341, 0x100a1b8e86ca014),
            (1280, 720, 455, 256, 0x156aed8c4f43b42),
            (3, 5, 28, 28, 0x2879fccf5f9e0),
            (17, 31, 28, 28, 0x24dcb45b92d4a),
            (1, 1, 2, 3, 0x39f379393b0),
        ] {
            assert_digest((from_width, from_height), (width, height), Method::PillowBicubic, expected);
        }
    }

    #[test]
    fn bytes_equal_torchvision() {
        // (from width, height, to width, height, digest), made by torchvision 0.29.2 on AVX-512.
        for (from_width, from_height, width, height, expected) in [
            (640, 480, 256, 256, 0xc0ad4523a8c2ab),
            (243, 243, 256, 256, 0xc0de59de210cd3),
            (256, 256, 300, 300, 0x1089665b966c26f),
            (1280, 720, 252, 252, 0xbac91f9f141144),
            (3, 5, 28, 28, 0x28736d7f96e1f),
            (17, 31, 97, 101, 0x1ca3c70fbe8909),
            (1, 1, 2, 3, 0x39f379393b0),
        ] {
            assert_digest((from_width, from_height), (width, height), Method::TorchBilinear, expected);
        }
    }

    #[test]
    fn a_side_that_stays_is_not_filtered() {
        let image = pattern::image(9, 7);
        let same = resize(View::of(&image), 9, 7, Method::PillowBicubic);
        assert!(matches!(same, Frame::Same(view) if (view.width(), view.height()) == (9, 7)));
    }
}
