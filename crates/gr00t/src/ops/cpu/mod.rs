//! The operations computed on the CPU, at any number format: the reference that other engines are
//! measured against.
//!
//! Values are carried as f32 and rounded to the site's format wherever PyTorch would store a tensor of
//! that format, so bf16 results come from bf16 rounding on any machine. Results do not depend on the
//! number of threads: work is cut at fixed places and every sum is taken by one thread in one order.

mod attention;
mod fp16;
mod intervention;
mod layout;
mod matmul;
mod norm;
mod pointwise;
mod resize;
mod scaled;
mod tensor;

#[cfg(test)]
mod tests;

pub use intervention::{Intervention, NoIntervention, Product};
pub use pointwise::{rotary_turns, rotated, time_encoding};
pub use tensor::Tensor;

use super::{
    Activation, Affine, CategoryLinear, Grid, Heads, ImageBatch, Leading, Linear, Mask, Operation, Ops,
    Patching, Places, Resize, Rotary, Site, Tokens,
};
use crate::checkpoint::Weight;
use crate::precision::{ActivationFormat, ActivationScale, Formats, PrecisionPolicy, Scale};
use crate::probe::Probe;
use crate::{Error, Result};
use std::borrow::Cow;
use std::cell::RefCell;
use steadyhand_fidelity::Format;

/// One inference's worth of CPU operations: a precision policy and, perhaps, a probe.
pub struct Cpu<'a, 'p> {
    policy: &'a PrecisionPolicy,
    probe: Option<RefCell<&'p mut dyn Probe>>,
    intervention: &'a dyn Intervention,
}

impl<'a, 'p> Cpu<'a, 'p> {
    /// Operations that round as `policy` says and offer every result to `probe`.
    pub fn new(policy: &'a PrecisionPolicy, probe: Option<&'p mut dyn Probe>) -> Self {
        Cpu { policy, probe: probe.map(RefCell::new), intervention: &NoIntervention }
    }

    /// The same operations with `intervention` interfering.
    #[must_use]
    pub fn with_intervention(self, intervention: &'a dyn Intervention) -> Self {
        Cpu { intervention, ..self }
    }

    /// Rounds a result to the site's storage format, lets it be edited, offers it to the probe and wraps it up.
    fn store(&self, shape: [usize; 3], mut values: Vec<f32>, at: &Site) -> Tensor {
        self.policy.round_stored(&mut values, at);
        self.intervention.result(at, shape, &mut values);
        let tensor = Tensor::new(shape, values);
        self.offer(&tensor, at);
        tensor
    }

    /// The result at a site that need not be computed.
    fn known(&self, at: &Site) -> Option<Tensor> {
        let known = self.intervention.known(at)?;
        self.offer(&known, at);
        Some(known)
    }

    fn offer(&self, x: &Tensor, at: &Site) {
        if let Some(probe) = &self.probe {
            probe.borrow_mut().tap(&at.to_string(), &x.shape, &x.values);
        }
    }

    /// The tensor's values as operands of a matrix product in format `compute`.
    fn operand<'t>(&self, x: &'t Tensor, compute: Format) -> Cow<'t, [f32]> {
        if compute == Format::F32 {
            return Cow::Borrowed(&x.values);
        }
        let mut values = x.values.to_vec();
        compute.round_slice(&mut values);
        Cow::Owned(values)
    }

    /// The tensor's values as quantized activations. An observation of a batch has its own scales: its result must not
    /// depend on the others.
    fn quantized(&self, x: &Tensor, format: ActivationFormat, at: &Site) -> Result<Vec<f32>> {
        let scale = match format.per_token {
            true => ActivationScale::Dynamic,
            false => self.policy.activation_scale(at.path())?,
        };
        let mut values = x.values.to_vec();
        let (features, tokens) = (x.features(), x.shape[1]);
        values
            .chunks_mut((tokens * features).max(1))
            .for_each(|observation| format.round(observation, features, scale));
        Ok(values)
    }
}

fn mismatch(at: &Site, operation: &'static str, what: String) -> Error {
    Error::Shape { site: at.to_string(), operation, what }
}

