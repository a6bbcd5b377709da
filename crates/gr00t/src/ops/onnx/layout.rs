//! Operations that only move values. Most runtimes move every format; for the few operations that some of
//! them have for f32 alone, values are widened before and cast back after, which changes none of them.

use super::super::Grid;
use super::Value;
use super::graph::Attribute;
use super::proto::data_type;
use super::scope::Scope;
use crate::ops::ImageBatch;
use std::rc::Rc;
use steadyhand_fidelity::Format;

/// `x` with the tokens where `mask: [batch, tokens]` is true replaced by the tokens of `values`, in order.
pub(super) fn replace_tokens(scope: &mut Scope, x: &Value, mask: &str, values: &Value) -> Value {
    let format = if x.format.contains(values.format) { x.format } else { Format::F32 };
    // The how-manieth image token a token is, counted from 0; before the first it is -1, which is valid.
    let ones = scope.graph.cast_to(mask, data_type::INT64);
    let [axis, one] = [1, 1].map(|number| scope.graph.integer(number));
    let count = scope.op("CumSum", &[&ones, &axis]);
    let index = scope.op("Sub", &[&count, &one]);
    let index = scope.unsqueeze(&index, &[2]);
    let [kept, values] = [x, values].map(|x| scope.graph.cast(&x.name, x.format, Format::F32));
    let placed = scope.op_with("GatherND", &[&values, &index], &[Attribute::Int("batch_dims", 1)]);
    let mask = scope.unsqueeze(mask, &[2]);
    let replaced = scope.op("Where", &[&mask, &placed, &kept]);
    let name = scope.graph.cast(&replaced, Format::F32, format);
    Value { name: Rc::from(name), shape: x.shape, format, seen: None }
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

/// The patches of one image, `pixels: [batch, 3, height, width]`.
pub(super) fn patches(scope: &mut Scope, pixels: &str, image: &ImageBatch, size: usize) -> String {
    let [rows, cols, side] = [image.height / size, image.width / size, size].map(|n| n as i64);
    // [batch, channel, row, y, column, x] → [batch, row, column, y, x, channel]
    let split = scope.reshape(pixels, &[0, 3, rows, side, cols, side]);
    let ordered = scope.transpose(&split, &[0, 2, 4, 3, 5, 1]);
    scope.reshape(&ordered, &[0, rows * cols, 3 * side * side])
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
