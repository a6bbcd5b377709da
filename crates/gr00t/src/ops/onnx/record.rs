//! [`Ops`] recorded: each operation's nodes, in the formats of its site.

use super::super::cpu::{resize_positions, rotary_turns, time_encoding};
use super::super::{
    Activation, Affine, CategoryLinear, Grid, Heads, Leading, Linear, Mask, Ops, Patching, Places, Resize,
    Rotary, Site, Tokens,
};
use super::attention::{self, Hidden};
use super::data::element_type;
use super::graph::{Attribute, Dim};
use super::proto::data_type;
use super::{Prompt, Recorder, Value, layout, mismatch, pointwise};
use crate::Result;
use crate::checkpoint::Weight;
use crate::ops::ImageBatch;
use std::rc::Rc;
use steadyhand_fidelity::Format;

impl Ops for Recorder<'_> {
    type Tensor = Value;

    fn shape(&self, x: &Value) -> [usize; 3] {
        x.shape
    }

    fn input(&self, _values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<Value> {
        let name = at.path().rsplit('.').next().unwrap_or_default();
        Ok(self.float_input(name, shape, &at))
    }

    fn patches(
        &self,
        images: &[ImageBatch],
        grids: &[Grid],
        patching: Patching,
        batch: usize,
        at: Site,
    ) -> Result<Value> {
        let mut scope = self.scope(&at);
        let storage = scope.formats.storage;
        let declared = if self.interface.stored_formats { storage } else { Format::F32 };
        let mut parts = Vec::with_capacity(images.len());
        for (index, (image, grid)) in images.iter().zip(grids).enumerate() {
            let name = self.named(&format!("pixel_values.{index}"));
            let dims = [self.batch_dim(), Dim::Fixed(3), Dim::Fixed(image.height), Dim::Fixed(image.width)];
            let pixels = scope.graph.input(&name, element_type(declared), &dims);
            let pixels = scope.graph.cast(&pixels, declared, storage);
            parts.push(layout::patches(&mut scope, &pixels, *grid, patching));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let patches = scope.concat(&parts, 1);
        let name = scope.graph.name_result(patches, &at.to_string());
        let shape = [batch, grids.iter().map(|grid| grid.patches()).sum(), patching.features()];
        Ok(Value { name: Rc::from(name), shape, format: storage, seen: None })
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
        let positions = layout::count_to(&mut scope.graph, &length);
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

    fn resize_positions(&self, table: &Weight, grids: &[Grid], resize: Resize, at: Site) -> Result<Value> {
        let mut scope = self.scope(&at);
        let storage = scope.formats.storage;
        let values = resize_positions(table, grids, resize, storage);
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
        let normalized = pointwise::layer_norm(&mut self.scope(&at), x, affine, eps, self.opset);
        Ok(Value { seen: x.seen.clone(), ..normalized })
    }

    fn rms_norm(&self, x: &Value, weight: &Weight, eps: f64, at: Site) -> Result<Value> {
        if weight.is_empty() || !x.shape[2].is_multiple_of(weight.len()) {
            return Err(mismatch(&at, "rms_norm", format!("{:?} by {:?}", x.shape, weight.shape())));
        }
        Ok(pointwise::rms_norm(&mut self.scope(&at), x, weight, eps, self.opset))
    }

    fn rotary(&self, x: &Value, rotary: &Rotary, places: &Places, at: Site) -> Result<Value> {
        let head_dim = rotary.head_dim;
        if head_dim == 0 || !x.shape[2].is_multiple_of(head_dim) || !head_dim.is_multiple_of(2) {
            return Err(mismatch(&at, "rotary", format!("{:?} by heads of {head_dim}", x.shape)));
        }
        // Where the prompt comes later, so do its tokens' places.
        let positions = match places {
            Places::Sequence => Some(self.prompt_positions(&at)?),
            Places::Prompt { grids, .. } => Some(self.prompt_places(grids, &at)?),
            Places::Patches(_) => None,
        };
        let mut scope = self.scope(&at);
        let element = element_type(scope.formats.accumulate);
        let turns = match (positions, places) {
            (Some(positions), Places::Prompt { .. }) => {
                let axes: Vec<i64> = rotary.axes.iter().map(|axis| *axis as i64).collect();
                let axes = scope.graph.integers(&axes);
                let places = scope.op_with("Gather", &[&positions, &axes], &[Attribute::Int("axis", 2)]);
                let places = scope.graph.cast_to(&places, element);
                let places = scope.unsqueeze(&places, &[2]);
                attention::turns(&mut scope, rotary, &places)
            }
            (Some(positions), _) => {
                let positions = scope.graph.cast_to(&positions, element);
                attention::turns_in_sequence(&mut scope, rotary, &positions)
            }
            (None, _) => {
                let places = places.coordinates(x.shape[1]);
                let turns = rotary_turns(rotary, &places, scope.formats.storage);
                attention::constant_turns(&mut scope, &turns, head_dim)
            }
        };
        Ok(attention::rotary(&mut scope, x, rotary, &turns))
    }

    fn modulate(&self, x: &Value, scale: &Value, shift: &Value, at: Site) -> Result<Value> {
        Ok(pointwise::modulate(&mut self.scope(&at), [x, scale, shift]))
    }

    fn activation(&self, x: &Value, kind: Activation, at: Site) -> Result<Value> {
        Ok(pointwise::activation(&mut self.scope(&at), x, kind, self.opset))
    }

    fn add(&self, a: &Value, b: &Value, at: Site) -> Result<Value> {
        self.binary("Add", a, b, &at)
    }

    fn multiply(&self, a: &Value, b: &Value, at: Site) -> Result<Value> {
        self.binary("Mul", a, b, &at)
    }

    fn add_to_tokens(&self, x: &Value, tokens: &Tokens, values: &Value, at: Site) -> Result<Value> {
        let mask = self.prompt_part(tokens.part)?;
        if x.shape[2] != values.shape[2] {
            return Err(mismatch(&at, "add_to_tokens", format!("{:?} to {:?}", values.shape, x.shape)));
        }
        Ok(layout::add_to_tokens(&mut self.scope(&at), x, &mask, values))
    }

    fn euler(
        &self,
        actions: &Value,
        velocity: &Value,
        strength: Option<&Value>,
        dt: f64,
        at: Site,
    ) -> Result<Value> {
        let mut scope = self.scope(&at);
        let [from, velocity] = [actions, velocity].map(|x| scope.wide(x));
        let dt = scope.number(dt as f32);
        let step = scope.op("Mul", &[&velocity, &dt]);
        let mut step = scope.round(step);
        if let Some(strength) = strength {
            let strength = scope.wide(strength);
            let weighed = scope.op("Mul", &[&step, &strength]);
            step = scope.round(weighed);
        }
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
        let mut scope = self.scope(&Site::new("layout.replace_tokens"));
        Ok(layout::replace_tokens(&mut scope, x, &mask, values))
    }

    fn concat_tokens(&self, a: &Value, b: &Value) -> Result<Value> {
        let at = Site::new("layout.concat_tokens");
        if a.shape[2] != b.shape[2] {
            return Err(mismatch(&at, "concat_tokens", format!("{:?} and {:?}", a.shape, b.shape)));
        }
        let shape = [a.shape[0], a.shape[1] + b.shape[1], a.shape[2]];
        Ok(layout::join(&mut self.scope(&at), [a, b], 1, shape))
    }

    fn concat_features(&self, a: &Value, b: &Value) -> Result<Value> {
        let mut scope = self.scope(&Site::new("layout.concat_features"));
        let b = layout::repeat(&mut scope, b, a);
        let shape = [a.shape[0], a.shape[1], a.shape[2] + b.shape[2]];
        Ok(layout::join(&mut scope, [a, &b], 2, shape))
    }

    fn join_tokens(&self, x: &Value, count: usize) -> Result<Value> {
        let at = Site::new("layout.join_tokens");
        if count == 0 || !x.shape[1].is_multiple_of(count) {
            return Err(mismatch(&at, "join_tokens", format!("{count} each of {:?}", x.shape)));
        }
        Ok(layout::join_tokens(&mut self.scope(&at), x, count))
    }

    fn pixel_unshuffle(&self, x: &Value, grids: &[Grid], factor: usize) -> Result<Value> {
        let mut scope = self.scope(&Site::new("layout.pixel_unshuffle"));
        Ok(layout::pixel_unshuffle(&mut scope, x, grids, factor))
    }
}
