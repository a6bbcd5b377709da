//! OpenCV's `INTER_AREA` resize of 8-bit RGB, byte for byte, including its three paths: block
//! means at integer ratios, area coverage when shrinking, and fixed-point linear when enlarging.
//!
//! Source of the arithmetic: OpenCV 4.11 `modules/imgproc/src/resize.cpp` as built for x86-64
//! (IPP does not take these paths). Order and width of every operation matter: the area path
//! accumulates in f32, the linear path in 11-bit fixed point with truncating high halves.

use super::plan::{Filter, Windows};
use super::resize_separable::runs;
use super::view::{CHANNELS, Part, Recent, View, spare};
use crate::Image;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// One, in the linear path's coefficients.
const LINEAR_ONE: f32 = 2048.0;
/// Values of a pixel in the area path: a fourth one lets four lanes work alike.
const LANES: usize = 4;

/// The part of `cv2.resize(src, (width, height), interpolation=cv2.INTER_AREA)` that lies in `part`, without
/// computing the rest. `size` is `(width, height)`, not the source's own; all sides are nonzero.
pub(super) fn area(src: View, size: (usize, usize), part: Part) -> Image {
    static AXES: Recent<(usize, usize), Axis> = Recent::new();
    let axis = |from, to| AXES.get((from, to), || Axis::new(from, to));
    let (x, y) = (axis(src.width(), size.0), axis(src.height(), size.1));
    let rgb = Arch::new().dispatch(Area { src, x: &x, y: &y, part });
    Image { width: part.width, height: part.height, rgb: rgb.into() }
}

/// What [`area`] does with which pixels, for who computes it elsewhere.
pub(super) fn plan(from: (usize, usize), size: (usize, usize), part: Part) -> (Filter, Windows, Windows) {
    let axes = [(from.0, size.0, part.left, part.width), (from.1, size.1, part.top, part.height)];
    let axes = axes.map(|(from, to, first, count)| (Axis::new(from, to), first..first + count, from));
    let integers = [&axes[0].0, &axes[1].0].map(|axis| axis.scale.integer());
    let filter = match integers {
        _ if axes.iter().any(|(axis, ..)| axis.scale.ratio < 1.0) => Filter::Linear,
        [Some(_), Some(_)] => Filter::BlockMeans,
        _ => Filter::Area,
    };
    let [x, y] = axes.map(|(axis, results, from)| axis.plan(filter, results, from));
    (filter, x, y)
}

/// The path that the ratios choose, compiled for each kind of vector instructions. A closure would not be: it is
/// compiled once.
struct Area<'a> {
    src: View<'a>,
    x: &'a Axis,
    y: &'a Axis,
    part: Part,
}

impl WithSimd for Area<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<u8> {
        let Area { src, x, y, part } = self;
        if x.scale.ratio < 1.0 || y.scale.ratio < 1.0 {
            return enlarge(src, &x.blends, &y.blends, part);
        }
        match (x.scale.integer(), y.scale.integer()) {
            (Some(block_x), Some(block_y)) => block_means(src, block_x, block_y, part),
            _ => shrink(src, &x.columns, &y.windows, part),
        }
    }
}

/// The tables of one axis.
struct Axis {
    scale: Scale,
    /// None where this axis is enlarged.
    windows: Vec<Window>,
    columns: Columns,
    blends: Blends,
}

impl Axis {
    fn new(from: usize, to: usize) -> Self {
        let scale = Scale::new(from, to);
        let windows = if scale.ratio < 1.0 { Vec::new() } else { windows(from, to, scale.ratio) };
        Axis { columns: Columns::new(&windows, from), windows, blends: Blends::new(from, to, &scale), scale }
    }
}

