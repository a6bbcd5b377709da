//! The operations recorded as an ONNX graph: the export is the model itself, run once over this
//! implementation.
//!
//! The graph is strongly typed: every value has the format that the precision policy gives its site, and
//! every rounding is a Cast. The batch, and the prompt's length, stay open; image sizes, the state horizon
//! and the number of Euler steps are those of the batch that is recorded.

mod attention;
mod data;
mod graph;
mod proto;
mod scope;
mod write;

pub use write::{Metadata, Written};

use super::cpu::{resize_positions, time_encoding};
use super::{
    Activation, Affine, CategoryLinear, Grid, Heads, Leading, Linear, Mask, Ops, Part, Site, Tokens,
};
use crate::checkpoint::Weight;
use crate::model::ImageBatch;
use crate::precision::{Formats, PrecisionPolicy};
use crate::{Error, Result};
use attention::Hidden;
use data::element_type;
use graph::{Attribute, Dim, Graph};
use proto::data_type;
use scope::Scope;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use steadyhand_fidelity::Format;

/// The opsets that a graph can be recorded in: from reductions that take their axes as an input on.
pub const OPSETS: std::ops::RangeInclusive<i64> = 18..=23;
/// The first opset with Gelu.
const GELU_OPSET: i64 = 20;

/// How matrix products are recorded where operands are narrower than the accumulation format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// MatMul of the compute format, which rounds its result to that format: what accelerators run fast.
    Native,
    /// MatMul of the accumulation format on operands rounded to the compute format: the reference's numbers,
    /// and the only form that ONNX Runtime's CPU provider has kernels for.
    Widened,
}

/// Names and types of a graph's inputs and outputs.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// Names other than the sites' own.
    pub names: BTreeMap<&'static str, &'static str>,
    /// Names of the open dimensions of tokens, by input.
    pub open_tokens: BTreeMap<&'static str, &'static str>,
    /// Name of the batch dimension.
    pub batch: &'static str,
    /// Whether float inputs and outputs have their site's storage format; f32 otherwise.
    pub stored_formats: bool,
}

/// A recorded value.
#[derive(Debug, Clone)]
pub struct Value {
    name: Rc<str>,
    /// As in the batch that is recorded; only the features are the same in every run.
    shape: [usize; 3],
    format: Format,
    /// Which of its tokens may be seen, a bool `[batch, tokens]`.
    seen: Option<Rc<str>>,
}

/// Parts of the prompt as bool `[batch, tokens]`.
#[derive(Debug, Clone)]
struct Prompt {
    images: Rc<str>,
    text: Rc<str>,
}

/// Records operations; [`Recorder::write`] ends it.
#[derive(Debug)]
pub struct Recorder<'a> {
    policy: &'a PrecisionPolicy,
    products: Products,
    opset: i64,
    image_token: u32,
    interface: Interface,
    graph: RefCell<Graph>,
    embodiments: RefCell<Option<Rc<str>>>,
    prompt: RefCell<Option<Prompt>>,
    /// `[tokens]`, int64: 0, 1, 2, … over the prompt.
    positions: RefCell<Option<Rc<str>>>,
    /// `[1, 1, tokens, tokens]`, bool.
    causal: RefCell<Option<Rc<str>>>,
    time: RefCell<Option<Rc<str>>>,
}

fn mismatch(at: &Site, operation: &'static str, what: String) -> Error {
    Error::Shape { site: at.to_string(), operation, what }
}

/// Whether casts can follow the policy.
fn check(policy: &PrecisionPolicy) -> Result<()> {
    let refuse = |found: String| {
        let what = format!("expected f32, bf16 and fp16, accumulated in f32, found {found}");
        Err(Error::input("precision", what))
    };
    if policy.is_stochastic() {
        return refuse("stochastic rounding".to_owned());
    }
    for formats in policy.all_formats() {
        let known = [Format::F32, Format::Bf16, Format::Fp16];
        let castable = known.contains(&formats.storage) && known.contains(&formats.compute);
        if !castable || formats.accumulate != Format::F32 {
            let Formats { storage, compute, accumulate } = formats;
            return refuse(format!("{storage}, {compute}, accumulated in {accumulate}"));
        }
    }
    Ok(())
}

