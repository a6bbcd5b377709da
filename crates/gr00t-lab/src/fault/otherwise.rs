//! Operations that an engine computes otherwise: the reference's operations, but for one change.

use super::{Effect, Fault};
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor, rotated};
use steadyhand_gr00t::ops::{
    Activation, Affine, CategoryLinear, Grid, Heads, ImageBatch, Leading, Linear, Mask, Ops, Patching,
    Places, Resize, Rotary, Site, Tokens,
};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// What an operation does otherwise, where its kind is met at a site that the fault touches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Attention: scores are multiplied by this too.
    Scores(f32),
    /// Attention: query head `h` reads key and value head `h % kv_heads`.
    TiledHeads,
    /// Attention with a causal mask: a query sees the next token too.
    NextToken,
    /// A norm gives its input.
    NoNorm,
    /// A non-linearity is this function instead.
    Activation(Nonlinearity),
    /// RoPE: the base of the frequencies, and the position of the first token.
    Rotary {
        /// Instead of the right base; none for the right one.
        theta: Option<f64>,
        /// The position that tokens are counted from.
        first: usize,
    },
    /// RoPE gives its input.
    NoRotary,
    /// Modulation: `x scale + shift`.
    ScaleWithoutOne,
    /// Modulation: scale and shift are exchanged.
    ScaleAsShift,
    /// A linear layer has no bias.
    NoBias,
    /// A linear layer multiplies by its weight as it lies, not transposed; a square one.
    Transposed,
    /// A residual connection gives what was computed, without what it is added to, or the reverse.
    OneTerm {
        /// Whether the first term is the one that is kept.
        first: bool,
    },
    /// A residual connection adds to another tensor of its block than to what entered it, by the name of its site.
    ResidualOf(&'static str),
    /// The size of an Euler step is multiplied by this.
    StepSize(f64),
    /// The velocity is that of the first tokens instead of the last.
    FirstTokens,
    /// Image tokens stand in columns instead of rows.
    ImagesByColumn,
    /// Image tokens are never put into the prompt.
    NoImages,
    /// A time encoding begins with the other half.
    OtherHalfFirst,
    /// The angles of a time encoding are multiplied by this: the time is counted in another unit.
    TimeUnit(f32),
    /// The frequencies of a time encoding, from 1 down to 1e-4, do not end where they should: its last one is left out
    /// where it is right to have it, or the reverse.
    OtherFrequencies,
    /// A layer works on the initial noise in every Euler step.
    OnNoise,
    /// Nothing is added to tokens.
    NoAddition,
    /// Attention: so many keys and values of zeros are seen besides.
    SeesPadding(usize),
}

/// Non-linearities that are taken for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonlinearity {
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `x`.
    Identity,
}

impl Nonlinearity {
    fn of(self, x: f32) -> f32 {
        match self {
            Nonlinearity::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Nonlinearity::Silu => x / (1.0 + (-x).exp()),
            Nonlinearity::Relu => x.max(0.0),
            Nonlinearity::Identity => x,
        }
    }
}

/// [`Cpu`] with a fault in it, if it is one of operations.
pub(crate) struct Otherwise<'a, 'p> {
    cpu: Cpu<'a, 'p>,
    policy: &'a PrecisionPolicy,
    fault: Option<(&'a Fault, Change)>,
    /// Results of norms and modulations, and the noise, by path.
    seen: RefCell<BTreeMap<String, Tensor>>,
}

impl<'a, 'p> Otherwise<'a, 'p> {
    pub(crate) fn new(cpu: Cpu<'a, 'p>, policy: &'a PrecisionPolicy, fault: Option<&'a Fault>) -> Self {
        let fault = fault.and_then(|fault| match &fault.effect {
            Effect::Operation(change) => Some((fault, *change)),
            _ => None,
        });
        Otherwise { cpu, policy, fault, seen: RefCell::default() }
    }

    /// What is done otherwise at a site.
    fn change(&self, at: &Site) -> Option<Change> {
        self.fault.and_then(|(fault, change)| fault.touches(at).then_some(change))
    }

    /// What is done otherwise where tokens are moved, which has no site.
    fn moves(&self) -> Option<Change> {
        self.fault.map(|(_, change)| change)
    }

    fn storage(&self, at: &Site) -> Format {
        self.policy.formats(at).storage
    }

    /// Keeps a result for residual connections.
    fn note(&self, at: &Site, made: Result<Tensor>) -> Result<Tensor> {
        if let (Some(_), Ok(made)) = (self.fault, &made) {
            self.seen.borrow_mut().insert(at.path().to_owned(), made.clone());
        }
        made
    }

