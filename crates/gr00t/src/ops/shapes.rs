//! The model's sites, found by running the model: operations that note where they stand and hand on shapes.

use super::{Activation, Affine, CategoryLinear, Grid, Heads, Leading, Linear, Mask, Ops, Site, Tokens};
use crate::Result;
use crate::checkpoint::Weight;
use crate::model::ImageBatch;
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// The kinds of operation that have a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// [`Ops::input`].
    Input,
    /// [`Ops::patches`].
    Patches,
    /// [`Ops::time_encoding`].
    TimeEncoding,
    /// [`Ops::embed`].
    Embed,
    /// [`Ops::table_rows`].
    TableRows,
    /// [`Ops::resize_positions`].
    ResizePositions,
    /// [`Ops::linear`].
    Linear,
    /// [`Ops::category_linear`].
    CategoryLinear,
    /// [`Ops::attention`].
    Attention,
    /// [`Ops::layer_norm`].
    LayerNorm,
    /// [`Ops::rms_norm`].
    RmsNorm,
    /// [`Ops::rotary`].
    Rotary,
    /// [`Ops::modulate`].
    Modulate,
    /// [`Ops::activation`].
    Activation,
    /// [`Ops::add`].
    Add,
    /// [`Ops::multiply`].
    Multiply,
    /// [`Ops::euler`].
    Euler,
}

