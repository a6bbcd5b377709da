//! Matrix products that are summed in fp16, as tensor cores can.
//!
//! The terms of a sum are taken in blocks of 16, the depth of a tensor core's instruction. A block's products are
//! summed exactly, added to the fp16 accumulator exactly, and the result is rounded to fp16 once. (In f64: exact for
//! operands of 16 and 8 bits unless the products of a block differ by more than 2^27.) Overflow gives infinity, as it
//! does there. Hardware may order its blocks and cut off small terms otherwise, so this says what fp16 accumulation
//! costs, not which bits a certain GPU gives.

use ndarray::{ArrayView2, ArrayViewMut2};
use steadyhand_fidelity::Format;

/// Terms that are summed before the accumulator is rounded.
const BLOCK: usize = 16;

/// `scale * (a b)` for a `[rows, depth]`, b `[depth, cols]`; sums in fp16, the scale applied in f32.
pub(super) fn product(scale: f32, a: &ArrayView2<f32>, b: &ArrayView2<f32>, out: &mut ArrayViewMut2<f32>) {
    let depth = a.ncols().max(1);
    // Both with a sum's terms side by side.
    let wide =
        |values: &mut dyn Iterator<Item = &f32>| -> Vec<f64> { values.map(|x| f64::from(*x)).collect() };
    let rows = wide(&mut a.iter());
    let cols = wide(&mut b.t().iter());
    for (mut out, row) in out.rows_mut().into_iter().zip(rows.chunks_exact(depth)) {
        for (out, col) in out.iter_mut().zip(cols.chunks_exact(depth)) {
            *out = scale * dot(row, col) as f32;
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.chunks(BLOCK).zip(b.chunks(BLOCK)).fold(0.0, |sum, (a, b)| round(sum + block(a, b)))
}

/// The sum of a block's products, in four lanes for speed.
fn block(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 4];
    for (a, b) in a.chunks(4).zip(b.chunks(4)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// The nearest fp16, ties to even. On the way the value is rounded to an odd f32, so that it is not rounded to
/// nearest twice: a value near the middle between two fp16 would first become that middle.
fn round(value: f64) -> f64 {
    let near = value as f32;
    let odd = if f64::from(near) == value || near.is_nan() {
        near
    } else {
        let away = f64::from(near).abs() > value.abs();
        f32::from_bits((near.to_bits() - u32::from(away)) | 1)
    };
    f64::from(Format::Fp16.round(odd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// The sum of `terms`, each times one.
    fn sum(terms: &[f32]) -> f32 {
        let a = Array2::from_shape_vec((1, terms.len()), terms.to_vec()).expect("a row");
        let b = Array2::from_elem((terms.len(), 1), 1.0);
        let mut out = Array2::zeros((1, 1));
        product(1.0, &a.view(), &b.view(), &mut out.view_mut());
        out[[0, 0]]
    }

    /// The first term of each block, the others zero.
    fn blocks(firsts: &[f32]) -> Vec<f32> {
        firsts.iter().flat_map(|first| std::iter::once(*first).chain(std::iter::repeat_n(0.0, 15))).collect()
    }

    #[test]
    fn a_block_is_exact_and_the_accumulator_is_fp16() {
        // In one block the two ones count; between blocks 2049 is a tie, which goes to the even 2048.
        assert_eq!(sum(&[2048.0, 1.0, 1.0]), 2050.0);
        assert_eq!(sum(&blocks(&[2048.0, 1.0, 1.0])), 2048.0);
        assert_eq!(sum(&blocks(&[2050.0, 1.0])), 2052.0);
        assert_eq!(sum(&blocks(&[-2048.0, -1.0, -3.0])), -2052.0);
        // The 17th term begins the second block.
        let mut terms = vec![0.0; 17];
        (terms[0], terms[15], terms[16]) = (2048.0, 2.0, 1.0);
        assert_eq!(sum(&terms), 2052.0);
        assert_eq!(sum(&blocks(&[1.0, 0.000_488_281_25])), 1.0);
    }

    #[test]
    fn overflow_is_infinite() {
        assert_eq!(sum(&blocks(&[65504.0, 15.0])), 65504.0);
        assert_eq!(sum(&blocks(&[65504.0, 16.0])), f32::INFINITY);
        assert_eq!(sum(&[65504.0, 65504.0, -65504.0]), 65504.0);
        assert!(sum(&blocks(&[f32::INFINITY, f32::NEG_INFINITY])).is_nan());
    }

    #[test]
    fn sums_are_rounded_once() {
        // A hair above the tie: rounding to f32 first would make it the tie, and then 2048.
        assert_eq!(sum(&[2049.0, 2f32.powi(-20)]), 2050.0);
        assert_eq!(sum(&[2049.0, -(2f32.powi(-20))]), 2048.0);
        assert_eq!(sum(&[-2049.0, -(2f32.powi(-20))]), -2050.0);
    }

    #[test]
    fn a_product_has_its_rows_and_columns() {
        let a = Array2::from_shape_vec((2, 3), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("a matrix");
        let b = Array2::from_shape_vec((3, 2), vec![1.0, 0.0, 0.0, 1.0, 1.0, -1.0]).expect("a matrix");
        let mut out = Array2::zeros((2, 2));
        product(0.5, &a.view(), &b.view(), &mut out.view_mut());
        assert_eq!(out.as_slice().expect("a matrix"), [2.0, -0.5, 5.0, -0.5]);
    }
}