    fn causal_and_next(&self, [q, k, v]: [&Tensor; 3], heads: Heads, at: Site) -> Result<Tensor> {
        let plain = Cpu::new(self.policy, None);
        let [batch, tokens, features] = q.shape();
        let zeros = |like: &Tensor| {
            Tensor::from_values([batch, 1, like.shape()[2]], vec![0.0; batch * like.shape()[2]])
        };
        let (Some(no_query), Some(no_key), Some(no_value)) = (zeros(q), zeros(k), zeros(v)) else {
            return self.cpu.attention(q, k, v, heads, &Mask::Causal, at);
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
        self.cpu.input(values, q.shape(), at)
    }
}

/// Keys or values with a head for each query head, in the order 0, 1, .., 0, 1, ..
fn tiled(x: &Tensor, heads: Heads) -> Option<Tensor> {
    let [batch, tokens, features] = x.shape();
    let times = heads.heads / heads.kv_heads;
    let values = x.values().chunks_exact(features).flat_map(|token| token.repeat(times)).collect();
    Tensor::from_values([batch, tokens, features * times], values)
}

/// So many tokens of zeros behind those of every item.
fn padded(x: &Tensor, more: usize) -> Option<Tensor> {
    let [batch, tokens, features] = x.shape();
    let zeros = vec![0.0; more * features];
    let items = x.values().chunks_exact(tokens * features);
    let values = items.flat_map(|item| [item, &zeros].concat()).collect();
    Tensor::from_values([batch, tokens + more, features], values)
}

/// `x W + b` of a square weight, where `x Wᵀ + b` is right.
fn untransposed(x: &Tensor, layer: &Linear) -> Vec<f32> {
    let side = layer.weight.shape()[0];
    let weight = layer.weight.to_vec(Format::F32);
    let bias = layer.bias.as_ref().map_or_else(|| vec![0.0; side], |bias| bias.to_vec(Format::F32));
    let mut values = Vec::with_capacity(x.values().len());
    for token in x.values().chunks_exact(side) {
        let mut sums = vec![0.0f64; side];
        for (value, row) in token.iter().zip(weight.chunks_exact(side)) {
            sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += f64::from(*value) * f64::from(*weight));
        }
        values.extend(sums.iter().zip(&bias).map(|(sum, bias)| (*sum + f64::from(*bias)) as f32));
    }
    values
}

/// Frequencies from 1 down to 1e-4, the last one left out where these have it and the reverse: diffusers'
/// `downscale_freq_shift` of 0 where 1 is right, or 1 where 0 is.
fn other_frequencies(right: &[f32]) -> Vec<f32> {
    let ends = right.last().is_some_and(|last| (f64::from(*last) - 1e-4).abs() < 1e-6);
    let intervals = if ends { right.len() } else { right.len().saturating_sub(1).max(1) };
    (0..right.len()).map(|i| (-(1e4f64.ln()) * i as f64 / intervals as f64).exp() as f32).collect()
}

/// Where each image token stands when the square grid of every image is read by columns.
fn by_column(tokens: usize, images: usize) -> Option<Vec<usize>> {
    let each = tokens.checked_div(images)?;
    let side = each.isqrt();
    let of = |image: usize| (0..each).map(move |at| image * each + at % side * side + at / side);
    (side * side * images == tokens).then(|| (0..images).flat_map(of).collect())
}

impl Ops for Otherwise<'_, '_> {
    type Tensor = Tensor;

    fn shape(&self, x: &Tensor) -> [usize; 3] {
        self.cpu.shape(x)
    }

    fn input(&self, values: Vec<f32>, shape: [usize; 3], at: Site) -> Result<Tensor> {
        let made = self.cpu.input(values, shape, at.clone());
        self.note(&at, made)
    }

    fn patches(
        &self,
        images: &[ImageBatch],
        grids: &[Grid],
        patching: Patching,
        batch: usize,
        at: Site,
    ) -> Result<Tensor> {
        self.cpu.patches(images, grids, patching, batch, at)
    }

    fn time_encoding(&self, time: usize, frequencies: &[f32], leading: Leading, at: Site) -> Result<Tensor> {
        let leading = match (self.change(&at), leading) {
            (Some(Change::OtherHalfFirst), Leading::Sines) => Leading::Cosines,
            (Some(Change::OtherHalfFirst), Leading::Cosines) => Leading::Sines,
            (_, right) => right,
        };
        let other = match self.change(&at) {
            Some(Change::TimeUnit(unit)) => {
                Some(frequencies.iter().map(|frequency| frequency * unit).collect())
            }
            Some(Change::OtherFrequencies) => Some(other_frequencies(frequencies)),
            _ => None,
        };
        self.cpu.time_encoding(time, other.as_deref().unwrap_or(frequencies), leading, at)
    }

