//! Products of activations with weights that lie in the checkpoint's own format.
//!
//! Weights are widened a panel at a time, right before they are multiplied: the model never exists a
//! second time in f32, and a panel is still in cache when the product reads it.

use crate::checkpoint::Weight;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use steadyhand_fidelity::Format;

/// Rows of a weight that one task widens and multiplies. Fixed, so that results do not depend on the
/// number of threads; large enough that packing the activations again for each panel stays small.
const PANEL: usize = 128;

/// Multiply-adds below which a product is not worth sharing among threads (about 50 microseconds).
const SERIAL: usize = 1 << 22;

/// `x Wᵀ`: x `[rows, in]`, W `[out, in]` → `[rows, out]`, sums in f32.
pub(super) fn by_transposed(x: &[f32], rows: usize, weight: &Weight, compute: Format) -> Vec<f32> {
    let (out_features, in_features) = (weight.shape()[0], weight.shape()[1]);
    let mut values = vec![0.0; rows * out_features];
    if values.is_empty() || in_features == 0 {
        return values;
    }
    let x = view(x, rows, in_features);
    let mut out = view_mut(&mut values, rows, out_features);
    let panels: Vec<_> = out.axis_chunks_iter_mut(Axis(1), PANEL).enumerate().collect();
    let multiply = |(panel, mut out): (usize, ArrayViewMut2<f32>)| {
        let first = panel * PANEL;
        let mut widened = vec![0.0; out.ncols() * in_features];
        weight.read_into(first * in_features..(first + out.ncols()) * in_features, compute, &mut widened);
        general_mat_mul(1.0, &x, &view(&widened, out.ncols(), in_features).t(), 0.0, &mut out);
    };
    if rows * out_features * in_features < SERIAL {
        panels.into_iter().for_each(multiply);
    } else {
        panels.into_par_iter().for_each(multiply);
    }
    values
}

/// `x W[slot]`: x `[rows, in]`, W `[slots, in, out]` → `[rows, out]`, sums in f32.
pub(super) fn by_slot(x: &[f32], rows: usize, weight: &Weight, slot: usize, compute: Format) -> Vec<f32> {
    let (in_features, out_features) = (weight.shape()[1], weight.shape()[2]);
    let mut values = vec![0.0; rows * out_features];
    let size = in_features * out_features;
    let mut widened = vec![0.0; size];
    weight.read_into(slot * size..(slot + 1) * size, compute, &mut widened);
    let mut out = view_mut(&mut values, rows, out_features);
    general_mat_mul(
        1.0,
        &view(x, rows, in_features),
        &view(&widened, in_features, out_features),
        0.0,
        &mut out,
    );
    values
}

/// Callers pass slices of exactly `rows * cols` values, so the shape always fits.
pub(super) fn view(values: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), values).expect("rows * cols values")
}

pub(super) fn view_mut(values: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), values).expect("rows * cols values")
}