/// The square table `[side * side, features]` resized to each grid, not yet rounded to `storage`.
pub fn resize_positions(table: &Weight, grids: &[Grid], resize: Resize, storage: Format) -> Vec<f32> {
    let features = table.shape()[1];
    let side = table.shape()[0].isqrt();
    let source = table.to_vec(storage);
    let one = |grid: &Grid| match resize {
        Resize::Antialiased => {
            resize::in_order(resize::bilinear(&source, side, *grid, features), *grid, features)
        }
        Resize::AlignedCorners => resize::aligned(&source, side, *grid, features, storage),
    };
    grids.iter().flat_map(one).collect()
}

/// The common shape of two operands, the second of which may repeat.
fn broadcast(a: &Tensor, b: &Tensor, operation: &'static str, at: &Site) -> Result<()> {
    let repeats = |part: usize, whole: usize| part == whole || part == 1;
    if repeats(b.shape[0], a.shape[0]) && repeats(b.shape[1], a.shape[1]) && b.shape[2] == a.shape[2] {
        return Ok(());
    }
    Err(mismatch(at, operation, format!("{:?} and {:?}", a.shape, b.shape)))
}

impl Ops for Cpu<'_, '_> {
    type Tensor = Tensor;

    fn shape(&self, x: &Tensor) -> [usize; 3] {
        x.shape
    }