impl Operation {
    /// The name in tables, such as `layer_norm`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Input => "input",
            Operation::Patches => "patches",
            Operation::TimeEncoding => "time_encoding",
            Operation::Embed => "embed",
            Operation::TableRows => "table_rows",
            Operation::ResizePositions => "resize_positions",
            Operation::Linear => "linear",
            Operation::CategoryLinear => "category_linear",
            Operation::Attention => "attention",
            Operation::LayerNorm => "layer_norm",
            Operation::RmsNorm => "rms_norm",
            Operation::Rotary => "rotary",
            Operation::Modulate => "modulate",
            Operation::Activation => "activation",
            Operation::Add => "add",
            Operation::Multiply => "multiply",
            Operation::Euler => "euler",
        }
    }

    /// Whether it multiplies matrices: then a compute format counts.
    pub fn multiplies(self) -> bool {
        matches!(self, Operation::Linear | Operation::CategoryLinear | Operation::Attention)
    }

    /// Whether it sums up values: then an accumulation format counts.
    pub fn accumulates(self) -> bool {
        self.multiplies() || matches!(self, Operation::LayerNorm | Operation::RmsNorm)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A site of a model, and the operation that makes its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelSite {
    /// [`Site::path`].
    pub path: String,
    /// What happens there.
    pub operation: Operation,
}

/// Operations on shapes alone: no weight is read, nothing is computed.
#[derive(Debug, Default)]
pub struct ShapeInference {
    found: RefCell<Vec<ModelSite>>,
    /// Paths found already: a site is visited once in every Euler step.
    known: RefCell<BTreeSet<String>>,
}

impl ShapeInference {
    /// The sites, in the order in which an inference first reaches them.
    pub fn found(self) -> Vec<ModelSite> {
        self.found.into_inner()
    }

    fn note(&self, operation: Operation, at: &Site, shape: [usize; 3]) -> Result<[usize; 3]> {
        if self.known.borrow_mut().insert(at.path().to_owned()) {
            self.found.borrow_mut().push(ModelSite { path: at.path().to_owned(), operation });
        }
        Ok(shape)
    }
}

/// A tensor is its shape, `[batch, tokens, features]`.
impl Ops for ShapeInference {
    type Tensor = [usize; 3];

    fn shape(&self, x: &[usize; 3]) -> [usize; 3] {
        *x
    }

    fn input(&self, _values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Input, &at, shape)
    }

    fn patches(&self, images: &[ImageBatch], size: usize, batch: usize, at: Site) -> Result<[usize; 3]> {
        let patches = images.iter().map(|image| image.height / size * (image.width / size)).sum();
        self.note(Operation::Patches, &at, [batch, patches, size * size * 3])
    }

    fn time_encoding(&self, _time: usize, frequencies: &[f32], _: Leading, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::TimeEncoding, &at, [1, 1, 2 * frequencies.len()])
    }

    /// A tap has no formats of its own.
    fn tap(&self, _x: &[usize; 3], _at: Site) {}

    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<[usize; 3]> {
        let tokens = ids.first().map_or(0, Vec::len);
        self.note(Operation::Embed, &at, [ids.len(), tokens, table.shape()[1]])
    }

    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::TableRows, &at, [1, tokens, table.shape()[1]])
    }

    fn resize_positions(&self, table: &Weight, grids: &[Grid], at: Site) -> Result<[usize; 3]> {
        let patches = grids.iter().map(|grid| grid.patches()).sum();
        self.note(Operation::ResizePositions, &at, [1, patches, table.shape()[1]])
    }

    fn linear(&self, x: &[usize; 3], layer: &Linear, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Linear, &at, [x[0], x[1], layer.weight.shape()[0]])
    }

    fn category_linear(
        &self,
        x: &[usize; 3],
        layer: &CategoryLinear,
        _embodiments: &[usize],
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::CategoryLinear, &at, [x[0], x[1], layer.weight.shape()[2]])
    }

    fn attention(
        &self,
        q: &[usize; 3],
        _k: &[usize; 3],
        _v: &[usize; 3],
        _heads: Heads,
        _mask: &Mask,
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::Attention, &at, *q)
    }

    fn layer_norm(&self, x: &[usize; 3], _: Option<&Affine>, _eps: f64, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::LayerNorm, &at, *x)
    }

    fn rms_norm(&self, x: &[usize; 3], _weight: &Weight, _eps: f64, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::RmsNorm, &at, *x)
    }

    fn rotary(&self, x: &[usize; 3], _head_dim: usize, _theta: f64, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Rotary, &at, *x)
    }

    fn modulate(
        &self,
        x: &[usize; 3],
        _scale: &[usize; 3],
        _shift: &[usize; 3],
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::Modulate, &at, *x)
    }

    fn activation(&self, x: &[usize; 3], _kind: Activation, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Activation, &at, *x)
    }

    fn add(&self, a: &[usize; 3], _b: &[usize; 3], at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Add, &at, *a)
    }

    fn multiply(&self, a: &[usize; 3], _b: &[usize; 3], at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Multiply, &at, *a)
    }

    fn euler(&self, actions: &[usize; 3], _velocity: &[usize; 3], _dt: f64, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Euler, &at, *actions)
    }

    fn slice_features(&self, x: &[usize; 3], _start: usize, len: usize) -> Result<[usize; 3]> {
        Ok([x[0], x[1], len])
    }

    fn select_tokens(&self, x: &[usize; 3], tokens: &Tokens) -> Result<[usize; 3]> {
        Ok([x[0], tokens.indices.len(), x[2]])
    }

    fn last_tokens(&self, x: &[usize; 3], count: usize) -> Result<[usize; 3]> {
        Ok([x[0], count, x[2]])
    }

    fn replace_tokens(&self, x: &[usize; 3], _: &Tokens, _values: &[usize; 3]) -> Result<[usize; 3]> {
        Ok(*x)
    }

    fn concat_tokens(&self, a: &[usize; 3], b: &[usize; 3]) -> Result<[usize; 3]> {
        Ok([a[0], a[1] + b[1], a[2]])
    }

    fn concat_features(&self, a: &[usize; 3], b: &[usize; 3]) -> Result<[usize; 3]> {
        Ok([a[0], a[1], a[2] + b[2]])
    }

    fn pixel_unshuffle(&self, x: &[usize; 3], _grids: &[Grid], factor: usize) -> Result<[usize; 3]> {
        Ok([x[0], x[1] / (factor * factor), x[2] * factor * factor])
    }
}
