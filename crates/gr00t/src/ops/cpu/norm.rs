//! LayerNorm and RMSNorm on the CPU.
//!
//! Statistics are computed in f32, as PyTorch does for every storage format, or in the narrower format that a
//! policy accumulates in: then every square and every total is rounded to it, and may overflow there.

use steadyhand_fidelity::Format;

/// Normalizes each run of `features` values in place.
pub(super) fn layer_norm(
    values: &mut [f32],
    features: usize,
    affine: Option<&(Vec<f32>, Vec<f32>)>,
    eps: f32,
    accumulate: Format,
) {
    for row in values.chunks_exact_mut(features) {
        let mean = accumulate.round(accumulate.round(sum(row, |x| x)) / features as f32);
        let variance = mean_of(row, |x| (x - mean) * (x - mean), accumulate);
        let inverse = 1.0 / (variance + eps).sqrt();
        match affine {
            None => row.iter_mut().for_each(|x| *x = (*x - mean) * inverse),
            Some((weight, bias)) => {
                for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                    *x = (*x - mean) * inverse * weight + bias;
                }
            }
        }
    }
}

/// Normalizes each run of `weight.len()` values in place. The normalized values are stored in `storage`
/// before they meet the weight: `weight * hidden_states.to(input_dtype)` in Qwen3's RMSNorm.
pub(super) fn rms_norm(values: &mut [f32], weight: &[f32], eps: f32, storage: Format, accumulate: Format) {
    for row in values.chunks_exact_mut(weight.len()) {
        let mean_square = mean_of(row, |x| x * x, accumulate);
        let inverse = 1.0 / (mean_square + eps).sqrt();
        for (x, weight) in row.iter_mut().zip(weight) {
            *x = storage.round(*x * inverse) * weight;
        }
    }
}

/// The mean of `f` over the row, each term and the total rounded to `accumulate`.
fn mean_of(row: &[f32], f: impl Fn(f32) -> f32, accumulate: Format) -> f32 {
    let total = match accumulate {
        Format::F32 => sum(row, f),
        narrow => narrow.round(sum(row, |x| narrow.round(f(x)))),
    };
    total / row.len() as f32
}

/// The sum of `f` over the row, in eight lanes: faster, and nearer to the exact sum, than one chain.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = row.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}
