//! Operations on single values, and the rotation of heads.

use super::super::{Activation, Leading, Rotary, Stores};
use super::tensor::Tensor;
use rayon::prelude::*;
use steadyhand_fidelity::Format;

/// Values below which an activation is not shared among threads.
const SERIAL: usize = 1 << 15;

/// Sines and cosines of `time * frequencies`, the angles rounded to `format`.
pub fn time_encoding(time: usize, frequencies: &[f32], leading: Leading, format: Format) -> Vec<f32> {
    let angles = frequencies.iter().map(|frequency| format.round(time as f32 * frequency));
    let (sines, cosines) = (angles.clone().map(f32::sin), angles.map(f32::cos));
    match leading {
        Leading::Sines => sines.chain(cosines).collect(),
        Leading::Cosines => cosines.chain(sines).collect(),
    }
}

/// Adds `row` to every run of `row.len()` values.
pub(super) fn add_rows(values: &mut [f32], row: &[f32]) {
    for values in values.chunks_exact_mut(row.len().max(1)) {
        values.iter_mut().zip(row).for_each(|(value, term)| *value += term);
    }
}

/// `f(a, b)` value by value; `b` repeats over batch and tokens where it has only one.
pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let [batch, tokens, features] = a.shape;
    let mut values = Vec::with_capacity(batch * tokens * features);
    for item in 0..batch {
        for token in 0..tokens {
            let (a, b) = (a.token(item, token), b.token(item, token));
            values.extend(a.iter().zip(b).map(|(a, b)| f(*a, *b)));
        }
    }
    values
}

/// Cosines, then sines of the angles at these places, `[places, head_dim]`. The frequencies are rounded to `storage` too,
/// as PyTorch's `model.to(dtype)` does to buffers.
pub fn rotary_turns(rotary: &Rotary, places: &[[usize; 3]], storage: Format) -> Vec<f32> {
    let frequencies = rotary.frequencies.iter().map(|frequency| storage.round(*frequency));
    let frequencies: Vec<(f32, usize)> = frequencies.zip(rotary.axes.iter().copied()).collect();
    let angles_in = if rotary.stores == Stores::Angles { storage } else { Format::F32 };
    let mut turns = Vec::with_capacity(places.len() * rotary.head_dim);
    for place in places {
        let angle = |(frequency, axis): &(f32, usize)| angles_in.round(place[*axis] as f32 * frequency);
        let angles = frequencies.iter().map(angle);
        turns.extend(angles.clone().map(|angle| storage.round(angle.cos())));
        turns.extend(angles.map(|angle| storage.round(angle.sin())));
    }
    turns
}

/// The non-linearity of every value; `storage` is where Swish keeps its sigmoid.
pub(super) fn activation(values: &[f32], kind: Activation, storage: Format) -> Vec<f32> {
    let f = |x: f32| match kind {
        Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            // sqrt(2 / pi)
            const BETA: f32 = 0.797_884_6;
            0.5 * x * (1.0 + (BETA * (x + 0.044_715 * x * x * x)).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Swish => x * storage.round(1.0 / (1.0 + (-x).exp())),
        // Not `max`, which would make 0 of a NaN: what went wrong before must stay visible, as in PyTorch.
        Activation::Relu => {
            if x <= 0.0 {
                0.0
            } else {
                x
            }
        }
    };
    if values.len() < SERIAL {
        values.iter().map(|x| f(*x)).collect()
    } else {
        values.par_iter().map(|x| f(*x)).collect()
    }
}

/// `x cos + rotate_half(x) sin`; `places`: one of each token.
///
/// The frequencies are stored too: the official bf16 model rounds that buffer, and its angles are then computed from it.
/// Source: `Qwen3RotaryEmbedding` and `Qwen3VLVisionRotaryEmbedding` after `model.to(torch.bfloat16)`.
pub fn rotated(x: &Tensor, rotary: &Rotary, places: &[[usize; 3]], storage: Format) -> Vec<f32> {
    let head_dim = rotary.head_dim;
    let half = head_dim / 2;
    let turns = rotary_turns(rotary, places, storage);
    let products_in = if rotary.stores == Stores::Products { storage } else { Format::F32 };
    let mut values = x.values.to_vec();
    for (row, token) in values.chunks_exact_mut(x.features()).enumerate() {
        let (cosines, sines) = turns[row % x.shape[1] * head_dim..][..head_dim].split_at(half);
        for head in token.chunks_exact_mut(head_dim) {
            for (i, (cos, sin)) in cosines.iter().zip(sines).enumerate() {
                let (a, b) = (head[i], head[half + i]);
                head[i] = products_in.round(a * cos) + products_in.round(-b * sin);
                head[half + i] = products_in.round(b * cos) + products_in.round(a * sin);
            }
        }
    }
    values
}