impl<'a> Recorder<'a> {
    /// An empty graph. `image_token` is the token id that stands for an image feature.
    ///
    /// # Errors
    /// An opset outside [`OPSETS`]; a policy with formats that a graph of standard operations cannot follow.
    pub fn new(
        policy: &'a PrecisionPolicy,
        products: Products,
        opset: i64,
        image_token: u32,
        interface: Interface,
    ) -> Result<Self> {
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            return Err(Error::input("opset", format!("expected {first} to {last}, found {opset}")));
        }
        check(policy)?;
        Ok(Recorder {
            policy,
            products,
            opset,
            image_token,
            interface,
            graph: RefCell::default(),
            embodiments: RefCell::default(),
            prompt: RefCell::default(),
            positions: RefCell::default(),
            causal: RefCell::default(),
            time: RefCell::default(),
        })
    }

    fn scope(&self, at: &Site) -> Scope<'_> {
        Scope {
            graph: self.graph.borrow_mut(),
            site: at.to_string(),
            formats: self.policy.formats(at),
            products: self.products,
        }
    }

    fn named(&self, name: &str) -> String {
        self.interface.names.get(name).map_or(name, |name| *name).to_owned()
    }

    fn batch_dim(&self) -> Dim {
        Dim::Named(self.interface.batch.to_owned())
    }

    fn token_dim(&self, name: &str, fixed: usize) -> Dim {
        let open = self.interface.open_tokens.get(name);
        open.map_or(Dim::Fixed(fixed), |open| Dim::Named((*open).to_owned()))
    }

    /// Makes the time a graph input, `timestep: [batch]`, int64. Otherwise times are constants.
    pub fn time_input(&self) {
        let name = self.named("timestep");
        let input = self.graph.borrow_mut().input(&name, data_type::INT64, &[self.batch_dim()]);
        self.time.replace(Some(Rc::from(input)));
    }

    /// Makes the prompt's parts graph inputs, `image_mask` and `backbone_attention_mask: [batch, tokens]`,
    /// bool: text is what is not an image and not masked. Otherwise they come from the token ids. The result
    /// is `features: [batch, tokens, features]`, whose masked tokens no query sees.
    pub fn prompt_input(&self, features: &Value) -> Value {
        let mut graph = self.graph.borrow_mut();
        let mut input = |name: &str| {
            let dims = [self.batch_dim(), self.token_dim(name, features.shape[1])];
            graph.input(&self.named(name), data_type::BOOL, &dims)
        };
        let [images, seen] = [input("image_mask"), input("backbone_attention_mask")];
        let text = graph.node("prompt", "Not", &[&images], &[]);
        let images = graph.node("prompt.images", "And", &[&images, &seen], &[]);
        let text = graph.node("prompt.text", "And", &[&text, &seen], &[]);
        self.prompt.replace(Some(Prompt { images: Rc::from(images), text: Rc::from(text) }));
        Value { seen: Some(Rc::from(seen)), ..features.clone() }
    }

    /// Makes a recorded value the output `name`.
    pub fn output(&self, x: &Value, name: &str) {
        let format = if self.interface.stored_formats { x.format } else { Format::F32 };
        let dims = [self.batch_dim(), self.token_dim(name, x.shape[1]), Dim::Fixed(x.shape[2])];
        let mut graph = self.graph.borrow_mut();
        let value = graph.cast(&x.name, x.format, format);
        graph.output(&value, &self.named(name), element_type(format), &dims);
    }

    /// Makes a part of the recorded prompt the output `name: [batch, tokens]`, bool.
    ///
    /// # Errors
    /// No prompt was recorded.
    pub fn output_part(&self, part: Part, name: &str) -> Result<()> {
        let mask = self.prompt_part(part)?;
        let dims = [self.batch_dim(), self.token_dim(name, 0)];
        self.graph.borrow_mut().output(&mask, name, data_type::BOOL, &dims);
        Ok(())
    }

    fn prompt_part(&self, part: Part) -> Result<Rc<str>> {
        let prompt = self.prompt.borrow();
        match (&*prompt, part) {
            (Some(prompt), Part::Images) => Ok(Rc::clone(&prompt.images)),
            (Some(prompt), Part::Text) => Ok(Rc::clone(&prompt.text)),
            (None, _) => {
                Err(Error::input("input_ids", "no prompt was recorded before its parts were asked for"))
            }
        }
    }

    fn prompt_positions(&self, at: &Site) -> Result<Rc<str>> {
        let positions = self.positions.borrow().clone();
        positions.ok_or_else(|| mismatch(at, "positions", "no prompt was embedded".to_owned()))
    }

    fn causal(&self, at: &Site) -> Result<Rc<str>> {
        if let Some(mask) = &*self.causal.borrow() {
            return Ok(Rc::clone(mask));
        }
        let positions = self.prompt_positions(at)?;
        let mut graph = self.graph.borrow_mut();
        let axes = [graph.integers(&[0, 1, 3]), graph.integers(&[0, 1, 2])];
        let [queries, keys] = axes.map(|axes| graph.node("causal", "Unsqueeze", &[&positions, &axes], &[]));
        let mask = graph.node("causal", "GreaterOrEqual", &[&queries, &keys], &[]);
        Ok(Rc::clone(self.causal.borrow_mut().insert(Rc::from(mask))))
    }

    /// The ids that choose category-specific weights, `embodiment_id: [batch]`, int64.
    fn embodiments(&self) -> Rc<str> {
        let mut input = self.embodiments.borrow_mut();
        let declared = || {
            let name = self.named("embodiment_id");
            Rc::from(self.graph.borrow_mut().input(&name, data_type::INT64, &[self.batch_dim()]))
        };
        Rc::clone(input.get_or_insert_with(declared))
    }

    /// Joins two values along an axis, in the wider of their formats.
    fn join(&self, [a, b]: [&Value; 2], axis: i64, shape: [usize; 3], at: &Site) -> Value {
        let format = if a.format.contains(b.format) { a.format } else { Format::F32 };
        let mut scope = self.scope(at);
        let [left, right] = [a, b].map(|x| scope.graph.cast(&x.name, x.format, format));
        let name = scope.concat(&[&left, &right], axis);
        Value { name: Rc::from(name), shape, format, seen: None }
    }

    fn binary(&self, op: &'static str, a: &Value, b: &Value, at: &Site) -> Result<Value> {
        if a.shape[2] != b.shape[2] {
            return Err(mismatch(at, op, format!("{:?} and {:?}", a.shape, b.shape)));
        }
        let mut scope = self.scope(at);
        let [left, right] = [a, b].map(|x| scope.wide(x));
        let result = scope.op(op, &[&left, &right]);
        Ok(scope.store(result, a.shape))
    }
}

