//! Attention whose scores become weights in another way, or whose queries see other keys.

use super::change::{Seen, Weighing};
use rayon::prelude::*;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor};
use steadyhand_gr00t::ops::{Heads, Mask, Ops, Site};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};

/// Which keys each query sees: `[queries, keys]`.
pub(crate) fn seen(other: Seen, tokens: usize, images: &[usize]) -> Vec<bool> {
    let is_image = |at: usize| images.binary_search(&at).is_ok();
    let last = images.last().copied().unwrap_or_default();
    let sees = |query: usize, key: usize| match other {
        Seen::Before => key < query,
        Seen::BeforeOrAll => key < query || query == 0,
        Seen::Behind => key >= query,
        Seen::Prefix => key <= query.max(last),
        Seen::AllOfImages => key <= query || is_image(query) && is_image(key),
        Seen::NoImages => key == query || key < query && !is_image(key),
    };
    (0..tokens * tokens).map(|at| sees(at / tokens, at % tokens)).collect()
}

/// The keys that a right mask lets each query see.
pub(crate) fn allowed(mask: &Mask, queries: usize, keys: usize) -> Vec<bool> {
    let segment = |at: usize| match mask {
        Mask::Segments(lengths) => {
            let mut end = 0;
            lengths.iter().position(|length| {
                end += length;
                at < end
            })
        }
        _ => None,
    };
    let sees = |query: usize, key: usize| match mask {
        Mask::None => true,
        Mask::Causal => key <= query,
        Mask::Segments(_) => segment(query) == segment(key),
    };
    (0..queries * keys).map(|at| sees(at / keys, at % keys)).collect()
}

/// Attention of queries that see the keys `seen`, `[queries, keys]`.
pub(crate) struct Attention<'a> {
    pub(crate) operands: [&'a Tensor; 3],
    pub(crate) heads: Heads,
    pub(crate) seen: Vec<bool>,
    pub(crate) formats: Formats,
}

impl Attention<'_> {
    /// `[batch, queries, heads * head_dim]`; `None` weighs by softmax over the keys.
    pub(crate) fn values(&self, weighing: Option<Weighing>) -> Vec<f32> {
        let [q, k, v] = self.operands;
        let [batch, queries, features] = q.shape();
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let (keys, group) = (k.shape()[1], heads / kv_heads.max(1));
        let mut values = vec![0.0; batch * queries * features];
        for item in 0..batch {
            let scores: Vec<f32> =
                (0..heads).into_par_iter().flat_map_iter(|head| self.scores(item, head)).collect();
            let weights = self.weights(scores, weighing);
            let of_head = |head: usize| {
                let weights = &weights[head * queries * keys..][..queries * keys];
                let mut out = vec![0.0f32; queries * head_dim];
                for (row, out) in weights.chunks_exact(keys).zip(out.chunks_exact_mut(head_dim)) {
                    let mut sums = vec![0.0f64; head_dim];
                    for (key, weight) in row.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                        let value = head_of(v, item, key, head / group, head_dim);
                        sums.iter_mut()
                            .zip(value)
                            .for_each(|(sum, value)| *sum += f64::from(*weight) * f64::from(*value));
                    }
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
                }
                out
            };
            let outputs: Vec<Vec<f32>> = (0..heads).into_par_iter().map(of_head).collect();
            for (head, output) in outputs.iter().enumerate() {
                for (query, row) in output.chunks_exact(head_dim).enumerate() {
                    let start = (item * queries + query) * features + head * head_dim;
                    values[start..start + head_dim].copy_from_slice(row);
                }
            }
        }
        values
    }

    /// Scaled scores of one head, `[queries, keys]`; minus infinity where a key is not seen.
    fn scores(&self, item: usize, head: usize) -> Vec<f32> {
        let [q, k, _] = self.operands;
        let Heads { heads, kv_heads, head_dim } = self.heads;
        let (queries, keys) = (q.shape()[1], k.shape()[1]);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let compute = self.formats.compute;
        let score = |at: usize| {
            if !self.seen[at] {
                return f32::NEG_INFINITY;
            }
            let query = head_of(q, item, at / keys, head, head_dim);
            let key = head_of(k, item, at % keys, head * kv_heads / heads, head_dim);
            let product = |(a, b): (&f32, &f32)| f64::from(compute.round(*a)) * f64::from(compute.round(*b));
            (scale * query.iter().zip(key).map(product).sum::<f64>()) as f32
        };
        (0..queries * keys).map(score).collect()
    }

    /// The weights of the values, `[heads, queries, keys]`, in the format of products.
    fn weights(&self, scores: Vec<f32>, weighing: Option<Weighing>) -> Vec<f32> {
        let (queries, keys) = (self.operands[0].shape()[1], self.operands[1].shape()[1]);
        let size = queries * keys;
        let mut weights = scores;
        match weighing {
            Some(Weighing::Scores) => {
                weights.iter_mut().filter(|score| !score.is_finite()).for_each(|score| *score = 0.0);
            }
            None => (0..weights.len() / keys).for_each(|row| softmax(&mut weights, row * keys, 1, keys)),
            Some(Weighing::OverQueries) => (0..weights.len() / queries).for_each(|column| {
                softmax(&mut weights, column / keys * size + column % keys, keys, queries);
            }),
            Some(Weighing::OverHeads) => {
                (0..size).for_each(|at| softmax(&mut weights, at, size, self.heads.heads));
            }
        }
        self.formats.compute.round_slice(&mut weights);
        weights
    }
}

