//! Pictures of odd height. FFmpeg's fast conversion takes even heights only; others pass through its general
//! scaler, which stretches the chroma planes vertically by a bicubic filter and looks colours up in tables.
//!
//! All steps are in whole numbers: filters of 12 bits down and 14 bits across, the tables by one multiplication a
//! colour. Luma white comes out as 253 from the tables, not 255: their start is rounded. Where the width is odd, too,
//! there are no tables: chroma is stretched across as well, and each pixel is computed.

use super::{
    Frame,
    color::{Matrix, Picture},
};

/// 1.0 of the weights of a filter down, and of one across.
const DOWN: i64 = 1 << 12;
const ACROSS: i64 = 1 << 14;
/// Samples between the filters have 7 bits more, and this is the most they hold.
const MOST: i64 = (1 << 15) - 1;
/// Taps that a stretching bicubic filter is computed with.
const TAPS: i64 = 5;
/// Weights at a filter's ends are left out while their sum stays below this part of [`UNIT`].
const CUTOFF: f64 = 0.002;
/// The unit of weights before they are rounded; a filter's are 6 together.
const UNIT: i64 = 1 << 54;

/// Converts a picture to RGB, `[height, width, 3]`.
pub(super) fn to_rgb(picture: &Picture, matrix: Matrix) -> Frame {
    let (width, height) = (picture.width, picture.height);
    let (chroma_width, chroma_height) = (width.div_ceil(2), height.div_ceil(2));
    let down = filters(chroma_height, height, DOWN);
    let is_odd = !width.is_multiple_of(2);
    let plane = |samples: &[u8]| {
        let raised: Vec<i64> = samples.iter().map(|sample| i64::from(*sample) * 128).collect();
        let across = is_odd.then(|| across(&raised, chroma_width, &filters(chroma_width, width, ACROSS)));
        across.unwrap_or(raised)
    };
    let (u, v) = (plane(&picture.u), plane(&picture.v));
    let columns = if is_odd { width } else { chroma_width };
    let mut rgb = vec![0; width * height * 3];
    let (levels, exact) = (Levels::new(matrix), Exact::new(matrix));
    let rows = rgb.chunks_exact_mut((width * 3).max(1)).zip(picture.y.chunks_exact(width.max(1)));
    for ((out, luma), filter) in rows.zip(&down) {
        let sum = |plane: &[i64], at: usize| filter.sum(|row| plane.get(row * columns + at).copied());
        match is_odd {
            true => {
                for (at, (pixel, luma)) in out.chunks_exact_mut(3).zip(luma).enumerate() {
                    pixel.copy_from_slice(&exact.rgb(i64::from(*luma), sum(&u, at), sum(&v, at)));
                }
            }
            false => {
                for (at, (pixels, lumas)) in out.chunks_exact_mut(6).zip(luma.chunks_exact(2)).enumerate() {
                    let shifts = levels.shifts(sum(&u, at), sum(&v, at));
                    for (pixel, luma) in pixels.chunks_exact_mut(3).zip(lumas) {
                        pixel.copy_from_slice(&shifts.map(|shift| levels.level(i64::from(*luma) + shift)));
                    }
                }
            }
        }
    }
    Frame { width, height, rgb }
}

/// A plane whose rows of `width` samples are stretched by these filters.
fn across(plane: &[i64], width: usize, filters: &[Filter]) -> Vec<i64> {
    let sample = |row: &[i64], filter: &Filter| {
        // The samples come with their 7 more bits; the products drop 14.
        (filter.sum(|at| row.get(at).copied()) >> 14).min(MOST)
    };
    plane
        .chunks_exact(width.max(1))
        .flat_map(|row| filters.iter().map(|filter| sample(row, filter)))
        .collect()
}

/// The colour of each pixel computed by itself, in 1/2^22.
struct Exact {
    slope: i64,
    black: i64,
    vr: i64,
    ub: i64,
    ug: i64,
    vg: i64,
}

impl Exact {
    fn new(matrix: Matrix) -> Exact {
        let (slope, black) = if matrix.full_range { (1 << 16, 0) } else { ((1 << 16) * 255 / 219, 16) };
        let rounded = |c: i64| ((c << 13) + (1 << 15)) >> 16;
        Exact {
            slope: rounded(slope),
            black: black << 9,
            vr: rounded(matrix.vr),
            ub: rounded(matrix.ub),
            ug: rounded(matrix.ug),
            vg: rounded(matrix.vg),
        }
    }

