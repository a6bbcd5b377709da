//! Operations that only move values. Most runtimes move every format; for the few operations that some of
//! them have for f32 alone, values are widened before and cast back after, which changes none of them.

use super::super::Grid;
use super::Value;
use super::graph::{Attribute, Graph};
use super::proto::data_type;
use super::scope::Scope;
use crate::ops::Patching;
use std::rc::Rc;
use steadyhand_fidelity::Format;

/// `x` with the tokens where `mask: [batch, tokens]` is true replaced by the tokens of `values`, in order.
pub(super) fn replace_tokens(scope: &mut Scope, x: &Value, mask: &str, values: &Value) -> Value {
    let format = if x.format.contains(values.format) { x.format } else { Format::F32 };
    let index = counted(scope, mask);
    let [kept, values] = [x, values].map(|x| scope.graph.cast(&x.name, x.format, Format::F32));
    let placed = scope.op_with("GatherND", &[&values, &index], &[Attribute::Int("batch_dims", 1)]);
    let mask = scope.unsqueeze(mask, &[2]);
    let replaced = scope.op("Where", &[&mask, &placed, &kept]);
    let name = scope.graph.cast(&replaced, Format::F32, format);
    Value { name: Rc::from(name), shape: x.shape, format, seen: None }
}

/// The how-manieth of the tokens where `mask: [batch, tokens]` is true each token is, `[batch, tokens, 1]`, counted from 0;
/// before the first it is -1, which is valid.
fn counted(scope: &mut Scope, mask: &str) -> String {
    let ones = scope.graph.cast_to(mask, data_type::INT64);
    let [axis, one] = [1, 1].map(|number| scope.graph.integer(number));
    let count = scope.op("CumSum", &[&ones, &axis]);
    let index = scope.op("Sub", &[&count, &one]);
    scope.unsqueeze(&index, &[2])
}

/// `x` with the tokens of `values` added, in order, where `mask: [batch, tokens]` is true.
pub(super) fn add_to_tokens(scope: &mut Scope, x: &Value, mask: &str, values: &Value) -> Value {
    let index = counted(scope, mask);
    let values = scope.graph.cast(&values.name, values.format, Format::F32);
    let placed = scope.op_with("GatherND", &[&values, &index], &[Attribute::Int("batch_dims", 1)]);
    let mask = scope.unsqueeze(mask, &[2]);
    let zero = scope.graph.constant(&[], &[0.0], Format::F32);
    let added = scope.op("Where", &[&mask, &placed, &zero]);
    let wide = scope.formats.accumulate;
    let added = scope.graph.cast(&added, Format::F32, wide);
    let x_wide = scope.wide(x);
    let sum = scope.op("Add", &[&x_wide, &added]);
    scope.store(sum, x.shape)
}

/// Each `count` tokens in a row as one.
pub(super) fn join_tokens(scope: &mut Scope, x: &Value, count: usize) -> Value {
    let shape = [x.shape[0], x.shape[1] / count, x.shape[2] * count];
    let name = scope.reshape(&x.name, &[0, -1, shape[2] as i64]);
    Value { name: Rc::from(name), shape, format: x.format, seen: None }
}

/// `x` repeated over the batch and the tokens of `like`.
pub(super) fn repeat(scope: &mut Scope, x: &Value, like: &Value) -> Value {
    let tokens = scope.op_with("Shape", &[&like.name], &[Attribute::Int("end", 2)]);
    let features = scope.graph.integers(&[x.shape[2] as i64]);
    let shape = scope.concat(&[&tokens, &features], 0);
    let wide = scope.graph.cast(&x.name, x.format, Format::F32);
    let repeated = scope.op("Expand", &[&wide, &shape]);
    let name = scope.graph.cast(&repeated, Format::F32, x.format);
    Value { name: Rc::from(name), ..x.clone() }
}

/// Two values joined along an axis, in the wider of their formats.
pub(super) fn join(scope: &mut Scope, [a, b]: [&Value; 2], axis: i64, shape: [usize; 3]) -> Value {
    let format = if a.format.contains(b.format) { a.format } else { Format::F32 };
    let [left, right] = [a, b].map(|x| scope.graph.cast(&x.name, x.format, format));
    let name = scope.concat(&[&left, &right], axis);
    Value { name: Rc::from(name), shape, format, seen: None }
}

