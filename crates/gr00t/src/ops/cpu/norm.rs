//! LayerNorm and RMSNorm on the CPU: statistics in f32, as PyTorch computes them for every storage format.

use steadyhand_fidelity::Format;

/// Normalizes each run of `features` values in place.
pub(super) fn layer_norm(
    values: &mut [f32],
    features: usize,
    affine: Option<&(Vec<f32>, Vec<f32>)>,
    eps: f32,
) {
    for row in values.chunks_exact_mut(features) {
        let mean = sum(row, |x| x) / features as f32;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / features as f32;
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
pub(super) fn rms_norm(values: &mut [f32], weight: &[f32], eps: f32, storage: Format) {
    for row in values.chunks_exact_mut(weight.len()) {
        let mean_square = sum(row, |x| x * x) / weight.len() as f32;
        let inverse = 1.0 / (mean_square + eps).sqrt();
        for (x, weight) in row.iter_mut().zip(weight) {
            *x = storage.round(*x * inverse) * weight;
        }
    }
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