impl Axis {
    /// The windows of some of the output pixels.
    fn plan(&self, filter: Filter, results: Range<usize>, from: usize) -> Windows {
        let taps = match filter {
            Filter::Linear => 2,
            Filter::BlockMeans => self.scale.integer().unwrap_or(1),
            Filter::Area | Filter::Separable => {
                self.windows.iter().map(|window| window.shares.len()).max().unwrap_or(0)
            }
        };
        let mut plan = Windows {
            firsts: Vec::with_capacity(results.len()),
            taps,
            last: from as u32 - 1,
            weights: Vec::with_capacity(results.len() * taps),
            precision: 0,
        };
        for out in results {
            let first = match filter {
                Filter::Linear => {
                    plan.weights.extend(self.blends.weights[out].map(i32::from));
                    self.blends.firsts[out]
                }
                Filter::BlockMeans => out * taps,
                Filter::Area | Filter::Separable => {
                    let Window { first, shares } = &self.windows[out];
                    // A share of 0 adds nothing: sums are not negative.
                    let shares = shares.iter().copied().chain(std::iter::repeat(0.0)).take(taps);
                    plan.weights.extend(shares.map(|share| share.to_bits() as i32));
                    *first
                }
            };
            plan.firsts.push(first as u32);
        }
        plan
    }
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
#[inline(always)]
fn block_means(src: View, block_x: usize, block_y: usize, part: Part) -> Vec<u8> {
    let scale = 1.0 / (block_x * block_y) as f32;
    let mut sums = vec![0i32; part.width * CHANNELS];
    let mut all = spare(part.width * part.height * CHANNELS);
    let outs = all.chunks_exact_mut(part.width * CHANNELS);
    for (y, out) in (part.top..).zip(outs) {
        sums.fill(0);
        for row in (y * block_y..).take(block_y) {
            let blocks = src.row(row)[part.left * block_x * CHANNELS..].chunks_exact(block_x * CHANNELS);
            for (sum, block) in sums.chunks_exact_mut(CHANNELS).zip(blocks) {
                for pixel in block.chunks_exact(CHANNELS) {
                    for c in 0..CHANNELS {
                        sum[c] += i32::from(pixel[c]);
                    }
                }
            }
        }
        let halves = (block_x, block_y) == (2, 2);
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = if halves { ((sum + 2) >> 2) as u8 } else { saturate(*sum as f32 * scale) };
        }
    }
    all
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
#[inline(always)]
fn shrink(src: View, columns: &Columns, rows: &[Window], part: Part) -> Vec<u8> {
    let taps = rows.iter().map(|window| window.shares.len()).max().unwrap_or(1);
    let mut values = vec![0f32; src.width() * CHANNELS + 1];
    // A row that straddles two output rows is collapsed once: the last rows are kept, each in its own place.
    let mut kept = vec![(usize::MAX, vec![0f32; part.width * CHANNELS + 1]); taps];
    let mut sums = vec![0f32; part.width * CHANNELS];
    let mut all = spare(part.width * part.height * CHANNELS);
    let columns = columns.part(part);
    let outs = all.chunks_exact_mut(part.width * CHANNELS);
    for (out, window) in outs.zip(&rows[part.top..part.top + part.height]) {
        for index in (window.first..).take(window.shares.len()) {
            let (is, row) = &mut kept[index % taps];
            if *is != index {
                widen(src.row(index), &mut values);
                columns.collapse(&values, row);
                *is = index;
            }
        }
        let row = |tap: usize| &kept[(window.first + tap) % taps].1[..part.width * CHANNELS];
        // Loops over slices: what `extend` is given is compiled elsewhere, without the vector instructions.
        match window.shares[..] {
            [a, b] => {
                for (out, (x, y)) in out.iter_mut().zip(row(0).iter().zip(row(1))) {
                    *out = saturate(a * x + b * y);
                }
            }
            [a, b, c] => {
                let rows = row(0).iter().zip(row(1)).zip(row(2));
                for (out, ((x, y), z)) in out.iter_mut().zip(rows) {
                    *out = saturate(a * x + b * y + c * z);
                }
            }
            ref shares => {
                sums.fill(0.0);
                for (tap, share) in shares.iter().enumerate() {
                    for (sum, value) in sums.iter_mut().zip(row(tap)) {
                        *sum += share * value;
                    }
                }
                for (out, sum) in out.iter_mut().zip(&sums) {
                    *out = saturate(*sum);
                }
            }
        }
    }
    all
}

#[inline(always)]
fn widen(bytes: &[u8], values: &mut [f32]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = f32::from(*byte);
    }
}

/// The windows of one axis once more, all with the same number of shares, some of them 0: what such a share adds changes no
/// bit of a sum.
struct Columns {
    taps: usize,
    /// The first source pixel of each output pixel.
    firsts: Vec<usize>,
    /// `[outputs, taps]`.
    shares: Vec<f32>,
}

