//! Frequencies, features and tokens in another order or number.

use steadyhand_gr00t::ops::cpu::Tensor;

/// Frequencies from 1 down to 1e-4, the last one left out where these have it and the reverse: diffusers'
/// `downscale_freq_shift` of 0 where 1 is right, or 1 where 0 is.
pub(crate) fn other_frequencies(right: &[f32]) -> Vec<f32> {
    let ends = right.last().is_some_and(|last| (f64::from(*last) - 1e-4).abs() < 1e-6);
    let intervals = if ends { right.len() } else { right.len().saturating_sub(1).max(1) };
    (0..right.len()).map(|i| (-(1e4f64.ln()) * i as f64 / intervals as f64).exp() as f32).collect()
}

/// Two halves of the features, taken by turns instead of one behind the other.
pub(crate) fn alternating([first, second]: [&Tensor; 2]) -> [Tensor; 2] {
    let [batch, tokens, half] = first.shape();
    let rows = || first.values().chunks_exact(half).zip(second.values().chunks_exact(half));
    let turn = |offset: usize| {
        let of = |(a, b): (&[f32], &[f32])| [a, b].concat().into_iter().skip(offset).step_by(2).collect();
        let values: Vec<f32> = rows().flat_map(|row| -> Vec<f32> { of(row) }).collect();
        Tensor::from_values([batch, tokens, half], values).unwrap_or_else(|| first.clone())
    };
    [turn(0), turn(1)]
}

/// Where each image token stands when the square grid of every image is read by columns.
pub(crate) fn by_column(tokens: usize, images: usize) -> Option<Vec<usize>> {
    let each = tokens.checked_div(images)?;
    let side = each.isqrt();
    let of = |image: usize| (0..each).map(move |at| image * each + at % side * side + at / side);
    (side * side * images == tokens).then(|| (0..images).flat_map(of).collect())
}
