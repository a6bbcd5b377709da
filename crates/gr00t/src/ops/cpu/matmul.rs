//! Products of activations with weights that lie in the checkpoint's own format.
//!
//! Weights are widened a panel at a time, right before they are multiplied: the model never exists a
//! second time in f32, and a panel is still in cache when the product reads it.

use super::fp16;
use crate::checkpoint::Weight;
use crate::precision::{Extent, Formats, Sharing};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use std::ops::Range;
use steadyhand_fidelity::Format;

/// Rows of a weight that one task widens and multiplies. Fixed, so that results do not depend on the
/// number of threads; large enough that packing the activations again for each panel stays small.
const PANEL: usize = 128;

/// Multiply-adds below which a product is not worth sharing among threads (about 50 microseconds).
const SERIAL: usize = 1 << 22;

/// `x Wᵀ`: x `[rows, in]`, W `[out, in]` → `[rows, out]`.
pub(super) fn by_transposed(x: &[f32], rows: usize, weight: &Weight, formats: Formats) -> Vec<f32> {
    let in_features = weight.shape()[1];
    let by_tensor = formats.weights.is_some_and(|stored| stored.sharing == Sharing::PerTensor);
    let whole = if by_tensor { extent(weight) } else { Extent::default() };
    in_panels(rows, weight, |range, widened, mut out| {
        match formats.weights {
            None => weight.read_into(range, formats.compute, widened),
            Some(stored) => {
                weight.read_into(range, Format::F32, widened);
                stored.round_rows(widened, in_features, whole);
                // Codes of both operands are multiplied as integers.
                if formats.activations.is_none() {
                    formats.compute.round_slice(widened);
                }
            }
        }
        let panel = view(widened, out.ncols(), in_features);
        product(1.0, &view(x, rows, in_features), &panel.t(), formats.accumulate, &mut out);
    })
}

/// `[rows, out]` of a weight `[out, in]`, made panel by panel: `multiply` gets the elements of the weight that a
/// panel needs, room for them, and the columns to fill.
pub(super) fn in_panels(
    rows: usize,
    weight: &Weight,
    multiply: impl Fn(Range<usize>, &mut [f32], ArrayViewMut2<f32>) + Sync,
) -> Vec<f32> {
    let (out_features, in_features) = (weight.shape()[0], weight.shape()[1]);
    let mut values = vec![0.0; rows * out_features];
    if values.is_empty() || in_features == 0 {
        return values;
    }
    let mut out = view_mut(&mut values, rows, out_features);
    let panels: Vec<_> = out.axis_chunks_iter_mut(Axis(1), PANEL).enumerate().collect();
    let one = |(panel, out): (usize, ArrayViewMut2<f32>)| {
        let first = panel * PANEL;
        let mut widened = vec![0.0; out.ncols() * in_features];
        multiply(first * in_features..(first + out.ncols()) * in_features, &mut widened, out);
    };
    if rows * out_features * in_features < SERIAL {
        panels.into_iter().for_each(one);
    } else {
        panels.into_par_iter().for_each(one);
    }
    values
}

/// `x W[slot]`: x `[rows, in]`, W `[slots, in, out]` → `[rows, out]`.
pub(super) fn by_slot(x: &[f32], rows: usize, weight: &Weight, slot: usize, formats: Formats) -> Vec<f32> {
    let (in_features, out_features) = (weight.shape()[1], weight.shape()[2]);
    let mut values = vec![0.0; rows * out_features];
    let size = in_features * out_features;
    let mut widened = vec![0.0; size];
    weight.read_into(slot * size..(slot + 1) * size, formats.compute, &mut widened);
    product(
        1.0,
        &view(x, rows, in_features),
        &view(&widened, in_features, out_features),
        formats.accumulate,
        &mut view_mut(&mut values, rows, out_features),
    );
    values
}

/// `scale * (a b)`, summed in fp16 where that is the accumulation format, in f32 otherwise.
pub(super) fn product(
    scale: f32,
    a: &ArrayView2<f32>,
    b: &ArrayView2<f32>,
    accumulate: Format,
    out: &mut ArrayViewMut2<f32>,
) {
    match accumulate {
        Format::Fp16 => fp16::product(scale, a, b, out),
        _ => general_mat_mul(scale, a, b, 0.0, out),
    }
}

pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The smallest and the largest value of a weight, found a row at a time.
pub(super) fn extent(weight: &Weight) -> Extent {
    let features = weight.shape()[1];
    let mut row = vec![0.0; features];
    let of_row = |index: usize| {
        weight.read_into(index * features..(index + 1) * features, Format::F32, &mut row);
        Extent::of(&row)
    };
    (0..weight.shape()[0]).map(of_row).fold(Extent::default(), Extent::with)
}

/// Callers pass slices of exactly `rows * cols` values, so the shape always fits.
pub(super) fn view(values: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), values).expect("rows * cols values")
}

pub(super) fn view_mut(values: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), values).expect("rows * cols values")
}
