//! Linear layers whose operands are scaled into the range of an 8-bit format.
//!
//! With M the format's largest value, an operand x whose largest magnitude is a becomes `round(x * (M / a))`,
//! saturating; the product is summed as the policy says and multiplied by `(a_x / M) * (a_w / M)` in f32.

use super::matmul::{extent, in_panels, largest, product, view};
use super::tensor::Tensor;
use crate::checkpoint::Weight;
use crate::precision::{ActivationScale, Formats, Scale};
use steadyhand_fidelity::Format;

/// `x Wᵀ`: W `[out, in]` → `[batch * tokens, out]`.
pub(super) fn by_transposed(
    x: &Tensor,
    weight: &Weight,
    formats: Formats,
    activations: ActivationScale,
) -> Vec<f32> {
    let (compute, in_features) = (formats.compute, weight.shape()[1]);
    let mut operand = x.values.to_vec();
    // An observation of a batch has its own scale: its result must not depend on the others.
    let rows_each = x.shape[1].max(1);
    let scales: Vec<f32> = operand
        .chunks_exact_mut((rows_each * in_features).max(1))
        .map(|item| match activations {
            ActivationScale::Dynamic => quantize(item, largest(item), compute),
            ActivationScale::Calibrated(amax) => quantize(item, amax, compute),
        })
        .collect();
    let whole = (formats.scale == Scale::PerTensor).then(|| extent(weight).amax());
    in_panels(x.rows(), weight, |range, widened, mut out| {
        weight.read_into(range, Format::F32, widened);
        let rows = widened.chunks_exact_mut(in_features);
        let weight_scales: Vec<f32> =
            rows.map(|row| quantize(row, whole.unwrap_or_else(|| largest(row)), compute)).collect();
        let panel = view(widened, out.ncols(), in_features);
        product(1.0, &view(&operand, x.rows(), in_features), &panel.t(), formats.accumulate, &mut out);
        for (row, mut out) in out.rows_mut().into_iter().enumerate() {
            let scale = scales[row / rows_each];
            out.iter_mut().zip(&weight_scales).for_each(|(value, weight)| *value *= scale * weight);
        }
    })
}

/// Brings values into the format's range, rounds them, and gives what one unit of the results stands for.
fn quantize(values: &mut [f32], amax: f32, format: Format) -> f32 {
    // Zeros need no scale.
    let amax = if amax > 0.0 { amax } else { format.max() };
    let factor = format.max() / amax;
    values.iter_mut().for_each(|value| *value = format.round_saturating(*value * factor));
    amax / format.max()
}
