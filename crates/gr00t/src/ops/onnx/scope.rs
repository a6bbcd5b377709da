//! Recording one operation: its site's formats, and the casts that they ask for.
//!
//! Arithmetic is recorded in the accumulation format, and its result is cast to what the site stores: the
//! reference computes in f32 and rounds at the same places. Only matrix products may be recorded in the
//! narrower compute format.

use super::graph::{Attribute, Graph};
use super::{Products, Value};
use crate::checkpoint::Weight;
use crate::precision::Formats;
use std::cell::RefMut;
use std::rc::Rc;
use steadyhand_fidelity::Format;

/// An operation being recorded.
pub(super) struct Scope<'g> {
    pub(super) graph: RefMut<'g, Graph>,
    /// The site's name, the step included.
    pub(super) site: String,
    pub(super) formats: Formats,
    pub(super) products: Products,
}

impl Scope<'_> {
    /// Appends a node without attributes.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.graph.node(&self.site, op, inputs, &[])
    }

    /// Appends a node.
    pub(super) fn op_with(&mut self, op: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        self.graph.node(&self.site, op, inputs, attributes)
    }

    /// A value as the arithmetic takes it.
    pub(super) fn wide(&mut self, x: &Value) -> String {
        self.graph.cast(&x.name, x.format, self.formats.accumulate)
    }

    /// A number as the arithmetic takes it.
    pub(super) fn number(&mut self, value: f32) -> String {
        self.graph.constant(&[], &[value], self.formats.accumulate)
    }

    /// A constant vector as the arithmetic takes it, rounded to storage before.
    pub(super) fn stored_numbers(&mut self, shape: &[usize], mut values: Vec<f32>) -> String {
        self.formats.storage.round_slice(&mut values);
        self.graph.constant(shape, &values, self.formats.accumulate)
    }

    /// A weight that is stored, not multiplied as a matrix: norms, biases.
    pub(super) fn stored_weight(&mut self, weight: &Weight) -> String {
        let Formats { storage, accumulate, .. } = self.formats;
        let name = self.graph.weight(weight, storage);
        self.graph.cast(&name, storage, accumulate)
    }

    /// Rows of a weight's first dimension, rounded to `format`. The weight itself stays in the file's format
    /// where rounding after the choice gives the same.
    pub(super) fn rows(&mut self, weight: &Weight, ids: &str, format: Format) -> String {
        let file = weight.dtype().format();
        let kept = if format.contains(file) { file } else { format };
        let table = self.graph.weight(weight, kept);
        let rows = self.op("Gather", &[&table, ids]);
        self.graph.cast(&rows, kept, format)
    }

    /// The format of a matrix product's operands and of its result.
    pub(super) fn product_format(&self) -> Format {
        match self.products {
            Products::Native => self.formats.compute,
            Products::Widened => self.formats.accumulate,
        }
    }

    /// `value` of format `from`, rounded to the compute format, as an operand of a matrix product.
    pub(super) fn operand(&mut self, value: &str, from: Format) -> String {
        let compute = self.formats.compute;
        // A narrower format's values need no rounding: they go to the product's format at once.
        let rounded = if compute.contains(from) { from } else { compute };
        let value = self.graph.cast(value, from, rounded);
        let format = self.product_format();
        self.graph.cast(&value, rounded, format)
    }

    /// A weight as the transposed right operand of a matrix product.
    pub(super) fn matrix(&mut self, weight: &Weight) -> String {
        let compute = self.formats.compute;
        let name = self.graph.weight(weight, compute);
        let transposed = self.graph.transposed(&name);
        let format = self.product_format();
        self.graph.cast(&transposed, compute, format)
    }

    /// A matrix product's result as the arithmetic takes it.
    pub(super) fn product(&mut self, a: &str, b: &str) -> String {
        let product = self.op("MatMul", &[a, b]);
        let (from, to) = (self.product_format(), self.formats.accumulate);
        self.graph.cast(&product, from, to)
    }

    /// A result in the middle of an operation, rounded to what the site stores.
    pub(super) fn round(&mut self, wide: String) -> String {
        let Formats { storage, accumulate, .. } = self.formats;
        let stored = self.graph.cast(&wide, accumulate, storage);
        self.graph.cast(&stored, storage, accumulate)
    }

    /// The operation's result, named after its site.
    pub(super) fn store(&mut self, wide: String, shape: [usize; 3]) -> Value {
        let Formats { storage, accumulate, .. } = self.formats;
        let stored = self.graph.cast(&wide, accumulate, storage);
        let name = self.graph.name_result(stored, &self.site);
        Value { name: Rc::from(name), shape, format: storage, seen: None }
    }

    /// `value` with other dimensions; 0 keeps a dimension, -1 stands for what is left.
    pub(super) fn reshape(&mut self, value: &str, dims: &[i64]) -> String {
        let dims = self.graph.integers(dims);
        self.op("Reshape", &[value, &dims])
    }

    pub(super) fn transpose(&mut self, value: &str, order: &[i64]) -> String {
        self.op_with("Transpose", &[value], &[Attribute::Ints("perm", order.to_vec())])
    }

    /// `start..end` along an axis; negative numbers count from the end.
    pub(super) fn slice(&mut self, value: &str, axis: i64, start: i64, end: i64) -> String {
        let [start, end, axis] = [start, end, axis].map(|number| self.graph.integers(&[number]));
        self.op("Slice", &[value, &start, &end, &axis])
    }

    pub(super) fn concat(&mut self, values: &[&str], axis: i64) -> String {
        match values {
            [only] => (*only).to_owned(),
            _ => self.op_with("Concat", values, &[Attribute::Int("axis", axis)]),
        }
    }

    pub(super) fn unsqueeze(&mut self, value: &str, axes: &[i64]) -> String {
        let axes = self.graph.integers(axes);
        self.op("Unsqueeze", &[value, &axes])
    }
}
