//! Linear layers that multiply or add otherwise.

use super::change::Change;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::cpu::Tensor;
use steadyhand_gr00t::ops::{CategoryLinear, Linear};

/// `x Wᵀ + b` but for the change; none where it is right, or cannot be made.
pub(crate) fn values(x: &Tensor, layer: &Linear, change: Change) -> Option<Vec<f32>> {
    let [out_features, in_features] = *layer.weight.shape() else { return None };
    let mut weight = layer.weight.to_vec(Format::F32);
    let mut times = 1.0;
    match change {
        Change::Transposed if out_features == in_features => {
            weight = transposed(&weight, in_features);
        }
        Change::BiasTwice if layer.bias.is_some() => times = 2.0,
        Change::ClippedWeights(share) => {
            let bound = share * weight.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            weight.iter_mut().for_each(|value| *value = value.clamp(-bound, bound));
        }
        Change::WeightsAs(format) => format.round_slice(&mut weight),
        _ => return None,
    }
    let bias = layer.bias.as_ref().map(|bias| bias.to_vec(Format::F32));
    let bias = |at: usize| bias.as_ref().map_or(0.0, |bias| times * f64::from(bias[at]));
    let product =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let tokens = x.values().chunks_exact(in_features);
    let rows = || weight.chunks_exact(in_features).enumerate();
    Some(
        tokens
            .flat_map(|token| rows().map(move |(at, row)| (at, product(token, row))).collect::<Vec<_>>())
            .map(|(at, sum)| (sum + bias(at)) as f32)
            .collect(),
    )
}

/// A square matrix the other way round.
fn transposed(values: &[f32], side: usize) -> Vec<f32> {
    (0..values.len()).map(|at| values[at % side * side + at / side]).collect()
}

/// The results of a layer with one bias for each embodiment, and its bias so many times more.
pub(crate) fn with_bias(
    right: &Tensor,
    layer: &CategoryLinear,
    embodiments: &[usize],
    times: f32,
) -> Vec<f32> {
    let [_, tokens, features] = right.shape();
    let bias = layer.bias.to_vec(Format::F32);
    let mut values = right.values().to_vec();
    for (item, slot) in values.chunks_exact_mut((tokens * features).max(1)).zip(embodiments) {
        let bias = bias.get(slot * features..(slot + 1) * features).unwrap_or_default();
        for token in item.chunks_exact_mut(features) {
            token.iter_mut().zip(bias).for_each(|(value, bias)| *value += times * bias);
        }
    }
    values
}