    /// From luma and the filtered sums of chroma.
    fn rgb(&self, luma: i64, u: i64, v: i64) -> [u8; 3] {
        let chroma = |sum: i64| (sum + (1 << 9) - (128 << 19)) >> 10;
        let (u, v) = (chroma(u), chroma(v));
        let y = ((luma << 9) - self.black) * self.slope + (1 << 21);
        [y + v * self.vr, y + v * self.vg + u * self.ug, y + u * self.ub]
            .map(|value| (value.clamp(0, (1 << 30) - 1) >> 22) as u8)
    }
}

/// The tables: a colour is a luma shifted by what its chroma says, looked up in a line.
struct Levels {
    /// The line's slope and start, in 1/65536.
    slope: i64,
    start: i64,
    /// What a step of V adds to red, of U to blue, of U and V to green: in steps of luma, 1/65536.
    vr: i64,
    ub: i64,
    ug: i64,
    vg: i64,
}

impl Levels {
    fn new(matrix: Matrix) -> Levels {
        let (slope, black, origin) =
            if matrix.full_range { (1 << 16, 0, 384) } else { ((1 << 16) * 255 / 219, 16, 326) };
        let per_luma = |c: i64| ((c << 16) + (1 << 15)) / slope;
        Levels {
            slope,
            // The table's origin is a whole step, which is what makes white 253.
            start: origin * slope - ((384 + black) << 16) + (1 << 15),
            vr: per_luma(matrix.vr),
            ub: per_luma(matrix.ub),
            ug: per_luma(matrix.ug),
            vg: per_luma(matrix.vg),
        }
    }

    /// What red, green and blue add to luma, from the filtered sums of chroma.
    fn shifts(&self, u: i64, v: i64) -> [i64; 3] {
        let [u, v] = [u, v].map(|sum| ((sum + (1 << 18)) >> 19).clamp(0, 255));
        let shift = |step: i64, value: i64| ((value * step) >> 16) - (step >> 9);
        [shift(self.vr, v), shift(self.ug, u) + shift(self.vg, v), shift(self.ub, u)]
    }

    fn level(&self, luma: i64) -> u8 {
        ((self.start + luma * self.slope) >> 16).clamp(0, 255) as u8
    }
}

/// The rows (or columns) that make one, and their weights.
#[derive(Debug, PartialEq)]
struct Filter {
    first: usize,
    weights: Vec<i64>,
}

impl Filter {
    /// The weighted sum of samples.
    fn sum(&self, sample: impl Fn(usize) -> Option<i64>) -> i64 {
        self.weights.iter().zip(self.first..).map(|(weight, at)| sample(at).unwrap_or(0) * weight).sum()
    }
}

/// A filter before it is rounded: its first row, which may lie outside, and weights.
struct Raw {
    first: i64,
    weights: Vec<i64>,
}

/// The filters that stretch `from` rows to `to`: a cubic with B = 0 and C = 0.6, rows aligned by their centres, the
/// weights of each `one` together.
fn filters(from: usize, to: usize, one: i64) -> Vec<Filter> {
    let (from, to) = (from as i64, to as i64);
    let taps = TAPS.min(from - 2).max(1);
    // In 1/65536 of a row; `centre` in half of that.
    let step = ((from << 16) + (to >> 1)) / to.max(1);
    let mut centre = step - (1 << 16);
    let mut raw = Vec::new();
    for _ in 0..to {
        let first = (centre - ((taps - 2) << 16)) / (1 << 17);
        let weights = (0..taps).map(|tap| cubic((((first + tap) << 17) - centre).abs() << 13)).collect();
        raw.push(Raw { first, weights });
        centre += 2 * step;
    }
    cut(&mut raw);
    raw.into_iter().map(|filter| rounded(inside(filter, from), one)).collect()
}