    fn input(&self, values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<Tensor> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(mismatch(&at, "input", format!("{} values for {shape:?}", values.len())));
        }
        Ok(self.store(shape, values, &at))
    }

    fn patches(
        &self,
        images: &[ImageBatch],
        grids: &[Grid],
        patching: Patching,
        batch: usize,
        at: Site,
    ) -> Result<Tensor> {
        let values = layout::patches(images, grids, patching, batch);
        let count = grids.iter().map(|grid| grid.patches()).sum();
        Ok(self.store([batch, count, patching.features()], values, &at))
    }

    fn time_encoding(&self, time: usize, frequencies: &[f32], leading: Leading, at: Site) -> Result<Tensor> {
        let (time, angles) = (self.intervention.time(&at, time), self.intervention.angles(&at));
        let values = time_encoding(time, frequencies, leading, angles);
        Ok(self.store([1, 1, values.len()], values, &at))
    }

    fn tap(&self, x: &Tensor, at: Site) {
        self.offer(x, &at);
    }

    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<Tensor> {
        let (rows, features) = (table.shape()[0], table.shape()[1]);
        let tokens = ids.first().map_or(0, Vec::len);
        let mut values = vec![0.0; ids.len() * tokens * features];
        let format = self.policy.formats(&at).storage;
        for (out, id) in values.chunks_exact_mut(features).zip(ids.iter().flatten()) {
            let id = *id as usize;
            if id >= rows {
                return Err(Error::input("input_ids", format!("expected ids below {rows}, found {id}")));
            }
            table.read_into(id * features..(id + 1) * features, format, out);
        }
        Ok(self.store([ids.len(), tokens, features], values, &at))
    }

    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<Tensor> {
        let (rows, features) = (table.shape()[0], table.shape()[1]);
        if tokens > rows {
            return Err(mismatch(&at, "table_rows", format!("{tokens} rows of a table of {rows}")));
        }
        let mut values = vec![0.0; tokens * features];
        table.read_into(0..values.len(), self.policy.formats(&at).storage, &mut values);
        Ok(self.store([1, tokens, features], values, &at))
    }

    fn resize_positions(&self, table: &Weight, grids: &[Grid], resize: Resize, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let values = resize_positions(table, grids, resize, self.policy.formats(&at).storage);
        let features = table.shape()[1];
        Ok(self.store([1, values.len() / features, features], values, &at))
    }

    fn linear(&self, x: &Tensor, layer: &Linear, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let (out_features, in_features) = (layer.weight.shape()[0], layer.weight.shape()[1]);
        if x.features() != in_features {
            return Err(mismatch(&at, "linear", format!("{:?} by {:?}", x.shape, layer.weight.shape())));
        }
        let formats = self.policy.formats(&at);
        let weight = Some((&layer.weight, 0..layer.weight.len()));
        self.intervention
            .product(&at, &Product { operation: Operation::Linear, operands: &[&x.values], weight });
        let mut values = if formats.scale == Scale::None {
            let operand = match formats.activations {
                Some(activations) => Cow::Owned(self.quantized(x, activations, &at)?),
                None => self.operand(x, formats.compute),
            };
            matmul::by_transposed(&operand, x.rows(), &layer.weight, formats)
        } else {
            let activations = self.policy.activation_scale(at.path())?;
            scaled::by_transposed(x, &layer.weight, formats, activations)
        };
        if let Some(bias) = &layer.bias {
            pointwise::add_rows(&mut values, &bias.to_vec(formats.storage));
        }
        Ok(self.store([x.shape[0], x.shape[1], out_features], values, &at))
    }

    fn category_linear(
        &self,
        x: &Tensor,
        layer: &CategoryLinear,
        embodiments: &[usize],
        at: Site,
    ) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let [slots, in_features, out_features] = *layer.weight.shape() else {
            return Err(mismatch(&at, "category_linear", format!("weight {:?}", layer.weight.shape())));
        };
        let [batch, tokens, features] = x.shape;
        if features != in_features || embodiments.len() != batch {
            let what = format!("{:?} by {:?}, {} ids", x.shape, layer.weight.shape(), embodiments.len());
            return Err(mismatch(&at, "category_linear", what));
        }
        let formats = self.policy.formats(&at);
        let operand = self.operand(x, formats.compute);
        let mut values = Vec::with_capacity(batch * tokens * out_features);
        let size = in_features * out_features;
        let items = x.values.chunks_exact(tokens * in_features);
        for ((item, handed), &slot) in operand.chunks_exact(tokens * in_features).zip(items).zip(embodiments)
        {
            let slot = self.intervention.embodiment(&at, slot);
            if slot >= slots {
                return Err(Error::input("embodiment_id", format!("expected below {slots}, found {slot}")));
            }
            let weight = Some((&layer.weight, slot * size..(slot + 1) * size));
            let operation = Operation::CategoryLinear;
            self.intervention.product(&at, &Product { operation, operands: &[handed], weight });
            let mut product = matmul::by_slot(item, tokens, &layer.weight, slot, formats);
            formats.storage.round_slice(&mut product);
            let mut bias = vec![0.0; out_features];
            layer.bias.read_into(slot * out_features..(slot + 1) * out_features, formats.storage, &mut bias);
            pointwise::add_rows(&mut product, &bias);
            values.extend(product);
        }
        Ok(self.store([batch, tokens, out_features], values, &at))
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: Heads,
        mask: &Mask,
        at: Site,
    ) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let mask = &self.intervention.mask(&at, mask);
        attention::check(q, k, v, heads, mask).map_err(|what| mismatch(&at, "attention", what))?;
        let formats = self.policy.formats(&at);
        let handed = [&q.values[..], &k.values, &v.values];
        let product = Product { operation: Operation::Attention, operands: &handed, weight: None };
        self.intervention.product(&at, &product);
        let operands = [q, k, v].map(|x| Tensor::new(x.shape, self.operand(x, formats.compute).into_owned()));
        let [q, k, v] = &operands;
        let values = attention::attend(q, k, v, heads, mask, formats);
        Ok(self.store(q.shape, values, &at))
    }

    fn layer_norm(&self, x: &Tensor, affine: Option<&Affine>, eps: f64, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let Formats { storage, accumulate, .. } = self.policy.formats(&at);
        let affine = affine.map(|affine| (affine.weight.to_vec(storage), affine.bias.to_vec(storage)));
        if affine.as_ref().is_some_and(|(weight, _)| weight.len() != x.features()) {
            return Err(mismatch(&at, "layer_norm", format!("{:?}", x.shape)));
        }
        let mut values = x.values.to_vec();
        norm::layer_norm(
            &mut values,
            x.features(),
            affine.as_ref(),
            self.intervention.eps(&at, eps) as f32,
            accumulate,
        );
        Ok(self.store(x.shape, values, &at))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Weight, eps: f64, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        if weight.is_empty() || !x.features().is_multiple_of(weight.len()) {
            return Err(mismatch(&at, "rms_norm", format!("{:?} by {:?}", x.shape, weight.shape())));
        }
        let Formats { storage, accumulate, .. } = self.policy.formats(&at);
        let mut values = x.values.to_vec();
        let eps = self.intervention.eps(&at, eps) as f32;
        norm::rms_norm(&mut values, &weight.to_vec(storage), eps, storage, accumulate);
        Ok(self.store(x.shape, values, &at))
    }

    fn rotary(&self, x: &Tensor, rotary: &Rotary, places: &Places, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let places = places.coordinates(x.shape[1]);
        if rotary.head_dim == 0
            || !x.features().is_multiple_of(rotary.head_dim)
            || !rotary.head_dim.is_multiple_of(2)
            || [rotary.frequencies.len(), rotary.axes.len()] != [rotary.head_dim / 2; 2]
            || places.len() != x.shape[1]
        {
            let what = format!("{:?} by heads of {}, {} places", x.shape, rotary.head_dim, places.len());
            return Err(mismatch(&at, "rotary", what));
        }
        let format = self.policy.formats(&at).storage;
        Ok(self.store(x.shape, rotated(x, rotary, &places, format), &at))
    }

    fn modulate(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, at: Site) -> Result<Tensor> {
        broadcast(x, scale, "modulate", &at)?;
        broadcast(x, shift, "modulate", &at)?;
        let format = self.policy.formats(&at).storage;
        let scaled = pointwise::zip(x, scale, |x, scale| format.round(x * format.round(1.0 + scale)));
        let scaled = Tensor::new(x.shape, scaled);
        Ok(self.store(x.shape, pointwise::zip(&scaled, shift, |x, shift| x + shift), &at))
    }

    fn activation(&self, x: &Tensor, kind: Activation, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        let format = self.policy.formats(&at).storage;
        Ok(self.store(
            x.shape,
            pointwise::activation(&x.values, self.intervention.activation(&at, kind), format),
            &at,
        ))
    }

    fn add(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        // Cheap, but what a part of the model hands over may be a sum.
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        broadcast(a, b, "add", &at)?;
        Ok(self.store(a.shape, pointwise::zip(a, b, |a, b| a + b), &at))
    }

    fn multiply(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        broadcast(a, b, "multiply", &at)?;
        Ok(self.store(a.shape, pointwise::zip(a, b, |a, b| a * b), &at))
    }

    fn add_to_tokens(&self, x: &Tensor, tokens: &Tokens, values: &Tensor, at: Site) -> Result<Tensor> {
        if let Some(known) = self.known(&at) {
            return Ok(known);
        }
        Ok(self.store(x.shape, layout::add_to_tokens(x, &tokens.indices, values, &at)?, &at))
    }

    fn euler(
        &self,
        actions: &Tensor,
        velocity: &Tensor,
        strength: Option<&Tensor>,
        dt: f64,
        at: Site,
    ) -> Result<Tensor> {
        broadcast(actions, velocity, "euler", &at)?;
        let format = self.policy.formats(&at).storage;
        let dt = dt as f32;
        let step = velocity.values.iter().map(|velocity| format.round(dt * velocity)).collect();
        let mut step = Tensor::new(velocity.shape, step);
        if let Some(strength) = strength {
            broadcast(&step, strength, "euler", &at)?;
            let weighed = pointwise::zip(&step, strength, |step, strength| format.round(step * strength));
            step = Tensor::new(step.shape, weighed);
        }
        Ok(self.store(actions.shape, pointwise::zip(actions, &step, |action, step| action + step), &at))
    }

    fn slice_features(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        layout::slice_features(x, start, len)
    }

    fn select_tokens(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        layout::gather_tokens(x, &tokens.indices)
    }

    fn last_tokens(&self, x: &Tensor, count: usize) -> Result<Tensor> {
        layout::last_tokens(x, count)
    }

    fn replace_tokens(&self, x: &Tensor, tokens: &Tokens, values: &Tensor) -> Result<Tensor> {
        layout::replace_tokens(x, &tokens.indices, values)
    }

    fn concat_tokens(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        layout::concat_tokens(a, b)
    }

    fn concat_features(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        layout::concat_features(a, b)
    }

    fn join_tokens(&self, x: &Tensor, count: usize) -> Result<Tensor> {
        layout::join_tokens(x, count)
    }

    fn pixel_unshuffle(&self, x: &Tensor, grids: &[Grid], factor: usize) -> Result<Tensor> {
        layout::pixel_unshuffle(x, grids, factor)
    }
}
