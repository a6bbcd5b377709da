//! Shape inference: what operations an inference performs, where, on which shapes, and what each reads and computes. It
//! is found by running the model's own code over operations that hand on shapes and take notes.

use super::{
    Activation, Affine, CategoryLinear, Grid, Heads, ImageBatch, Leading, Linear, Mask, Ops, Patching,
    Places, Resize, Rotary, Site, Tokens,
};
use crate::Result;
use crate::checkpoint::Weight;
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
    /// [`Ops::add`], [`Ops::add_to_tokens`].
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

/// What an operation has to read and compute, whoever does it.
///
/// Parameters are a weight's elements; a category-specific layer reads the slots of its batch, a table the rows it looks
/// up. One multiply-add is two floating-point operations. Norms, activations, additions and taps count none, so what
/// follows from these numbers is a lower bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Parameters that the checkpoint holds for it.
    pub parameters: u64,
    /// Parameters that it reads.
    pub read: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl Work {
    /// Reads all of these weights.
    fn reading<'w>(weights: impl IntoIterator<Item = &'w Weight>) -> Self {
        let parameters = weights.into_iter().map(|weight| weight.len() as u64).sum();
        Work { parameters, read: parameters, flops: 0 }
    }

    /// Looks up so many rows of a table.
    fn looking_up(table: &Weight, rows: usize) -> Self {
        let [height, width] = [0, 1].map(|axis| table.shape()[axis]);
        Work { parameters: table.len() as u64, read: (rows.min(height) * width) as u64, flops: 0 }
    }

    /// Multiplies `rows` rows of `inner` features to `outer` features each.
    fn multiplying(self, [rows, inner, outer]: [usize; 3]) -> Self {
        Work { flops: self.flops + 2 * (rows * inner * outer) as u64, ..self }
    }
}

/// An operation that an inference performs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Where it stands.
    pub site: Site,
    /// What it is.
    pub operation: Operation,
    /// `[batch, tokens, features]` of its result.
    pub shape: [usize; 3],
    /// What it reads and computes.
    pub work: Work,
}

/// Operations on shapes alone: no weight is read, nothing is computed; every operation is noted.
#[derive(Debug, Default)]
pub struct ShapeInference {
    visits: RefCell<Vec<Visit>>,
    /// The token whose embedding is replaced by image features, and therefore not looked up.
    placeholder: Option<u32>,
}

impl ShapeInference {
    /// Shape inference of prompts in which the token `placeholder` stands for image features.
    pub fn new(placeholder: u32) -> Self {
        ShapeInference { visits: RefCell::default(), placeholder: Some(placeholder) }
    }

    /// The operations, in the order of execution.
    pub fn visits(self) -> Vec<Visit> {
        self.visits.into_inner()
    }

    fn note(&self, operation: Operation, at: &Site, shape: [usize; 3], work: Work) -> Result<[usize; 3]> {
        self.visits.borrow_mut().push(Visit { site: at.clone(), operation, shape, work });
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
        self.note(Operation::Input, &at, shape, Work::default())
    }

    fn patches(
        &self,
        _images: &[ImageBatch],
        grids: &[Grid],
        patching: Patching,
        batch: usize,
        at: Site,
    ) -> Result<[usize; 3]> {
        let patches = grids.iter().map(|grid| grid.patches()).sum();
        self.note(Operation::Patches, &at, [batch, patches, patching.features()], Work::default())
    }