/// Six times the cubic at a distance in 1/2^30 of a row, in [`UNIT`]s.
fn cubic(d: i64) -> i64 {
    const C: i64 = (0.6 * (1 << 24) as f64) as i64;
    // The cube of a distance beyond does not fit.
    if d >= 1 << 31 {
        return 0;
    }
    let squared = d.pow(2) >> 30;
    let cubed = (squared * d) >> 30;
    match d {
        d if d < 1 << 30 => {
            ((12 << 24) - 6 * C) * cubed + (6 * C - (18 << 24)) * squared + (6 << 24) * (1 << 30)
        }
        d => 30 * C * squared - 6 * C * cubed - 48 * C * d + 24 * C * (1 << 30),
    }
}

/// Leaves out small weights: at the left filters move on, at the right all filters end where the longest does.
fn cut(filters: &mut [Raw]) {
    let small = |sum: i64| sum as f64 <= CUTOFF * UNIT as f64;
    let mut longest = 0;
    for index in (0..filters.len()).rev() {
        let next = filters.get(index + 1).map(|filter| filter.first);
        let filter = &mut filters[index];
        let taps = filter.weights.len();
        let mut sum = 0;
        for _ in 0..taps {
            sum += filter.weights[0].abs();
            // Filters must not overtake each other.
            if !small(sum) || next.is_some_and(|next| filter.first >= next) {
                break;
            }
            filter.weights.rotate_left(1);
            filter.weights[taps - 1] = 0;
            filter.first += 1;
        }
        let mut sum = 0;
        let from_right = filter.weights.iter().skip(1).rev();
        let dropped = from_right
            .take_while(|weight| {
                sum += weight.abs();
                small(sum)
            })
            .count();
        longest = longest.max(taps - dropped);
    }
    filters.iter_mut().for_each(|filter| filter.weights.truncate(longest));
}

/// The filter with the weights of rows outside given to the rows at the border.
fn inside(filter: Raw, rows: i64) -> Raw {
    let first = filter.first.clamp(0, (rows - filter.weights.len() as i64).max(0));
    let mut weights = vec![0; filter.weights.len()];
    for (weight, row) in filter.weights.iter().zip(filter.first..) {
        let at = row.clamp(0, rows - 1) - first;
        if let Some(place) = usize::try_from(at).ok().and_then(|at| weights.get_mut(at)) {
            *place += weight;
        }
    }
    Raw { first, weights }
}

/// The weights in parts of `one`, each carrying the rounding of the one before.
fn rounded(filter: Raw, one: i64) -> Filter {
    let sum: i64 = filter.weights.iter().sum();
    let unit = ((sum + one / 2) / one).max(1);
    let mut carried = 0;
    let round = |weight: &i64| {
        let value = weight + carried;
        let whole = (value + value.signum() * (unit / 2)) / unit;
        carried = value - whole * unit;
        whole
    };
    Filter {
        first: usize::try_from(filter.first).unwrap_or(0),
        weights: filter.weights.iter().map(round).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::color::Tags;
    use super::*;

    /// Beyond two rows a cube does not fit 64 bits: a build that checks for overflow would stop.
    #[test]
    fn nothing_comes_from_far_away() {
        assert!(cubic((1 << 31) - 1) <= 0);
        assert_eq!([1 << 31, (1 << 31) + 1, i64::MAX].map(cubic), [0; 3]);
    }

    #[test]
    fn filters_add_up_and_stay_inside() {
        for height in [1usize, 3, 5, 7, 9, 51, 255, 479, 1081] {
            let from = height.div_ceil(2);
            let filters = filters(from, height, DOWN);
            assert_eq!(filters.len(), height);
            for filter in filters {
                assert_eq!(filter.weights.iter().sum::<i64>(), DOWN, "{height}: {filter:?}");
                assert!(filter.first + filter.weights.len() <= from.max(filter.weights.len()), "{height}");
            }
        }
    }

    #[test]
    fn grey_is_ffmpegs() {
        let matrix = Matrix::new(Tags::default()).unwrap();
        let levels = Levels::new(matrix);
        let grey = |luma| levels.shifts(128 << 19, 128 << 19).map(|shift| levels.level(luma + shift));
        assert_eq!(
            [0, 16, 17, 18, 30, 126, 235, 236, 255].map(grey),
            [0, 0, 0, 1, 15, 126, 253, 254, 255].map(|v| [v; 3])
        );
    }
}
