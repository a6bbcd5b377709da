//! Attention and rotation as graphs of standard operations.

use super::super::{Heads, Mask, Rotary, Stores};
use super::Value;
use super::graph::Attribute;
use super::scope::Scope;

/// What may not be seen, as graph values.
pub(super) struct Hidden<'a> {
    /// `[1, 1, tokens, tokens]`, true where a query sees a key.
    pub(super) causal: Option<&'a str>,
    /// `[batch, 1, 1, memory_tokens]`, true where a key may be seen.
    pub(super) keys: Option<&'a str>,
}

/// `softmax(q kᵀ / sqrt(head_dim)) v`, the softmax in the accumulation format.
///
/// The reference rounds the exponentials to the compute format and divides by their sum last; here the
/// probabilities are rounded, so that a runtime finds the Softmax that it fuses.
pub(super) fn attend(
    scope: &mut Scope,
    [q, k, v]: [&Value; 3],
    heads: Heads,
    mask: &Mask,
    hidden: &Hidden,
) -> Value {
    let order = [0, 2, 1, 3];
    let queries = by_head(scope, q, heads.heads, heads.head_dim, &order);
    let keys = by_head(scope, k, heads.kv_heads, heads.head_dim, &[0, 2, 3, 1]);
    let values = by_head(scope, v, heads.kv_heads, heads.head_dim, &order);
    let [keys, values] = [keys, values].map(|x| repeat_heads(scope, &x, heads));
    let out = match mask {
        Mask::Segments(lengths) if lengths.len() > 1 => {
            let mut start = 0;
            let mut parts = Vec::with_capacity(lengths.len());
            for length in lengths {
                let end = start + *length as i64;
                let queries = scope.slice(&queries, 2, start, end);
                let keys = scope.slice(&keys, 3, start, end);
                let values = scope.slice(&values, 2, start, end);
                parts.push(one_segment(scope, &queries, &keys, &values, heads, hidden));
                start = end;
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            scope.concat(&parts, 2)
        }
        _ => one_segment(scope, &queries, &keys, &values, heads, hidden),
    };
    let out = scope.transpose(&out, &order);
    let out = scope.reshape(&out, &[0, 0, (heads.heads * heads.head_dim) as i64]);
    scope.store(out, q.shape)
}

/// `[batch, heads, tokens, head_dim]`, or the dimensions in another order, as an operand.
fn by_head(scope: &mut Scope, x: &Value, heads: usize, head_dim: usize, order: &[i64]) -> String {
    let x = scope.operand(&x.name, x.format);
    let x = scope.reshape(&x, &[0, 0, heads as i64, head_dim as i64]);
    scope.transpose(&x, order)
}

/// Key and value heads once for each query head that reads them.
fn repeat_heads(scope: &mut Scope, x: &str, heads: Heads) -> String {
    let group = heads.heads / heads.kv_heads;
    if group == 1 {
        return x.to_owned();
    }
    let sources: Vec<i64> = (0..heads.heads).map(|head| (head / group) as i64).collect();
    let sources = scope.graph.integers(&sources);
    scope.op_with("Gather", &[x, &sources], &[Attribute::Int("axis", 1)])
}

/// q: `[batch, heads, tokens, head_dim]`, k: `[batch, heads, head_dim, memory_tokens]`,
/// v: `[batch, heads, memory_tokens, head_dim]`.
fn one_segment(scope: &mut Scope, q: &str, k: &str, v: &str, heads: Heads, hidden: &Hidden) -> String {
    let scores = scope.product(q, k);
    let scale = scope.number(1.0 / (heads.head_dim as f32).sqrt());
    let mut scores = scope.op("Mul", &[&scores, &scale]);
    for seen in [hidden.causal, hidden.keys].into_iter().flatten() {
        // Minus infinity, not a large number: probabilities of hidden tokens are zero, and a prompt without
        // a single token to see gives NaN instead of an average over what it must not see.
        let never = scope.number(f32::NEG_INFINITY);
        scores = scope.op("Where", &[seen, &scores, &never]);
    }
    let probabilities = scope.op_with("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
    let accumulate = scope.formats.accumulate;
    let probabilities = scope.operand(&probabilities, accumulate);
    scope.product(&probabilities, v)
}

/// Cosines and sines, each `[1 or batch, tokens, 1, head_dim / 2]`, as the arithmetic takes them.
pub(super) struct Turns {
    cos: String,
    sin: String,
}

/// Turns known when the graph is recorded: `turns: [tokens, head_dim]`, cosines first.
pub(super) fn constant_turns(scope: &mut Scope, turns: &[f32], head_dim: usize) -> Turns {
    let half = head_dim / 2;
    let mut part = |start: usize| {
        let values: Vec<f32> =
            turns.chunks_exact(head_dim).flat_map(|row| &row[start..start + half]).copied().collect();
        scope.stored_numbers(&[1, values.len() / half, 1, half], values)
    };
    Turns { cos: part(0), sin: part(half) }
}

/// The turns at `positions: [tokens]`, of the arithmetic's type.
pub(super) fn turns_in_sequence(scope: &mut Scope, rotary: &Rotary, positions: &str) -> Turns {
    let frequencies = frequencies(scope, rotary);
    let positions = scope.unsqueeze(positions, &[0, 2, 3]);
    turns_by(scope, rotary, &positions, &frequencies)
}

/// The turns at `positions: [batch, tokens, 1, head_dim / 2]`, of the arithmetic's type.
pub(super) fn turns(scope: &mut Scope, rotary: &Rotary, positions: &str) -> Turns {
    let frequencies = frequencies(scope, rotary);
    turns_by(scope, rotary, positions, &frequencies)
}

fn frequencies(scope: &mut Scope, rotary: &Rotary) -> String {
    scope.stored_numbers(&[1, 1, 1, rotary.head_dim / 2], rotary.frequencies.clone())
}

fn turns_by(scope: &mut Scope, rotary: &Rotary, positions: &str, frequencies: &str) -> Turns {
    let mut angles = scope.op("Mul", &[positions, frequencies]);
    if rotary.stores == Stores::Angles {
        angles = scope.round(angles);
    }
    let [cos, sin] = ["Cos", "Sin"].map(|op| {
        let turn = scope.op(op, &[&angles]);
        scope.round(turn)
    });
    Turns { cos, sin }
}

/// `x cos + rotate_half(x) sin` by head.
pub(super) fn rotary(scope: &mut Scope, x: &Value, rotary: &Rotary, Turns { cos, sin }: &Turns) -> Value {
    let head_dim = rotary.head_dim;
    let half = (head_dim / 2) as i64;
    let wide = scope.wide(x);
    let wide = scope.reshape(&wide, &[0, 0, (x.shape[2] / head_dim) as i64, head_dim as i64]);
    let a = scope.slice(&wide, 3, 0, half);
    let b = scope.slice(&wide, 3, half, 2 * half);
    let mut product = |x: &str, turn: &str| {
        let product = scope.op("Mul", &[x, turn]);
        if rotary.stores == Stores::Products { scope.round(product) } else { product }
    };
    let [a_cos, b_sin, b_cos, a_sin] =
        [product(&a, cos), product(&b, sin), product(&b, cos), product(&a, sin)];
    let first = scope.op("Sub", &[&a_cos, &b_sin]);
    let second = scope.op("Add", &[&b_cos, &a_sin]);
    let turned = scope.concat(&[&first, &second], 3);
    let turned = scope.reshape(&turned, &[0, 0, x.shape[2] as i64]);
    scope.store(turned, x.shape)
}
