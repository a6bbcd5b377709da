//! Norms that are computed otherwise.

use super::change::Norm;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::checkpoint::Weight;
use steadyhand_gr00t::ops::Affine;
use steadyhand_gr00t::ops::cpu::Tensor;

/// What a norm does: its statistics, and what it multiplies and adds.
pub(crate) struct Normed {
    /// Whether the mean is subtracted.
    pub(crate) centred: bool,
    /// Features that share statistics.
    pub(crate) width: usize,
    /// Of `width` features, or of as many as repeat.
    pub(crate) weight: Vec<f32>,
    /// Of all features; empty where there is none.
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f64,
    /// What the normalized values are stored in before they meet the weight.
    pub(crate) stored: Format,
}

impl Normed {
    /// LayerNorm, of values and weights stored in `storage`.
    pub(crate) fn layer(x: &Tensor, affine: Option<&Affine>, eps: f64, storage: Format) -> Self {
        Normed {
            centred: true,
            width: x.shape()[2],
            weight: affine.map(|affine| affine.weight.to_vec(storage)).unwrap_or_default(),
            bias: affine.map(|affine| affine.bias.to_vec(storage)).unwrap_or_default(),
            eps,
            stored: Format::F32,
        }
    }

    /// RMSNorm, which stores the normalized values.
    pub(crate) fn rms(weight: &Weight, eps: f64, stored: Format) -> Self {
        let weight = weight.to_vec(stored);
        Normed { centred: false, width: weight.len(), weight, bias: Vec::new(), eps, stored }
    }

    /// The values of `x` by this norm.
    pub(crate) fn right(&self, x: &Tensor) -> Vec<f32> {
        let values = x.values().chunks_exact(self.width);
        let values: Vec<f32> = values.flat_map(|row| self.row(row, self.centred, Norm::NoWeight)).collect();
        self.affine(values, x.shape()[2], None)
    }

    /// The values of `x` by this norm, but for `other`.
    pub(crate) fn values(&self, x: &Tensor, other: Norm) -> Vec<f32> {
        let features = x.shape()[2];
        let width = if other == Norm::AllHeads { features } else { self.width };
        let centred = self.centred != (other == Norm::OtherMean);
        let values = match other {
            Norm::LeftOut => return x.values().to_vec(),
            Norm::NoStatistics => x.values().to_vec(),
            Norm::OverTokens => over_tokens(x, centred, self.eps),
            _ => x.values().chunks_exact(width).flat_map(|row| self.row(row, centred, other)).collect(),
        };
        self.affine(values, features, Some(other))
    }

    /// Normalized values with weight and bias.
    fn affine(&self, mut values: Vec<f32>, features: usize, other: Option<Norm>) -> Vec<f32> {
        let weight = |at: usize| self.weight.get(at % self.weight.len().max(1)).copied().unwrap_or(1.0);
        let bias = |at: usize| self.bias.get(at).copied().unwrap_or_default();
        for token in values.chunks_exact_mut(features) {
            for (at, value) in token.iter_mut().enumerate() {
                let (weight, bias) = (weight(at), bias(at));
                let scaled = match other {
                    Some(Norm::NoWeight | Norm::NoAffine) => *value,
                    Some(Norm::WeightTwice) => *value * weight * weight,
                    Some(Norm::OnePlusWeight) => *value * (1.0 + weight),
                    Some(Norm::WeightMinusOne) => *value * (weight - 1.0),
                    _ => *value * weight,
                };
                *value = match other {
                    Some(Norm::NoBias | Norm::NoAffine) => scaled,
                    Some(Norm::BiasTwice) => scaled + bias + bias,
                    _ => scaled + bias,
                };
            }
        }
        values
    }

    fn row(&self, row: &[f32], centred: bool, other: Norm) -> Vec<f32> {
        let (mean, squares) = statistics(row.iter().copied(), centred);
        let count = row.len() as f64;
        let inverse = match other {
            Norm::Unbiased => 1.0 / (squares / (count - 1.0).max(1.0) + self.eps).sqrt(),
            Norm::EpsOutside => 1.0 / ((squares / count).sqrt() + self.eps),
            Norm::Length => 1.0 / (squares + self.eps).sqrt(),
            _ => 1.0 / (squares / count + self.eps).sqrt(),
        };
        row.iter().map(|x| self.stored.round(((f64::from(*x) - mean) * inverse) as f32)).collect()
    }
}