/// The features of one head of a token.
fn head_of(x: &Tensor, item: usize, token: usize, head: usize, head_dim: usize) -> &[f32] {
    let [_, tokens, features] = x.shape();
    &x.values()[(item * tokens + token) * features + head * head_dim..][..head_dim]
}

/// Softmax of `count` values, `step` apart: 0 / 0 where none of them is of a key that is seen.
fn softmax(values: &mut [f32], first: usize, step: usize, count: usize) {
    let places = || (0..count).map(move |at| first + at * step);
    let largest = places().map(|at| values[at]).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for at in places() {
        values[at] = (values[at] - largest).exp();
        sum += f64::from(values[at]);
    }
    places().for_each(|at| values[at] = (f64::from(values[at]) / sum) as f32);
}

/// Attention with a causal mask that is off by one; none where there are no tokens to add.
pub(crate) fn causal_and_next(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    policy: &PrecisionPolicy,
    at: &Site,
) -> Result<Option<Vec<f32>>> {
    let plain = Cpu::new(policy, None);
    let [batch, tokens, features] = q.shape();
    let zeros =
        |like: &Tensor| Tensor::from_values([batch, 1, like.shape()[2]], vec![0.0; batch * like.shape()[2]]);
    let (Some(no_query), Some(no_key), Some(no_value)) = (zeros(q), zeros(k), zeros(v)) else {
        return Ok(None);
    };
    // Each query one place later sees the key behind its own place; the last one, which has none, sees all.
    let later = plain.concat_tokens(&no_query, q)?;
    let (more_keys, more_values) = (plain.concat_tokens(k, &no_key)?, plain.concat_tokens(v, &no_value)?);
    let shifted = plain.attention(&later, &more_keys, &more_values, heads, &Mask::Causal, at.clone())?;
    let last = plain.attention(&plain.last_tokens(q, 1)?, k, v, heads, &Mask::None, at.clone())?;
    let mut values = Vec::with_capacity(batch * tokens * features);
    for (whole, last) in
        shifted.values().chunks_exact((tokens + 1) * features).zip(last.values().chunks_exact(features))
    {
        values.extend_from_slice(&whole[features..tokens * features]);
        values.extend_from_slice(last);
    }
    Ok(Some(values))
}

/// Keys or values with a head for each query head, in the order 0, 1, .., 0, 1, ..
pub(crate) fn tiled(x: &Tensor, heads: Heads) -> Option<Tensor> {
    let [batch, tokens, features] = x.shape();
    let times = heads.heads / heads.kv_heads;
    let values = x.values().chunks_exact(features).flat_map(|token| token.repeat(times)).collect();
    Tensor::from_values([batch, tokens, features * times], values)
}

