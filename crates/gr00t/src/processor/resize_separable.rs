//! Antialiased 8-bit resizes in two fixed-point passes, byte for byte: Pillow's bicubic and
//! torchvision's bilinear.
//!
//! Both filter along x into bytes, then along y, with windows that widen when shrinking; they
//! differ in the filter and in the bits of a coefficient. Source: Pillow `src/libImaging/Resample.c`;
//! PyTorch `aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h`, which torchvision uses for
//! uint8 tensors on CPUs with AVX2 or better. Pillow up to 12 always filters along x first, which
//! is what happens here; Pillow 13 starts with y where that is less work, and rounds differently then.

use crate::Image;

const CHANNELS: usize = 3;

/// Filter shape and coefficient format of one library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `PIL.Image.resize`, whose default for RGB is bicubic (a = -0.5); 22-bit coefficients.
    PillowBicubic,
    /// `torchvision.transforms.v2.Resize` with its default bilinear and antialias; coefficients
    /// use as many bits as an int16 holds.
    TorchBilinear,
}

impl Method {
    /// Half the filter's width at ratio 1.
    fn support(self) -> f64 {
        match self {
            Method::PillowBicubic => 2.0,
            Method::TorchBilinear => 1.0,
        }
    }

    fn filter(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Method::TorchBilinear if x < 1.0 => 1.0 - x,
            Method::PillowBicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Method::PillowBicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }

    /// Bits after the binary point of a coefficient.
    fn precision(self, largest: f64) -> u32 {
        match self {
            // 8 bits of pixel, 2 bits of headroom for overshoot, out of 32.
            Method::PillowBicubic => 22,
            Method::TorchBilinear => {
                let fits = |bits: u32| ((0.5 + largest * f64::from(1u32 << bits)) as i64) < (1 << 15);
                (0..22).find(|&bits| !fits(bits + 1)).unwrap_or(22)
            }
        }
    }
}

/// Resizes to `width` x `height`; a side that stays is not filtered. All sides must be nonzero.
pub(super) fn resize(src: &Image, width: usize, height: usize, method: Method) -> Image {
    let narrowed = (src.width != width).then(|| along_x(src, &Axis::new(src.width, width, method)));
    let src = narrowed.as_ref().unwrap_or(src);
    if src.height == height {
        return src.clone();
    }
    along_y(src, &Axis::new(src.height, height, method))
}

/// The windows of one axis: for each output pixel the first source pixel and the coefficients.
struct Axis {
    windows: Vec<(usize, Vec<i32>)>,
    precision: u32,
}

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
        let weights: Vec<(usize, Vec<f64>)> = (0..to).map(weights).collect();
        let largest = weights.iter().flat_map(|(_, w)| w).fold(0.0, |a: f64, &b| a.max(b));
        let precision = method.precision(largest);
        let one = f64::from(1u32 << precision);
        let fixed = |w: f64| (w * one + 0.5f64.copysign(w)) as i32;
        let windows = weights.into_iter().map(|(first, w)| (first, w.into_iter().map(fixed).collect()));
        Axis { windows: windows.collect(), precision }
    }

    fn to_byte(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

fn along_x(src: &Image, axis: &Axis) -> Image {
    let half = 1 << (axis.precision - 1);
    let width = axis.windows.len();
    let mut rgb = Vec::with_capacity(width * src.height * CHANNELS);
    for row in src.rgb.chunks_exact(src.width * CHANNELS) {
        for (first, weights) in &axis.windows {
            let mut sum = [half; CHANNELS];
            for (pixel, weight) in row[first * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
                for c in 0..CHANNELS {
                    sum[c] += i32::from(pixel[c]) * weight;
                }
            }
            rgb.extend(sum.map(|s| axis.to_byte(s)));
        }
    }
    Image { width, height: src.height, rgb }
}

fn along_y(src: &Image, axis: &Axis) -> Image {
    let half = 1 << (axis.precision - 1);
    let stride = src.width * CHANNELS;
    let height = axis.windows.len();
    let mut sums = vec![half; stride];
    let mut rgb = Vec::with_capacity(stride * height);
    for (first, weights) in &axis.windows {
        sums.fill(half);
        for (row, weight) in src.rgb[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        rgb.extend(sums.iter().map(|&sum| axis.to_byte(sum)));
    }
    Image { width: src.width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::super::pattern;
    use super::*;

    fn assert_digest(from: (usize, usize), to: (usize, usize), method: Method, expected: u64) {
        let resized = resize(&pattern::image(from.0, from.1), to.0, to.1, method);
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
        assert_eq!(resize(&image, 9, 7, Method::PillowBicubic), image);
    }
}