/// The patches of one image, `pixels: [batch, 3, height, width]`, of which a patch repeats the only frame.
pub(super) fn patches(scope: &mut Scope, pixels: &str, grid: Grid, patching: Patching) -> String {
    let [rows, cols, side, block] = [grid.rows, grid.cols, patching.size, grid.block].map(|n| n as i64);
    let features = patching.features() as i64;
    if !patching.channels_first {
        // [batch, channel, row, y, column, x] → [batch, row, column, y, x, channel]
        let split = scope.reshape(pixels, &[0, 3, rows, side, cols, side]);
        let ordered = scope.transpose(&split, &[0, 2, 4, 3, 5, 1]);
        return scope.reshape(&ordered, &[0, rows * cols, features]);
    }
    // [batch, channel, block row, row, y, block column, column, x]
    // → [batch, block row, block column, row, column, channel, y, x]
    let split = scope.reshape(pixels, &[0, 3, rows / block, block, side, cols / block, block, side]);
    let ordered = scope.transpose(&split, &[0, 2, 5, 3, 6, 1, 4, 7]);
    let one = scope.reshape(&ordered, &[0, rows * cols, 3, 1, side * side]);
    let all = scope.concat(&vec![one.as_str(); patching.frames], 3);
    scope.reshape(&all, &[0, rows * cols, features])
}

/// Joins each `factor x factor` patches into one token, image by image.
pub(super) fn pixel_unshuffle(scope: &mut Scope, x: &Value, grids: &[Grid], factor: usize) -> Value {
    let features = x.shape[2] * factor * factor;
    let mut parts = Vec::with_capacity(grids.len());
    let (mut first, side, channels) = (0, factor as i64, x.shape[2] as i64);
    for grid in grids {
        let [rows, cols] = [grid.rows / factor, grid.cols / factor].map(|n| n as i64);
        let end = first + grid.patches() as i64;
        let image = match grids {
            [_] => x.name.to_string(),
            _ => scope.slice(&x.name, 1, first, end),
        };
        first = end;
        // [batch, row, dy, column, dx, feature] → [batch, row, column, feature, dy, dx]
        let split = scope.reshape(&image, &[0, rows, side, cols, side, channels]);
        let ordered = scope.transpose(&split, &[0, 1, 3, 5, 2, 4]);
        parts.push(scope.reshape(&ordered, &[0, rows * cols, features as i64]));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let name = scope.concat(&parts, 1);
    let tokens = first as usize / (factor * factor);
    Value { name: Rc::from(name), shape: [x.shape[0], tokens, features], format: x.format, seen: None }
}

/// 0, 1, 2, … before `length: [1]`, int64.
pub(super) fn count_to(graph: &mut Graph, length: &str) -> String {
    let axis = graph.integers(&[0]);
    let length = graph.node("prompt", "Squeeze", &[length, &axis], &[]);
    let [first, step] = [0, 1].map(|number| graph.integer(number));
    graph.node("prompt.positions", "Range", &[&first, &length, &step], &[])
}

/// `[batch, tokens, 3]`: where tokens stand, from their `positions: [tokens]` and the image tokens among them,
/// `images: [batch, tokens]`. As many image tokens as come before one tell what of the grids does.
pub(super) fn prompt_places(graph: &mut Graph, positions: &str, images: &str, grids: &[Grid]) -> String {
    const AT: &str = "prompt.places";
    let (mut skipped, mut rows, mut cols) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = 0;
    for grid in grids {
        for [row, col] in grid.places() {
            skipped.push(before);
            rows.push(row as i64);
            cols.push(col as i64);
        }
        before += grid.rows.max(grid.cols) as i64;
    }
    skipped.push(before);
    rows.push(0);
    cols.push(0);
    let ones = graph.cast_to(images, data_type::INT64);
    let axis = graph.integer(1);
    let count = graph.node(AT, "CumSum", &[&ones, &axis], &[]);
    let earlier = graph.node(AT, "Sub", &[&count, &ones], &[]);
    let looked_up = |table: &[i64]| {
        let table = graph.integers(table);
        graph.node(AT, "Gather", &[&table, &earlier], &[])
    };
    let [skipped, rows, cols] = [&skipped[..], &rows, &cols].map(looked_up);
    let text = graph.node(AT, "Sub", &[positions, &earlier], &[]);
    let time = graph.node(AT, "Add", &[&text, &skipped], &[]);
    let mut moved = |by: &str| {
        // Text behind an image lies in no row of it.
        let by = graph.node(AT, "Mul", &[by, &ones], &[]);
        graph.node(AT, "Add", &[&time, &by], &[])
    };
    let [row, col] = [moved(&rows), moved(&cols)];
    let axis = graph.integers(&[2]);
    let [time, row, col] = [&time, &row, &col].map(|place| graph.node(AT, "Unsqueeze", &[place, &axis], &[]));
    graph.node(AT, "Concat", &[&time, &row, &col], &[Attribute::Int("axis", 2)])
}