impl Ops for Recorder<'_> {
    type Tensor = Value;

    fn shape(&self, x: &Value) -> [usize; 3] {
        x.shape
    }

    fn input(&self, _values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<Value> {
        let name = at.path().rsplit('.').next().unwrap_or_default();
        let storage = self.policy.formats(&at).storage;
        let declared = if self.interface.stored_formats { storage } else { Format::F32 };
        let dims = [self.batch_dim(), self.token_dim(name, shape[1]), Dim::Fixed(shape[2])];
        let mut graph = self.graph.borrow_mut();
        let input = graph.input(&self.named(name), element_type(declared), &dims);
        let stored = graph.cast(&input, declared, storage);
        Ok(Value { name: Rc::from(stored), shape, format: storage, seen: None })
    }

    fn patches(&self, images: &[ImageBatch], size: usize, batch: usize, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let storage = scope.formats.storage;
        let declared = if self.interface.stored_formats { storage } else { Format::F32 };
        let features = size * size * 3;
        let mut parts = Vec::with_capacity(images.len());
        for (index, image) in images.iter().enumerate() {
            let name = self.named(&format!("pixel_values.{index}"));
            let dims = [self.batch_dim(), Dim::Fixed(3), Dim::Fixed(image.height), Dim::Fixed(image.width)];
            let pixels = scope.graph.input(&name, element_type(declared), &dims);
            let pixels = scope.graph.cast(&pixels, declared, storage);
            let [rows, cols, side] = [image.height / size, image.width / size, size].map(|n| n as i64);
            // [batch, channel, row, y, column, x] → [batch, row, column, y, x, channel]
            let split = scope.reshape(&pixels, &[0, 3, rows, side, cols, side]);
            let ordered = scope.transpose(&split, &[0, 2, 4, 3, 5, 1]);
            parts.push(scope.reshape(&ordered, &[0, rows * cols, features as i64]));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let patches = scope.concat(&parts, 1);
        let name = scope.graph.name_result(patches, &at.to_string());
        let count = images.iter().map(|image| image.height / size * (image.width / size)).sum();
        Ok(Value { name: Rc::from(name), shape: [batch, count, features], format: storage, seen: None })
    }

    fn time_encoding(&self, time: usize, frequencies: &[f32], leading: Leading, at: Site) -> Result<Value> {
        let count = frequencies.len();
        let shape = [1, 1, 2 * count];
        let input = self.time.borrow().clone();
        let mut scope = self.scope(&at);
        let storage = scope.formats.storage;
        let Some(input) = input else {
            let values = time_encoding(time, frequencies, leading, Format::F32);
            let name = scope.graph.constant(&shape, &values, storage);
            return Ok(Value { name: Rc::from(name), shape, format: storage, seen: None });
        };
        // In f32 whatever the policy says: an angle of 999 has no use for fewer digits.
        let time = scope.graph.cast_to(&input, data_type::FLOAT);
        let time = scope.unsqueeze(&time, &[1, 2]);
        let frequencies = scope.graph.constant(&[1, 1, count], frequencies, Format::F32);
        let angles = scope.op("Mul", &[&time, &frequencies]);
        let [sines, cosines] = ["Sin", "Cos"].map(|op| scope.op(op, &[&angles]));
        let waves = match leading {
            Leading::Sines => scope.concat(&[&sines, &cosines], 2),
            Leading::Cosines => scope.concat(&[&cosines, &sines], 2),
        };
        let wide = scope.formats.accumulate;
        let waves = scope.graph.cast(&waves, Format::F32, wide);
        Ok(scope.store(waves, shape))
    }

    /// Values have their names in the graph already.
    fn tap(&self, _x: &Value, _at: Site) {}

    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<Value> {
        let tokens = ids.first().map_or(0, Vec::len);
        let mut scope = self.scope(&at);
        let dims = [self.batch_dim(), self.token_dim("input_ids", tokens)];
        let input = scope.graph.input(&self.named("input_ids"), data_type::INT64, &dims);
        let image = scope.graph.integer(i64::from(self.image_token));
        let images = scope.graph.node("prompt.images", "Equal", &[&input, &image], &[]);
        let text = scope.graph.node("prompt.text", "Not", &[&images], &[]);
        let length = scope.graph.node("prompt", "Shape", &[&input], &[Attribute::Int("start", 1)]);
        let axis = scope.graph.integers(&[0]);
        let length = scope.graph.node("prompt", "Squeeze", &[&length, &axis], &[]);
        let [first, step] = [0, 1].map(|number| scope.graph.integer(number));
        let positions = scope.graph.node("prompt.positions", "Range", &[&first, &length, &step], &[]);
        self.prompt.replace(Some(Prompt { images: Rc::from(images), text: Rc::from(text) }));
        self.positions.replace(Some(Rc::from(positions)));
        let storage = scope.formats.storage;
        let rows = scope.rows(table, &input, storage);
        let name = scope.graph.name_result(rows, &at.to_string());
        let shape = [ids.len(), tokens, table.shape()[1]];
        Ok(Value { name: Rc::from(name), shape, format: storage, seen: None })
    }

    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<Value> {
        let (rows, features) = (table.shape()[0], table.shape()[1]);
        if tokens > rows {
            return Err(mismatch(&at, "table_rows", format!("{tokens} rows of a table of {rows}")));
        }
        let mut scope = self.scope(&at);
        let table = scope.stored_weight(table);
        let first = scope.slice(&table, 0, 0, tokens as i64);
        let first = scope.unsqueeze(&first, &[0]);
        Ok(scope.store(first, [1, tokens, features]))
    }

    fn resize_positions(&self, table: &Weight, grids: &[Grid], at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let storage = scope.formats.storage;
        let values = resize_positions(table, grids, storage);
        let shape = [1, values.len() / table.shape()[1], table.shape()[1]];
        let name = scope.graph.constant(&shape, &values, storage);
        Ok(Value { name: Rc::from(name), shape, format: storage, seen: None })
    }

    fn linear(&self, x: &Value, layer: &Linear, at: Site) -> Result<Value> {
        let (out_features, in_features) = (layer.weight.shape()[0], layer.weight.shape()[1]);
        if x.shape[2] != in_features {
            return Err(mismatch(&at, "linear", format!("{:?} by {:?}", x.shape, layer.weight.shape())));
        }
        let mut scope = self.scope(&at);
        let operand = scope.operand(&x.name, x.format);
        let weight = scope.matrix(&layer.weight);
        let mut result = scope.product(&operand, &weight);
        if let Some(bias) = &layer.bias {
            let bias = scope.stored_weight(bias);
            result = scope.op("Add", &[&result, &bias]);
        }
        let result = scope.store(result, [x.shape[0], x.shape[1], out_features]);
        // A token keeps its place, and with it whether it may be seen.
        Ok(Value { seen: x.seen.clone(), ..result })
    }

    fn category_linear(
        &self,
        x: &Value,
        layer: &CategoryLinear,
        _embodiments: &[usize],
        at: Site,
    ) -> Result<Value> {
        let [_, in_features, out_features] = *layer.weight.shape() else {
            return Err(mismatch(&at, "category_linear", format!("weight {:?}", layer.weight.shape())));
        };
        if x.shape[2] != in_features {
            let what = format!("{:?} by {:?}", x.shape, layer.weight.shape());
            return Err(mismatch(&at, "category_linear", what));
        }
        let ids = self.embodiments();
        let mut scope = self.scope(&at);
        let formats = scope.formats;
        let weight = scope.rows(&layer.weight, &ids, formats.compute);
        let weight = scope.operand(&weight, formats.compute);
        let operand = scope.operand(&x.name, x.format);
        let product = scope.product(&operand, &weight);
        let product = scope.round(product);
        let bias = scope.rows(&layer.bias, &ids, formats.storage);
        let bias = scope.graph.cast(&bias, formats.storage, formats.accumulate);
        let bias = scope.unsqueeze(&bias, &[1]);
        let sum = scope.op("Add", &[&product, &bias]);
        Ok(scope.store(sum, [x.shape[0], x.shape[1], out_features]))
    }

    fn attention(
        &self,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: Heads,
        mask: &Mask,
        at: Site,
    ) -> Result<Value> {
        let widths = [heads.heads, heads.kv_heads, heads.kv_heads].map(|heads_| heads_ * heads.head_dim);
        if [q, k, v].map(|x| x.shape[2]) != widths || !heads.heads.is_multiple_of(heads.kv_heads.max(1)) {
            let what = format!("q {:?}, k {:?}, v {:?}, {heads:?}", q.shape, k.shape, v.shape);
            return Err(mismatch(&at, "attention", what));
        }
        let causal = (*mask == Mask::Causal).then(|| self.causal(&at)).transpose()?;
        let mut scope = self.scope(&at);
        let keys = k.seen.as_ref().map(|seen| scope.unsqueeze(seen, &[1, 2]));
        let hidden = Hidden { causal: causal.as_deref(), keys: keys.as_deref() };
        Ok(attention::attend(&mut scope, [q, k, v], heads, mask, &hidden))
    }

    fn layer_norm(&self, x: &Value, affine: Option<&Affine>, eps: f64, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let wide = scope.wide(x);
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", eps as f32)];
        let normalized = match affine {
            Some(affine) => {
                let weight = scope.stored_weight(&affine.weight);
                let bias = scope.stored_weight(&affine.bias);
                scope.op_with("LayerNormalization", &[&wide, &weight, &bias], &attributes)
            }
            None => {
                let ones = scope.stored_numbers(&[x.shape[2]], vec![1.0; x.shape[2]]);
                scope.op_with("LayerNormalization", &[&wide, &ones], &attributes)
            }
        };
        Ok(Value { seen: x.seen.clone(), ..scope.store(normalized, x.shape) })
    }

    fn rms_norm(&self, x: &Value, weight: &Weight, eps: f64, at: Site) -> Result<Value> {
        let (features, run) = (x.shape[2], weight.len());
        if run == 0 || !features.is_multiple_of(run) {
            return Err(mismatch(&at, "rms_norm", format!("{:?} by {:?}", x.shape, weight.shape())));
        }
        let mut scope = self.scope(&at);
        let mut wide = scope.wide(x);
        if run != features {
            wide = scope.reshape(&wide, &[0, 0, (features / run) as i64, run as i64]);
        }
        let squares = scope.op("Mul", &[&wide, &wide]);
        let axis = scope.graph.integers(&[-1]);
        let mean = scope.op("ReduceMean", &[&squares, &axis]);
        let eps = scope.number(eps as f32);
        let mean = scope.op("Add", &[&mean, &eps]);
        let root = scope.op("Sqrt", &[&mean]);
        let normalized = scope.op("Div", &[&wide, &root]);
        let normalized = scope.round(normalized);
        let weight = scope.stored_weight(weight);
        let mut result = scope.op("Mul", &[&normalized, &weight]);
        if run != features {
            result = scope.reshape(&result, &[0, 0, features as i64]);
        }
        Ok(scope.store(result, x.shape))
    }

    fn rotary(&self, x: &Value, head_dim: usize, theta: f64, at: Site) -> Result<Value> {
        if head_dim == 0 || !x.shape[2].is_multiple_of(head_dim) || !head_dim.is_multiple_of(2) {
            return Err(mismatch(&at, "rotary", format!("{:?} by heads of {head_dim}", x.shape)));
        }
        let positions = self.prompt_positions(&at)?;
        let mut scope = self.scope(&at);
        let element = element_type(scope.formats.accumulate);
        let positions = scope.graph.cast_to(&positions, element);
        Ok(attention::rotary(&mut scope, x, head_dim, theta, &positions))
    }

    fn modulate(&self, x: &Value, scale: &Value, shift: &Value, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let [wide, scale, shift] = [x, scale, shift].map(|x| scope.wide(x));
        let one = scope.number(1.0);
        let factor = scope.op("Add", &[&scale, &one]);
        let factor = scope.round(factor);
        let scaled = scope.op("Mul", &[&wide, &factor]);
        let scaled = scope.round(scaled);
        let shifted = scope.op("Add", &[&scaled, &shift]);
        Ok(scope.store(shifted, x.shape))
    }

    fn activation(&self, x: &Value, kind: Activation, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let wide = scope.wide(x);
        let result = match kind {
            Activation::Gelu if self.opset >= GELU_OPSET => {
                scope.op_with("Gelu", &[&wide], &[Attribute::Text("approximate", "none")])
            }
            Activation::GeluTanh if self.opset >= GELU_OPSET => {
                scope.op_with("Gelu", &[&wide], &[Attribute::Text("approximate", "tanh")])
            }
            Activation::Gelu => {
                let factor = scope.number(std::f32::consts::FRAC_1_SQRT_2);
                let inner = scope.op("Mul", &[&wide, &factor]);
                let inner = scope.op("Erf", &[&inner]);
                half_times_one_plus(&mut scope, &wide, &inner)
            }
            Activation::GeluTanh => {
                let [square, beta] = [0.044_715, 0.797_884_6].map(|number| scope.number(number));
                let cube = scope.op("Mul", &[&wide, &wide]);
                let cube = scope.op("Mul", &[&cube, &wide]);
                let cube = scope.op("Mul", &[&cube, &square]);
                let inner = scope.op("Add", &[&wide, &cube]);
                let inner = scope.op("Mul", &[&inner, &beta]);
                let inner = scope.op("Tanh", &[&inner]);
                half_times_one_plus(&mut scope, &wide, &inner)
            }
            Activation::Silu | Activation::Swish => {
                let mut sigmoid = scope.op("Sigmoid", &[&wide]);
                if kind == Activation::Swish {
                    sigmoid = scope.round(sigmoid);
                }
                scope.op("Mul", &[&wide, &sigmoid])
            }
            Activation::Relu => scope.op("Relu", &[&wide]),
        };
        Ok(scope.store(result, x.shape))
    }

    fn add(&self, a: &Value, b: &Value, at: Site) -> Result<Value> {
        self.binary("Add", a, b, &at)
    }

    fn multiply(&self, a: &Value, b: &Value, at: Site) -> Result<Value> {
        self.binary("Mul", a, b, &at)
    }

    fn euler(&self, actions: &Value, velocity: &Value, dt: f64, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let [from, velocity] = [actions, velocity].map(|x| scope.wide(x));
        let dt = scope.number(dt as f32);
        let step = scope.op("Mul", &[&velocity, &dt]);
        let step = scope.round(step);
        let sum = scope.op("Add", &[&from, &step]);
        Ok(scope.store(sum, actions.shape))
    }

    fn slice_features(&self, x: &Value, start: usize, len: usize) -> Result<Value> {
        let mut scope = self.scope(&Site::new("layout"));
        let name = scope.slice(&x.name, 2, start as i64, (start + len) as i64);
        Ok(Value { name: Rc::from(name), shape: [x.shape[0], x.shape[1], len], ..x.clone() })
    }

    /// All tokens, and the mask by which attention leaves the others out: their number may differ in a batch.
    fn select_tokens(&self, x: &Value, tokens: &Tokens) -> Result<Value> {
        Ok(Value { seen: Some(self.prompt_part(tokens.part)?), ..x.clone() })
    }

    fn last_tokens(&self, x: &Value, count: usize) -> Result<Value> {
        let mut scope = self.scope(&Site::new("layout"));
        let name = scope.slice(&x.name, 1, -(count as i64), i64::MAX);
        Ok(Value { name: Rc::from(name), shape: [x.shape[0], count, x.shape[2]], ..x.clone() })
    }

    fn replace_tokens(&self, x: &Value, tokens: &Tokens, values: &Value) -> Result<Value> {
        let mask = self.prompt_part(tokens.part)?;
        let format = if x.format.contains(values.format) { x.format } else { Format::F32 };
        let mut scope = self.scope(&Site::new("layout.replace_tokens"));
        // The how-manieth image token a token is, counted from 0; before the first it is -1, which is valid.
        let ones = scope.graph.cast_to(&mask, data_type::INT64);
        let [axis, one] = [1, 1].map(|number| scope.graph.integer(number));
        let count = scope.op("CumSum", &[&ones, &axis]);
        let index = scope.op("Sub", &[&count, &one]);
        let index = scope.unsqueeze(&index, &[2]);
        // In f32: runtimes lack Where for narrower formats.
        let [kept, values] = [x, values].map(|x| scope.graph.cast(&x.name, x.format, Format::F32));
        let placed = scope.op_with("GatherND", &[&values, &index], &[Attribute::Int("batch_dims", 1)]);
        let mask = scope.unsqueeze(&mask, &[2]);
        let replaced = scope.op("Where", &[&mask, &placed, &kept]);
        let name = scope.graph.cast(&replaced, Format::F32, format);
        Ok(Value { name: Rc::from(name), shape: x.shape, format, seen: None })
    }

    fn concat_tokens(&self, a: &Value, b: &Value) -> Result<Value> {
        let at = Site::new("layout.concat_tokens");
        if a.shape[2] != b.shape[2] {
            return Err(mismatch(&at, "concat_tokens", format!("{:?} and {:?}", a.shape, b.shape)));
        }
        Ok(self.join([a, b], 1, [a.shape[0], a.shape[1] + b.shape[1], a.shape[2]], &at))
    }

    fn concat_features(&self, a: &Value, b: &Value) -> Result<Value> {
        let at = Site::new("layout.concat_features");
        let repeated = {
            let mut scope = self.scope(&at);
            let tokens = scope.op_with("Shape", &[&a.name], &[Attribute::Int("end", 2)]);
            let features = scope.graph.integers(&[b.shape[2] as i64]);
            let shape = scope.concat(&[&tokens, &features], 0);
            // In f32: runtimes lack Expand for narrower formats.
            let wide = scope.graph.cast(&b.name, b.format, Format::F32);
            let repeated = scope.op("Expand", &[&wide, &shape]);
            scope.graph.cast(&repeated, Format::F32, b.format)
        };
        let b = Value { name: Rc::from(repeated), ..b.clone() };
        Ok(self.join([a, &b], 2, [a.shape[0], a.shape[1], a.shape[2] + b.shape[2]], &at))
    }

    fn pixel_unshuffle(&self, x: &Value, grids: &[Grid], factor: usize) -> Result<Value> {
        let features = x.shape[2] * factor * factor;
        let mut scope = self.scope(&Site::new("layout.pixel_unshuffle"));
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
        Ok(Value {
            name: Rc::from(name),
            shape: [x.shape[0], tokens, features],
            format: x.format,
            seen: None,
        })
    }
}

/// `x / 2 * (1 + inner)`: a GELU before its opset.
fn half_times_one_plus(scope: &mut Scope, x: &str, inner: &str) -> String {
    let [one, half] = [1.0, 0.5].map(|number| scope.number(number));
    let sum = scope.op("Add", &[inner, &one]);
    let product = scope.op("Mul", &[x, &sum]);
    scope.op("Mul", &[&product, &half])
}
