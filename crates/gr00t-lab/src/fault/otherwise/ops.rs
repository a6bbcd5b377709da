//! The operations themselves, each with what may be done otherwise in it.

use super::super::computed::norms::Normed;
use super::super::computed::{Change, Modulation, Nonlinearity, attention, layout, linear, operands, rotary};
use super::{Otherwise, reinterpreted};
use std::borrow::Cow;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor, rotated};
use steadyhand_gr00t::ops::{
    Activation, Affine, CategoryLinear, Grid, Heads, ImageBatch, Leading, Linear, Mask, Ops, Part, Patching,
    Places, Resize, Rotary, Site, Tokens,
};

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
            Some(Change::OtherFrequencies) => Some(layout::other_frequencies(frequencies)),
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
        let x = &*self.handed(x, &at);
        let change = self.change(&at);
        let made = match change {
            Some(Change::NoBias) => {
                self.cpu.linear(x, &Linear { weight: layer.weight.clone(), bias: None }, at.clone())
            }
            Some(change) => match linear::values(x, layer, change) {
                Some(values) => {
                    let [batch, tokens, _] = x.shape();
                    self.cpu.input(values, [batch, tokens, layer.weight.shape()[0]], at.clone())
                }
                None => self.cpu.linear(x, layer, at.clone()),
            },
            None => self.cpu.linear(x, layer, at.clone()),
        };
        match at.path().ends_with(".gate") {
            true => self.note(&at, made),
            false => made,
        }
    }

    fn category_linear(
        &self,
        x: &Tensor,
        layer: &CategoryLinear,
        embodiments: &[usize],
        at: Site,
    ) -> Result<Tensor> {
        let x = &*self.handed(x, &at);
        if self.change(&at) == Some(Change::OnNoise) {
            let noise = self.seen.borrow().get("noise").cloned();
            if let Some(noise) = noise.filter(|noise| noise.shape() == x.shape()) {
                return self.cpu.category_linear(&noise, layer, embodiments, at);
            }
        }
        let factor = match self.change(&at) {
            Some(Change::NoBias) => -1.0,
            Some(Change::BiasTwice) => 1.0,
            _ => return self.cpu.category_linear(x, layer, embodiments, at),
        };
        let right = Cpu::new(self.policy, None).category_linear(x, layer, embodiments, at.clone())?;
        let values = linear::with_bias(&right, layer, embodiments, factor);
        self.cpu.input(values, right.shape(), at)
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
                match (attention::tiled(k, heads), attention::tiled(v, heads)) {
                    (Some(k), Some(v)) => {
                        let heads = Heads { kv_heads: heads.heads, ..heads };
                        self.cpu.attention(q, &k, &v, heads, mask, at)
                    }
                    _ => self.cpu.attention(q, k, v, heads, mask, at),
                }
            }
            (Some(Change::SeesPadding(tokens)), Mask::None) => {
                let [k, v] = [k, v].map(|x| attention::padded(x, tokens).unwrap_or_else(|| x.clone()));
                self.cpu.attention(q, &k, &v, heads, mask, at)
            }
            (Some(Change::NextToken), Mask::Causal) => {
                match attention::causal_and_next([q, k, v], heads, self.policy, &at)? {
                    Some(values) => self.cpu.input(values, q.shape(), at),
                    None => self.cpu.attention(q, k, v, heads, mask, at),
                }
            }
            (Some(Change::Attends { everything }), _) => match self.memory(everything, &at)? {
                Some([k, v]) => self.cpu.attention(q, &k, &v, heads, mask, at),
                None => self.cpu.attention(q, k, v, heads, mask, at),
            },
            (Some(change), _) => match self.attend([q, k, v], heads, mask, change, &at) {
                Some(values) => self.cpu.input(values, q.shape(), at),
                None => self.cpu.attention(q, k, v, heads, mask, at),
            },
            (None, _) => self.cpu.attention(q, k, v, heads, mask, at),
        }
    }

    fn layer_norm(&self, x: &Tensor, affine: Option<&Affine>, eps: f64, at: Site) -> Result<Tensor> {
        let x = &*self.handed(x, &at);
        let made = match self.change(&at) {
            Some(_) => self.norm(x, Normed::layer(x, affine, eps, self.storage(&at)), &at)?,
            None => None,
        };
        let made = made.map_or_else(|| self.cpu.layer_norm(x, affine, eps, at.clone()), Ok);
        self.note(&at, made)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Weight, eps: f64, at: Site) -> Result<Tensor> {
        let x = &*self.handed(x, &at);
        let made = match self.change(&at) {
            Some(_) => self.norm(x, Normed::rms(weight, eps, self.storage(&at)), &at)?,
            None => None,
        };
        let made = made.map_or_else(|| self.cpu.rms_norm(x, weight, eps, at.clone()), Ok);
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
            Some(Change::Rotation(other)) => {
                let places = places.coordinates(x.shape()[1]);
                let values = rotary::turned(x, rotary, &places, self.storage(&at), other);
                self.cpu.input(values, x.shape(), at)
            }
            Some(Change::Positions(other)) => {
                let places = rotary::numbered(x.shape()[1], &self.images.borrow(), other);
                self.cpu.input(rotated(x, rotary, &places, self.storage(&at)), x.shape(), at)
            }
            _ => self.cpu.rotary(x, rotary, places, at),
        }
    }

    fn modulate(&self, x: &Tensor, scale: &Tensor, shift: &Tensor, at: Site) -> Result<Tensor> {
        let by = |formula: &dyn Fn(f32, f32, f32) -> f32| {
            let features = x.shape()[2];
            let of = |(index, value): (usize, &f32)| {
                let feature = index % features;
                formula(*value, scale.values()[feature], shift.values()[feature])
            };
            self.cpu.input(x.values().iter().enumerate().map(of).collect(), x.shape(), at.clone())
        };
        let storage = self.storage(&at);
        let round = |value: f32| storage.round(value);
        let made = match self.change(&at) {
            Some(Change::ScaleAsShift) => self.cpu.modulate(x, shift, scale, at.clone()),
            Some(Change::ScaleWithoutOne) => by(&|x, scale, shift| round(x * scale) + shift),
            Some(Change::Modulation(other)) => match other {
                Modulation::TwoPlus => by(&|x, scale, shift| round(x * round(2.0 + scale)) + shift),
                Modulation::NoScale => by(&|x, _, shift| x + shift),
                Modulation::NoShift => by(&|x, scale, _| x * round(1.0 + scale)),
                Modulation::LeftOut => by(&|x, _, _| x),
                Modulation::ShiftFirst => by(&|x, scale, shift| round(x + shift) * round(1.0 + scale)),
                Modulation::Alternating => {
                    // The DiT's blocks have scale first, its output norm shift first.
                    let shift_first = at.path() == "dit.modulated";
                    let halves = if shift_first { [shift, scale] } else { [scale, shift] };
                    let [first, second] = layout::alternating(halves);
                    let [scale, shift] = if shift_first { [&second, &first] } else { [&first, &second] };
                    self.cpu.modulate(x, scale, shift, at.clone())
                }
            },
            _ => self.cpu.modulate(x, scale, shift, at.clone()),
        };
        self.note(&at, made)
    }

    fn activation(&self, x: &Tensor, kind: Activation, at: Site) -> Result<Tensor> {
        match self.change(&at) {
            Some(Change::Activation(Nonlinearity::As(other))) => self.cpu.activation(x, other, at),
            Some(Change::Activation(other)) => {
                self.cpu.input(x.values().iter().map(|value| other.of(*value)).collect(), x.shape(), at)
            }
            Some(Change::ActivatedUp) => {
                let layer = at.path().strip_suffix(".silu").unwrap_or_default();
                let normed = self.seen.borrow().get(&format!("{layer}.norm2")).cloned();
                let up = normed.map(|x| operands::activated_up(self.policy, self.model, &x, kind, &at));
                match up.transpose()?.flatten() {
                    Some(up) => self.cpu.input(up.values().to_vec(), up.shape(), at),
                    None => self.cpu.activation(x, kind, at),
                }
            }
            _ => self.cpu.activation(x, kind, at),
        }
    }

    fn add(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        // In the DiT what was computed comes first, elsewhere what it is added to.
        let in_dit = at.path().starts_with("dit");
        let [a, b] = match in_dit {
            true => [Cow::Borrowed(a), self.handed(b, &at)],
            false => [self.handed(a, &at), Cow::Borrowed(b)],
        };
        let [a, b] = [a.as_ref(), b.as_ref()];
        match self.change(&at) {
            Some(Change::OneTerm { first }) if a.shape() == b.shape() => {
                let kept = if first { a } else { b };
                self.cpu.input(kept.values().to_vec(), kept.shape(), at)
            }
            Some(Change::TermTwice { first }) if a.shape() == b.shape() => {
                let (twice, once) = if first { (a, b) } else { (b, a) };
                let sum = twice.values().iter().zip(once.values()).map(|(twice, once)| twice + twice + once);
                self.cpu.input(sum.collect(), a.shape(), at)
            }
            Some(Change::ResidualOf(name)) => {
                let block = at.path().strip_suffix(".residual1").unwrap_or(at.path());
                let other = self.seen.borrow().get(&format!("{block}.{name}")).cloned();
                match other.filter(|other| other.shape() == a.shape()) {
                    Some(other) if in_dit => self.cpu.add(a, &other, at),
                    Some(other) => self.cpu.add(&other, b, at),
                    None => self.cpu.add(a, b, at),
                }
            }
            Some(Change::PostNorm) => {
                let sum = Cpu::new(self.policy, None).add(a, b, at.clone())?;
                match self.normed_behind(&sum, &at) {
                    Some(values) => self.cpu.input(values, sum.shape(), at),
                    None => self.cpu.add(a, b, at),
                }
            }
            _ => self.cpu.add(a, b, at),
        }
    }

    fn multiply(&self, a: &Tensor, b: &Tensor, at: Site) -> Result<Tensor> {
        if self.change(&at) == Some(Change::ActivatedUp) {
            let layer = at.path().strip_suffix(".gated").unwrap_or_default();
            let gate = self.seen.borrow().get(&format!("{layer}.gate")).cloned();
            return self.cpu.multiply(a, &gate.unwrap_or_else(|| b.clone()), at);
        }
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
        let misread = match self.moves() {
            Some(Change::Handed(handed)) if handed.memory => {
                Some(reinterpreted(x, handed.stored, handed.read))
            }
            _ => None,
        };
        let x = misread.as_ref().unwrap_or(x);
        let selected = self.cpu.select_tokens(x, tokens)?;
        if self.fault.is_some() {
            let part = if tokens.part == Part::Text { "memory.text" } else { "memory.images" };
            let both = [("memory", x), (part, &selected)];
            self.seen.borrow_mut().extend(both.map(|(name, x)| (name.to_owned(), x.clone())));
        }
        Ok(selected)
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
        self.images.borrow_mut().clone_from(&tokens.indices);
        match self.moves() {
            Some(Change::NoImages) => Ok(x.clone()),
            Some(Change::ImagesByColumn) => {
                let runs = tokens.indices.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() + 1;
                let order = layout::by_column(tokens.indices.len(), runs);
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