    fn time_encoding(&self, _time: usize, frequencies: &[f32], _: Leading, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::TimeEncoding, &at, [1, 1, 2 * frequencies.len()], Work::default())
    }

    /// A tap has no formats of its own.
    fn tap(&self, _x: &[usize; 3], _at: Site) {}

    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<[usize; 3]> {
        let tokens = ids.first().map_or(0, Vec::len);
        let looked_up = ids.iter().flatten().filter(|id| Some(**id) != self.placeholder).count();
        let work = Work::looking_up(table, looked_up);
        self.note(Operation::Embed, &at, [ids.len(), tokens, table.shape()[1]], work)
    }

    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<[usize; 3]> {
        let work = Work::looking_up(table, tokens);
        self.note(Operation::TableRows, &at, [1, tokens, table.shape()[1]], work)
    }

    fn resize_positions(&self, table: &Weight, grids: &[Grid], _: Resize, at: Site) -> Result<[usize; 3]> {
        let patches = grids.iter().map(|grid| grid.patches()).sum();
        self.note(Operation::ResizePositions, &at, [1, patches, table.shape()[1]], Work::reading([table]))
    }

    fn linear(&self, x: &[usize; 3], layer: &Linear, at: Site) -> Result<[usize; 3]> {
        let outer = layer.weight.shape()[0];
        let work = Work::reading([&layer.weight].into_iter().chain(&layer.bias));
        self.note(Operation::Linear, &at, [x[0], x[1], outer], work.multiplying([x[0] * x[1], x[2], outer]))
    }

    fn category_linear(
        &self,
        x: &[usize; 3],
        layer: &CategoryLinear,
        embodiments: &[usize],
        at: Site,
    ) -> Result<[usize; 3]> {
        let (slots, outer) = (layer.weight.shape()[0] as u64, layer.weight.shape()[2]);
        let all = Work::reading([&layer.weight, &layer.bias]);
        let used = embodiments.iter().collect::<BTreeSet<_>>().len() as u64;
        let work = Work { read: all.read / slots.max(1) * used, ..all };
        let work = work.multiplying([x[0] * x[1], x[2], outer]);
        self.note(Operation::CategoryLinear, &at, [x[0], x[1], outer], work)
    }

    fn attention(
        &self,
        q: &[usize; 3],
        k: &[usize; 3],
        _v: &[usize; 3],
        _heads: Heads,
        mask: &Mask,
        at: Site,
    ) -> Result<[usize; 3]> {
        // Pairs of a query and a key that it sees.
        let pairs = match mask {
            Mask::None => q[1] * k[1],
            Mask::Causal => q[1] * (q[1] + 1) / 2,
            Mask::Segments(lengths) => lengths.iter().map(|length| length * length).sum(),
        };
        // Scores, then the sums of values.
        let work = Work::default().multiplying([2 * q[0], pairs, q[2]]);
        self.note(Operation::Attention, &at, *q, work)
    }

    fn layer_norm(&self, x: &[usize; 3], affine: Option<&Affine>, _eps: f64, at: Site) -> Result<[usize; 3]> {
        let weights = affine.into_iter().flat_map(|affine| [&affine.weight, &affine.bias]);
        self.note(Operation::LayerNorm, &at, *x, Work::reading(weights))
    }

    fn rms_norm(&self, x: &[usize; 3], weight: &Weight, _eps: f64, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::RmsNorm, &at, *x, Work::reading([weight]))
    }

    fn rotary(&self, x: &[usize; 3], _: &Rotary, _: &Places, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Rotary, &at, *x, Work::default())
    }

    fn modulate(
        &self,
        x: &[usize; 3],
        _scale: &[usize; 3],
        _shift: &[usize; 3],
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::Modulate, &at, *x, Work::default())
    }

    fn activation(&self, x: &[usize; 3], _kind: Activation, at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Activation, &at, *x, Work::default())
    }

    fn add(&self, a: &[usize; 3], _b: &[usize; 3], at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Add, &at, *a, Work::default())
    }

    fn multiply(&self, a: &[usize; 3], _b: &[usize; 3], at: Site) -> Result<[usize; 3]> {
        self.note(Operation::Multiply, &at, *a, Work::default())
    }

    fn add_to_tokens(
        &self,
        x: &[usize; 3],
        _tokens: &Tokens,
        _values: &[usize; 3],
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::Add, &at, *x, Work::default())
    }

    fn euler(
        &self,
        actions: &[usize; 3],
        _velocity: &[usize; 3],
        _strength: Option<&[usize; 3]>,
        _dt: f64,
        at: Site,
    ) -> Result<[usize; 3]> {
        self.note(Operation::Euler, &at, *actions, Work::default())
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

    fn join_tokens(&self, x: &[usize; 3], count: usize) -> Result<[usize; 3]> {
        Ok([x[0], x[1] / count, x[2] * count])
    }

    fn pixel_unshuffle(&self, x: &[usize; 3], _grids: &[Grid], factor: usize) -> Result<[usize; 3]> {
        Ok([x[0], x[1] / (factor * factor), x[2] * factor * factor])
    }
}