/// So many tokens of zeros behind those of every item.
pub(crate) fn padded(x: &Tensor, more: usize) -> Option<Tensor> {
    let [batch, tokens, features] = x.shape();
    let zeros = vec![0.0; more * features];
    let items = x.values().chunks_exact(tokens * features);
    let values = items.flat_map(|item| [item, &zeros].concat()).collect();
    Tensor::from_values([batch, tokens + more, features], values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_fidelity::{Format, relative_l2};

    fn tensor(tokens: usize, features: usize, seed: usize) -> Tensor {
        let value = |at: usize| crate::fault::wobble(at + 1000 * seed);
        Tensor::from_values([1, tokens, features], (0..tokens * features).map(value).collect())
            .expect("as many values")
    }

    /// With the right mask and the right softmax it is the reference's attention.
    #[test]
    fn what_is_right_is_the_references() {
        let policy = PrecisionPolicy::preset("f32").expect("a preset");
        let cpu = Cpu::new(&policy, None);
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 8 };
        let [q, k, v] = [tensor(6, 32, 1), tensor(6, 16, 2), tensor(6, 16, 3)];
        for mask in [Mask::None, Mask::Causal, Mask::Segments(vec![2, 4])] {
            let right = cpu.attention(&q, &k, &v, heads, &mask, Site::new("x")).expect("an attention");
            let (operands, formats) = ([&q, &k, &v], Formats::new(Format::F32, Format::F32, Format::F32));
            let attention = Attention { operands, heads, seen: allowed(&mask, 6, 6), formats };
            let error = relative_l2(&attention.values(None), right.values());
            assert!(error < 1e-6, "{mask:?}: {error:e}");
            let other = attention.values(Some(Weighing::OverQueries));
            assert!(relative_l2(&other, right.values()) > 0.1, "{mask:?}");
        }
    }

    #[test]
    fn weights_add_up_over_the_axis_that_they_are_made_over() {
        let heads = Heads { heads: 2, kv_heads: 2, head_dim: 4 };
        let [q, k] = [tensor(3, 8, 1), tensor(5, 8, 2)];
        let formats = Formats::new(Format::F32, Format::F32, Format::F32);
        let attention = Attention { operands: [&q, &k, &k], heads, seen: vec![true; 15], formats };
        let scores: Vec<f32> = (0..2).flat_map(|head| attention.scores(0, head)).collect();
        let of = |weighing| attention.weights(scores.clone(), weighing);
        let sum = |values: &[f32], first: usize, step: usize, count: usize| {
            (0..count).map(|at| values[first + at * step]).sum::<f32>()
        };
        assert!((sum(&of(None), 20, 1, 5) - 1.0).abs() < 1e-6);
        assert!((sum(&of(Some(Weighing::OverQueries)), 15 + 2, 5, 3) - 1.0).abs() < 1e-6);
        assert!((sum(&of(Some(Weighing::OverHeads)), 7, 15, 2) - 1.0).abs() < 1e-6);
        assert_eq!(of(Some(Weighing::Scores)), scores);
        let mut unseen = [f32::NEG_INFINITY; 2];
        softmax(&mut unseen, 0, 1, 2);
        assert!(unseen.iter().all(|weight| weight.is_nan()), "{unseen:?}");
    }

    #[test]
    fn queries_see_what_they_should() {
        let row = |other, query: usize| seen(other, 4, &[1, 2])[query * 4..][..4].to_vec();
        assert_eq!(row(Seen::Before, 2), [true, true, false, false]);
        assert_eq!(row(Seen::Before, 0), [false; 4]);
        assert_eq!(row(Seen::BeforeOrAll, 0), [true; 4]);
        assert_eq!(row(Seen::Behind, 2), [false, false, true, true]);
        assert_eq!(row(Seen::Prefix, 0), [true, true, true, false]);
        assert_eq!(row(Seen::AllOfImages, 1), [true, true, true, false]);
        assert_eq!(row(Seen::NoImages, 3), [true, false, false, true]);
    }
}