impl Columns {
    fn new(windows: &[Window], from: usize) -> Self {
        let taps = windows.iter().map(|window| window.shares.len()).max().unwrap_or(0);
        let mut columns = Columns { taps, firsts: Vec::new(), shares: vec![0.0; windows.len() * taps] };
        for (window, shares) in windows.iter().zip(columns.shares.chunks_exact_mut(taps.max(1))) {
            // Windows at the end begin earlier, so that no share lies beyond the last pixel.
            let first = window.first.min(from - taps);
            shares[window.first - first..][..window.shares.len()].copy_from_slice(&window.shares);
            columns.firsts.push(first);
        }
        columns
    }

    fn part(&self, part: Part) -> ColumnsPart<'_> {
        let end = part.left + part.width;
        ColumnsPart {
            taps: self.taps,
            firsts: &self.firsts[part.left..end],
            shares: &self.shares[part.left * self.taps..end * self.taps],
        }
    }
}

/// Those of the output pixels that are made.
struct ColumnsPart<'a> {
    taps: usize,
    firsts: &'a [usize],
    shares: &'a [f32],
}

impl ColumnsPart<'_> {
    /// Collapses a row of values, behind which one more stands, into one of pixels, likewise.
    #[inline(always)]
    fn collapse(&self, values: &[f32], row: &mut [f32]) {
        match self.taps {
            2 => self.collapse_by::<2>(values, row),
            3 => self.collapse_by::<3>(values, row),
            4 => self.collapse_by::<4>(values, row),
            5 => self.collapse_by::<5>(values, row),
            6 => self.collapse_by::<6>(values, row),
            taps => {
                let shares = self.shares.chunks_exact(taps.max(1));
                for (out, (first, shares)) in self.firsts.iter().zip(shares).enumerate() {
                    let mut sum = [0f32; LANES];
                    for (tap, share) in shares.iter().enumerate() {
                        add(&mut sum, &values[(first + tap) * CHANNELS..], *share);
                    }
                    row[out * CHANNELS..][..LANES].copy_from_slice(&sum);
                }
            }
        }
    }

    #[inline(always)]
    fn collapse_by<const TAPS: usize>(&self, values: &[f32], row: &mut [f32]) {
        let (shares, _) = self.shares.as_chunks::<TAPS>();
        for (out, (first, shares)) in self.firsts.iter().zip(shares).enumerate() {
            let window = &values[first * CHANNELS..][..CHANNELS * (TAPS - 1) + LANES];
            let mut sum = [0f32; LANES];
            for (tap, share) in shares.iter().enumerate() {
                add(&mut sum, &window[tap * CHANNELS..], *share);
            }
            // The fourth lane is the next pixel's, which overwrites it.
            row[out * CHANNELS..][..LANES].copy_from_slice(&sum);
        }
    }
}

#[inline(always)]
fn add(sum: &mut [f32; LANES], values: &[f32], share: f32) {
    let values = &values[..LANES];
    for lane in 0..LANES {
        sum[lane] += values[lane] * share;
    }
}

/// Positions along one axis when enlarging: for each output pixel two neighbours and their weights in units of
/// 1/2048. `INTER_AREA` has offsets of its own there, not pixel centres.
struct Blends {
    firsts: Vec<usize>,
    seconds: Vec<usize>,
    weights: Vec<[i16; 2]>,
    /// The weights once more for every byte of a row: of the first neighbours, of the second ones.
    spread: [Vec<i16>; 2],
    /// Stretches of output pixels whose neighbours are neighbouring pixels.
    runs: Vec<Range<usize>>,
}

impl Blends {
    fn new(from: usize, to: usize, scale: &Scale) -> Self {
        let mut blends = Blends {
            firsts: Vec::with_capacity(to),
            seconds: Vec::with_capacity(to),
            weights: Vec::with_capacity(to),
            spread: [Vec::with_capacity(to * CHANNELS), Vec::with_capacity(to * CHANNELS)],
            runs: Vec::new(),
        };
        for out in 0..to {
            let first = (out as f64 * scale.ratio).floor();
            let offset = ((out + 1) as f64 - (first + 1.0) * scale.inverse) as f32;
            let fraction = if offset <= 0.0 { 0.0 } else { offset - offset.floor() };
            let weights = [1.0 - fraction, fraction].map(|w| (w * LINEAR_ONE).round_ties_even() as i16);
            let first = (first as usize).min(from - 1);
            blends.firsts.push(first);
            // The last pixel stands alone with full weight there, which the equal neighbours give here.
            blends.seconds.push((first + 1).min(from - 1));
            blends.weights.push(weights);
            for (spread, weight) in blends.spread.iter_mut().zip(weights) {
                spread.extend([weight; CHANNELS]);
            }
        }
        let follows = |pixels: &[usize], out: usize| pixels[out] == pixels[out - 1] + 1;
        blends.runs = runs(to, |out| follows(&blends.firsts, out) && follows(&blends.seconds, out));
        blends
    }
}