/// The mean, 0 where it is not subtracted, and the sum of the squares of what is left.
fn statistics(values: impl Iterator<Item = f32> + Clone, centred: bool) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = if centred { values.clone().map(f64::from).sum::<f64>() / count } else { 0.0 };
    (mean, values.map(|x| (f64::from(x) - mean).powi(2)).sum())
}

/// Each feature normalized over the tokens of its item.
fn over_tokens(x: &Tensor, centred: bool, eps: f64) -> Vec<f32> {
    let [_, tokens, features] = x.shape();
    let mut values = x.values().to_vec();
    for item in values.chunks_exact_mut((tokens * features).max(1)) {
        for feature in 0..features {
            let column = item.iter().skip(feature).step_by(features).copied();
            let (mean, squares) = statistics(column, centred);
            let inverse = 1.0 / (squares / tokens as f64 + eps).sqrt();
            item.iter_mut()
                .skip(feature)
                .step_by(features)
                .for_each(|x| *x = ((f64::from(*x) - mean) * inverse) as f32);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token of two heads: 1, 3 and 2, 6; by hand.
    fn of(centred: bool, width: usize, other: Norm) -> Vec<f32> {
        let x = Tensor::from_values([1, 1, 4], vec![1.0, 3.0, 2.0, 6.0]).expect("four values");
        let (weight, bias) = (vec![2.0; width], vec![0.5; 4]);
        let normed = Normed { centred, width, weight, bias, eps: 0.0, stored: Format::F32 };
        normed.values(&x, other)
    }

    fn near(found: &[f32], expected: &[f32]) {
        let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && apart < 1e-5, "{found:?}, not {expected:?}");
    }

    #[test]
    fn norms_are_taken_for_each_other() {
        // Of each head the mean is subtracted: -1 and 1, -2 and 2, in units of their deviation.
        near(&of(false, 2, Norm::OtherMean), &[-1.5, 2.5, -1.5, 2.5]);
        near(&of(true, 2, Norm::NoWeight), &[-0.5, 1.5, -0.5, 1.5]);
        near(&of(true, 2, Norm::NoBias), &[-2.0, 2.0, -2.0, 2.0]);
        near(&of(true, 2, Norm::NoAffine), &[-1.0, 1.0, -1.0, 1.0]);
        near(&of(true, 2, Norm::WeightTwice), &[-3.5, 4.5, -3.5, 4.5]);
        near(&of(true, 2, Norm::BiasTwice), &[-1.0, 3.0, -1.0, 3.0]);
        near(&of(true, 2, Norm::OnePlusWeight), &[-2.5, 3.5, -2.5, 3.5]);
        near(&of(true, 2, Norm::WeightMinusOne), &[-0.5, 1.5, -0.5, 1.5]);
        near(&of(true, 2, Norm::NoStatistics), &[2.5, 6.5, 4.5, 12.5]);
        near(&of(true, 2, Norm::LeftOut), &[1.0, 3.0, 2.0, 6.0]);
        // A sample's deviation is sqrt(2) and 2 sqrt(2), the vector's length sqrt(10) and 2 sqrt(10).
        let (sample, length) = (2.0 / 2.0f32.sqrt(), 2.0 / 10.0f32.sqrt());
        near(&of(true, 2, Norm::Unbiased), &[0.5 - sample, 0.5 + sample, 0.5 - sample, 0.5 + sample]);
        let long = [0.5 + length, 0.5 + 3.0 * length, 0.5 + length, 0.5 + 3.0 * length];
        near(&of(false, 2, Norm::Length), &long);
        // All heads: a root mean square of sqrt(50 / 4).
        let all = 2.0 / 12.5f32.sqrt();
        near(&of(false, 2, Norm::AllHeads), &[0.5 + all, 0.5 + 3.0 * all, 0.5 + 2.0 * all, 0.5 + 6.0 * all]);
    }

    #[test]
    fn statistics_over_tokens_are_of_each_feature() {
        let x = Tensor::from_values([1, 2, 2], vec![1.0, 10.0, 3.0, 30.0]).expect("four values");
        near(&over_tokens(&x, true, 0.0), &[-1.0, -1.0, 1.0, 1.0]);
        let eps = Normed {
            centred: true,
            width: 2,
            weight: Vec::new(),
            bias: Vec::new(),
            eps: 1.0,
            stored: Format::F32,
        };
        let x = Tensor::from_values([1, 1, 2], vec![-1.0, 1.0]).expect("two values");
        near(&eps.values(&x, Norm::EpsOutside), &[-0.5, 0.5]);
        near(&eps.right(&x), &[-std::f32::consts::FRAC_1_SQRT_2, std::f32::consts::FRAC_1_SQRT_2]);
    }
}
