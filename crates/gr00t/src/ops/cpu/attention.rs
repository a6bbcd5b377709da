//! Attention on the CPU: one head of one segment at a time.

use super::super::{Heads, Mask};
use super::matmul::{product, view, view_mut};
use super::tensor::Tensor;
use crate::precision::Formats;
use ndarray::{ArrayView2, s};
use rayon::prelude::*;
use std::ops::Range;
use steadyhand_fidelity::Format;

/// Score multiply-adds below which the heads are not shared among threads.
const SERIAL: usize = 1 << 20;

pub(super) fn check(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads, mask: &Mask) -> Result<(), String> {
    let Heads { heads, kv_heads, head_dim } = heads;
    let widths = q.features() == heads * head_dim && k.features() == kv_heads * head_dim;
    let grouped = kv_heads > 0 && heads.is_multiple_of(kv_heads);
    let memory = k.shape == v.shape && k.shape[0] == q.shape[0] && k.shape[1] > 0;
    let masked = match mask {
        Mask::None => true,
        Mask::Causal => q.shape[1] == k.shape[1],
        Mask::Segments(lengths) => {
            q.shape[1] == k.shape[1] && lengths.iter().sum::<usize>() == q.shape[1] && !lengths.contains(&0)
        }
    };
    if widths && grouped && memory && masked {
        return Ok(());
    }
    Err(format!(
        "q {:?}, k {:?}, v {:?}, {heads} heads, {kv_heads} kv heads, {mask:?}",
        q.shape, k.shape, v.shape
    ))
}

/// `softmax(q kᵀ / sqrt(head_dim)) v`, `[batch, tokens, heads * head_dim]`.
///
/// The exponentials are rounded to the compute format before they meet v, and the division by their f32 sum comes
/// last: the order of PyTorch's fused attention, on the GPU and on the CPU.
pub(super) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: &Mask,
    formats: Formats,
) -> Vec<f32> {
    let [batch, tokens, features] = q.shape;
    let group = heads.heads / heads.kv_heads;
    let segments = segments(mask, tokens, k.shape[1]);
    let jobs: Vec<(usize, usize)> = (0..batch).flat_map(|b| (0..heads.heads).map(move |h| (b, h))).collect();
    let one_head = |&(b, head): &(usize, usize)| {
        let [q, k, v] = [(q, head), (k, head / group), (v, head / group)]
            .map(|(x, head)| head_of(x, b, head, heads.head_dim));
        let mut out = vec![0.0; tokens * heads.head_dim];
        for (queries, keys) in &segments {
            let rows = queries.start * heads.head_dim..queries.end * heads.head_dim;
            attend_segment(
                q.slice(s![queries.clone(), ..]),
                k.slice(s![keys.clone(), ..]),
                v.slice(s![keys.clone(), ..]),
                *mask == Mask::Causal,
                formats,
                &mut out[rows],
            );
        }
        out
    };
    let outputs: Vec<Vec<f32>> = if q.rows() * k.shape[1] * features < SERIAL {
        jobs.iter().map(one_head).collect()
    } else {
        jobs.par_iter().map(one_head).collect()
    };
    let mut values = vec![0.0; batch * tokens * features];
    for (&(b, head), output) in jobs.iter().zip(&outputs) {
        for (token, row) in output.chunks_exact(heads.head_dim).enumerate() {
            let start = (b * tokens + token) * features + head * heads.head_dim;
            values[start..start + heads.head_dim].copy_from_slice(row);
        }
    }
    values
}

/// Query and key ranges that belong together.
fn segments(mask: &Mask, tokens: usize, memory_tokens: usize) -> Vec<(Range<usize>, Range<usize>)> {
    match mask {
        Mask::None | Mask::Causal => vec![(0..tokens, 0..memory_tokens)],
        Mask::Segments(lengths) => lengths
            .iter()
            .scan(0, |start, length| {
                let segment = *start..*start + length;
                *start += length;
                Some((segment.clone(), segment))
            })
            .collect(),
    }
}

/// `[tokens, head_dim]` of one head, a strided view.
fn head_of(x: &Tensor, batch: usize, head: usize, head_dim: usize) -> ArrayView2<'_, f32> {
    let size = x.shape[1] * x.features();
    let item = &x.values[batch * size..(batch + 1) * size];
    view(item, x.shape[1], x.features()).slice_move(s![.., head * head_dim..(head + 1) * head_dim])
}

fn attend_segment(
    q: ArrayView2<f32>,
    k: ArrayView2<f32>,
    v: ArrayView2<f32>,
    causal: bool,
    formats: Formats,
    out: &mut [f32],
) {
    let (tokens, memory_tokens, head_dim) = (q.nrows(), k.nrows(), q.ncols());
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut scores = vec![0.0; tokens * memory_tokens];
    product(scale, &q, &k.t(), formats.accumulate, &mut view_mut(&mut scores, tokens, memory_tokens));
    let mut sums = Vec::with_capacity(tokens);
    for (token, row) in scores.chunks_exact_mut(memory_tokens).enumerate() {
        let seen = if causal { token + 1 } else { memory_tokens };
        sums.push(exponentials(&mut row[..seen], formats.accumulate));
        row[seen..].fill(0.0);
    }
    formats.compute.round_slice(&mut scores);
    let probabilities = view(&scores, tokens, memory_tokens);
    product(1.0, &probabilities, &v, formats.accumulate, &mut view_mut(out, tokens, head_dim));
    for (row, sum) in out.chunks_exact_mut(head_dim).zip(sums) {
        row.iter_mut().for_each(|value| *value /= sum);
    }
}

/// Replaces scores by `exp(score - max)` and returns their sum, all of it in `accumulate`.
fn exponentials(row: &mut [f32], accumulate: Format) -> f32 {
    accumulate.round_slice(row);
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|score| *score = (*score - max).exp());
    accumulate.round_slice(row);
    accumulate.round(row.iter().sum())
}