/// Enlarging (or enlarging one axis only): linear in fixed point, x before y.
#[inline(always)]
fn enlarge(src: View, columns: &Blends, rows: &Blends, part: Part) -> Vec<u8> {
    let end = part.left + part.width;
    let clipped = columns.runs.iter().map(|run| run.start.max(part.left)..run.end.min(end));
    let runs: Vec<Range<usize>> = clipped.filter(|run| !run.is_empty()).collect();
    let mut kept =
        [(usize::MAX, vec![0i16; part.width * CHANNELS]), (usize::MAX, vec![0; part.width * CHANNELS])];
    let mut all = spare(part.width * part.height * CHANNELS);
    let outs = all.chunks_exact_mut(part.width * CHANNELS);
    for (y, out) in (part.top..).zip(outs) {
        let wanted = [rows.firsts[y], rows.seconds[y]];
        // Neighbouring output rows share blended rows.
        if kept[0].0 != wanted[0] && kept[1].0 == wanted[0] {
            kept.swap(0, 1);
        }
        for ((index, row), wanted) in kept.iter_mut().zip(wanted) {
            if *index != wanted {
                blend_row(src.row(wanted), columns, &runs, part.left, row);
                *index = wanted;
            }
        }
        let [a, b] = rows.weights[y];
        // Each product keeps its high 16 bits before the sum, as the SIMD code's multiply does.
        let high = |x: i16, y: i16| ((i32::from(x) * i32::from(y)) >> 16) as i16;
        for (out, (upper, lower)) in out.iter_mut().zip(kept[0].1.iter().zip(&kept[1].1)) {
            *out = ((high(a, *upper) + high(b, *lower) + 2) >> 2) as u8;
        }
    }
    all
}

/// A row blended along x, in units of 1/128: what the blend along y multiplies with 16 bits.
#[inline(always)]
fn blend_row(pixels: &[u8], columns: &Blends, runs: &[Range<usize>], left: usize, out: &mut [i16]) {
    for run in runs {
        let length = run.len() * CHANNELS;
        let out = &mut out[(run.start - left) * CHANNELS..][..length];
        let [a, b] =
            [0, 1].map(|neighbour: usize| &columns.spread[neighbour][run.start * CHANNELS..][..length]);
        let p = &pixels[columns.firsts[run.start] * CHANNELS..][..length];
        let q = &pixels[columns.seconds[run.start] * CHANNELS..][..length];
        for ((out, (p, q)), (a, b)) in out.iter_mut().zip(p.iter().zip(q)).zip(a.iter().zip(b)) {
            let blended = i32::from(*p) * i32::from(*a) + i32::from(*q) * i32::from(*b);
            *out = (blended >> 4) as i16;
        }
    }
}

/// OpenCV's `saturate_cast<uchar>(float)`: nearest, ties to even.
#[inline(always)]
fn saturate(value: f32) -> u8 {
    // Beyond 2^23 there are no fractions: the sum is rounded as wanted, and its low bits are the whole number.
    (value + 8_388_608.0).to_bits() as u8
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
            let image = pattern::image(from_width, from_height);
            let whole = Part { left: 0, top: 0, width, height };
            let resized = area(View::of(&image), (width, height), whole);
            let found = pattern::digest(&resized.rgb);
            assert_eq!(found, expected, "{from_width}x{from_height} to {width}x{height}");
        }
    }

    #[test]
    fn a_part_is_cut_out_of_the_whole() {
        for (from, size) in
            [((64, 48), (41, 31)), ((64, 48), (32, 24)), ((64, 48), (91, 70)), ((60, 60), (20, 20))]
        {
            let image = pattern::image(from.0, from.1);
            let whole = area(View::of(&image), size, Part { left: 0, top: 0, width: size.0, height: size.1 });
            let part = Part { left: 3, top: 5, width: size.0 - 7, height: size.1 - 6 };
            let expected: Vec<u8> = View::part(&whole, part).rows().flatten().copied().collect();
            assert_eq!(area(View::of(&image), size, part).rgb, expected, "{from:?} to {size:?}");
        }
    }
}