    fn tap(&self, x: &Tensor, at: Site) {
        self.cpu.tap(x, at);
    }

    fn embed(&self, table: &Weight, ids: &[Vec<u32>], at: Site) -> Result<Tensor> {
        self.cpu.embed(table, ids, at)
    }

    fn table_rows(&self, table: &Weight, tokens: usize, at: Site) -> Result<Tensor> {
        self.cpu.table_rows(table, tokens, at)
    }

    fn resize_positions(&self, table: &Weight, grids: &[Grid], resize: Resize, at: Site) -> Result<Tensor> {
        self.cpu.resize_positions(table, grids, resize, at)
    }

    fn linear(&self, x: &Tensor, layer: &Linear, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::NoBias) => {
                self.cpu.linear(x, &Linear { weight: layer.weight.clone(), bias: None }, at)
            }
            Some(Change::Transposed) if layer.weight.shape()[0] == layer.weight.shape()[1] => {
                self.cpu.input(untransposed(x, layer), x.shape(), at)
            }
            _ => self.cpu.linear(x, layer, at),
        }
    }

    fn category_linear(
        &self,
        x: &Tensor,
        layer: &CategoryLinear,
        embodiments: &[usize],
        at: Site,
    ) -> Result<Tensor> {
        if self.change(&at) == Some(Change::OnNoise) {
            let noise = self.seen.borrow().get("noise").cloned();
            if let Some(noise) = noise.filter(|noise| noise.shape() == x.shape()) {
                return self.cpu.category_linear(&noise, layer, embodiments, at);
            }
        }
        self.cpu.category_linear(x, layer, embodiments, at)
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
        match (self.change(&at), mask) {
            (Some(Change::Scores(factor)), _) => {
                let scaled = q.values().iter().map(|value| value * factor).collect();
                let q = Tensor::from_values(q.shape(), scaled).unwrap_or_else(|| q.clone());
                self.cpu.attention(&q, k, v, heads, mask, at)
            }
            (Some(Change::TiledHeads), _) if heads.kv_heads < heads.heads => {
                match (tiled(k, heads), tiled(v, heads)) {
                    (Some(k), Some(v)) => {
                        let heads = Heads { kv_heads: heads.heads, ..heads };
                        self.cpu.attention(q, &k, &v, heads, mask, at)
                    }
                    _ => self.cpu.attention(q, k, v, heads, mask, at),
                }
            }
            (Some(Change::SeesPadding(tokens)), Mask::None) => {
                let [k, v] = [k, v].map(|x| padded(x, tokens).unwrap_or_else(|| x.clone()));
                self.cpu.attention(q, &k, &v, heads, mask, at)
            }
            (Some(Change::NextToken), Mask::Causal) => self.causal_and_next([q, k, v], heads, at),
            _ => self.cpu.attention(q, k, v, heads, mask, at),
        }
    }

    fn layer_norm(&self, x: &Tensor, affine: Option<&Affine>, eps: f64, at: Site) -> Result<Tensor> {
        let made = match self.change(&at) {
            Some(Change::NoNorm) => self.cpu.input(x.values().to_vec(), x.shape(), at.clone()),
            _ => self.cpu.layer_norm(x, affine, eps, at.clone()),
        };
        self.note(&at, made)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Weight, eps: f64, at: Site) -> Result<Tensor> {
        let made = match self.change(&at) {
            Some(Change::NoNorm) => self.cpu.input(x.values().to_vec(), x.shape(), at.clone()),
            _ => self.cpu.rms_norm(x, weight, eps, at.clone()),
        };
        self.note(&at, made)
    }

    fn rotary(&self, x: &Tensor, rotary: &Rotary, places: &Places, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::Rotary { theta, first }) => {
                let mut rotary = rotary.clone();
                if let Some(theta) = theta {
                    rotary.frequencies = Rotary::frequencies(rotary.head_dim / 2, theta);
                }
                let places = places.coordinates(x.shape()[1]);
                let places: Vec<_> = places.into_iter().map(|place| place.map(|at| at + first)).collect();
                self.cpu.input(rotated(x, &rotary, &places, self.storage(&at)), x.shape(), at)
            }
            Some(Change::NoRotary) => self.cpu.input(x.values().to_vec(), x.shape(), at),
            _ => self.cpu.rotary(x, rotary, places, at),
        }
    }

    fn modulate(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, at: Site) -> Result<Tensor> {
        let made = match self.change(&at) {
            Some(Change::ScaleAsShift) => self.cpu.modulate(x, shift, scale, at.clone()),
            Some(Change::ScaleWithoutOne) => {
                let (storage, features) = (self.storage(&at), x.shape()[2]);
                let one = |(index, value): (usize, &f32)| {
                    let feature = index % features;
                    storage.round(value * scale.values()[feature]) + shift.values()[feature]
                };
                self.cpu.input(x.values().iter().enumerate().map(one).collect(), x.shape(), at.clone())
            }
            _ => self.cpu.modulate(x, scale, shift, at.clone()),
        };
        self.note(&at, made)
    }

    fn activation(&self, x: &Tensor, kind: Activation, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::Activation(other)) => {
                self.cpu.input(x.values().iter().map(|value| other.of(*value)).collect(), x.shape(), at)
            }
            _ => self.cpu.activation(x, kind, at),
        }
    }

    fn add(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::OneTerm { first }) if a.shape() == b.shape() => {
                let kept = if first { a } else { b };
                self.cpu.input(kept.values().to_vec(), kept.shape(), at)
            }
            Some(Change::ResidualOf(name)) => {
                let block = at.path().strip_suffix(".residual1").unwrap_or(at.path());
                let other = self.seen.borrow().get(&format!("{block}.{name}")).cloned();
                // In the DiT what was computed comes first, elsewhere what it is added to.
                match other.filter(|other| other.shape() == a.shape()) {
                    Some(other) if at.path().starts_with("dit") => self.cpu.add(a, &other, at),
                    Some(other) => self.cpu.add(&other, b, at),
                    None => self.cpu.add(a, b, at),
                }
            }
            _ => self.cpu.add(a, b, at),
        }
    }

    fn multiply(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        self.cpu.multiply(a, b, at)
    }

    fn add_to_tokens(&self, x: &Tensor, tokens: &Tokens, values: &Tensor, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::NoAddition) => self.cpu.input(x.values().to_vec(), x.shape(), at),
            _ => self.cpu.add_to_tokens(x, tokens, values, at),
        }
    }

    fn euler(
        &self,
        actions: &Tensor,
        velocity: &Tensor,
        strength: Option<&Tensor>,
        dt: f64,
        at: Site,
    ) -> Result<Tensor> {
        let dt = match self.change(&at) {
            Some(Change::StepSize(factor)) => dt * factor,
            _ => dt,
        };
        self.cpu.euler(actions, velocity, strength, dt, at)
    }

    fn slice_features(&self, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        self.cpu.slice_features(x, start, len)
    }

    fn select_tokens(&self, x: &Tensor, tokens: &Tokens) -> Result<Tensor> {
        self.cpu.select_tokens(x, tokens)
    }

    fn last_tokens(&self, x: &Tensor, count: usize) -> Result<Tensor> {
        match self.moves() {
            Some(Change::FirstTokens) => {
                let [batch, tokens, features] = x.shape();
                let first = x.values().chunks_exact(tokens * features);
                let values: Vec<f32> =
                    first.flat_map(|item| item[..count.min(tokens) * features].to_vec()).collect();
                let moved = Tensor::from_values([batch, count.min(tokens), features], values);
                moved.map_or_else(|| self.cpu.last_tokens(x, count), Ok)
            }
            _ => self.cpu.last_tokens(x, count),
        }
    }

    fn replace_tokens(&self, x: &Tensor, tokens: &Tokens, values: &Tensor) -> Result<Tensor> {
        match self.moves() {
            Some(Change::NoImages) => Ok(x.clone()),
            Some(Change::ImagesByColumn) => {
                let runs = tokens.indices.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() + 1;
                let order = by_column(tokens.indices.len(), runs);
                let moved = order.map(|indices| Tokens { part: tokens.part, indices });
                match moved {
                    Some(moved) => {
                        self.cpu.replace_tokens(x, tokens, &self.cpu.select_tokens(values, &moved)?)
                    }
                    None => self.cpu.replace_tokens(x, tokens, values),
                }
            }
            _ => self.cpu.replace_tokens(x, tokens, values),
        }
    }

    fn concat_tokens(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.cpu.concat_tokens(a, b)
    }

    fn concat_features(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.cpu.concat_features(a, b)
    }

    fn join_tokens(&self, x: &Tensor, count: usize) -> Result<Tensor> {
        self.cpu.join_tokens(x, count)
    }

    fn pixel_unshuffle(&self, x: &Tensor, grids: &[Grid], factor: usize) -> Result<Tensor> {
        self.cpu.pixel_unshuffle(x, grids, factor)
    }
}
