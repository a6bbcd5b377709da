//! Weights without a file: every element is a hash of its place, so that a CPU and a GPU make the same bits.
//!
//! Element `i` (row-major) of a tensor with `key`, `scale` and `offset` is
//!
//! ```text
//! h = splitmix64(key + i * 0x9e3779b97f4a7c15)      64-bit, wrapping
//! m = 2 * (h >> 56) - 255                           odd, -255 to 255
//! m = m / 16 * 16                                   where offset != 0; integer division toward zero
//! value = offset + scale * m / 256
//! ```
//!
//! with `splitmix64` the finalizer of that generator. A scale is a power of two, so `m`, which has eight bits,
//! makes every value exactly a bf16, and every step above is exact in f32. An offset of 1 with a scale of 1/8
//! gives `1 + k / 128` with `|k| <= 15`, which is exact as well.

/// The step between the hash inputs of neighbouring elements: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// The scale of biases: small beside activations of magnitude one.
const BIAS_SCALE: f32 = 1.0 / 64.0;
/// The spread of norm weights around one.
const NORM_SCALE: f32 = 1.0 / 8.0;

/// How the elements of one tensor are made; the file's head has the formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Synthetic {
    /// Names the tensor's sequence of hashes.
    pub key: u64,
    /// A power of two; values lie within `scale` of `offset`.
    pub scale: f32,
    /// 0, or 1 for the weights of norms.
    pub offset: f32,
}

impl Synthetic {
    /// The tensor of this name and shape, at a magnitude that keeps the activations' size from layer to layer:
    /// matrices get the power of two nearest to `sqrt(3 / in_features)`, norm weights lie around one, biases
    /// are small.
    pub(super) fn new(seed: u64, name: &str, shape: &[usize]) -> Self {
        let (scale, offset) = match *shape {
            // `CategorySpecificLinear.W`: [slots, in, out].
            [_, in_features, _] => (matrix_scale(in_features), 0.0),
            [_, in_features] if name.ends_with(".weight") => (matrix_scale(in_features), 0.0),
            // A convolution's kernel: a row is a whole patch.
            [_, ref kernel @ ..] if kernel.len() > 1 => (matrix_scale(kernel.iter().product()), 0.0),
            [_] if name.ends_with(".weight") => (NORM_SCALE, 1.0),
            _ => (BIAS_SCALE, 0.0),
        };
        let named = name.bytes().fold(splitmix64(seed), |key, byte| splitmix64(key ^ u64::from(byte)));
        Synthetic { key: named, scale, offset }
    }

    /// Element `index`, counted row-major: exactly a bf16.
    pub fn value(&self, index: u64) -> f32 {
        let hash = splitmix64(self.key.wrapping_add(index.wrapping_mul(STEP)));
        let odd = 2 * (hash >> 56) as i32 - 255;
        let units = if self.offset == 0.0 { odd } else { odd / 16 * 16 };
        self.offset + self.scale * (units as f32 / 256.0)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn splitmix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The power of two nearest to `sqrt(3 / in_features)`, at most 1: uniform values of that width have the
/// variance `1 / in_features`. In integers: `2^-e` with the smallest e for which `in_features < 3 * 2^(2e + 1)`.
fn matrix_scale(in_features: usize) -> f32 {
    let (mut scale, mut limit) = (1.0, 6);
    while in_features >= limit {
        scale /= 2.0;
        limit = limit.saturating_mul(4);
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn splitmix_gives_the_published_sequence() {
        // The generator's first outputs from the state 1234567, whose states are multiples of STEP.
        let outputs = [1u64, 2, 3].map(|i| splitmix64(1_234_567u64.wrapping_add(i.wrapping_mul(STEP))));
        assert_eq!(
            outputs,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn scales_follow_the_number_of_inputs() {
        for (in_features, scale) in
            [(1, 1.0), (5, 1.0), (6, 0.5), (128, 0.125), (588, 0.0625), (1152, 0.0625), (2048, 0.03125)]
        {
            assert_eq!(matrix_scale(in_features), scale, "{in_features}");
            let exact = (3.0 / in_features as f64).sqrt().min(1.0);
            assert!((exact / f64::from(scale)).log2().abs() <= 0.5 + 1e-12, "{in_features}");
        }
    }

    #[test]
    fn kinds_of_tensors_are_told_by_name_and_shape() {
        let kind = |name: &str, shape: &[usize]| {
            let Synthetic { scale, offset, .. } = Synthetic::new(0, name, shape);
            (scale, offset)
        };
        assert_eq!(kind("a.norm1.weight", &[64]), (NORM_SCALE, 1.0));
        assert_eq!(kind("a.norm1.bias", &[64]), (BIAS_SCALE, 0.0));
        assert_eq!(kind("a.fc.weight", &[64, 1152]), (0.0625, 0.0));
        assert_eq!(kind("a.layer1.W", &[32, 128, 1024]), (0.125, 0.0));
        assert_eq!(kind("a.layer1.b", &[32, 1024]), (BIAS_SCALE, 0.0));
    }

    #[test]
    fn values_are_bf16_within_their_range_and_spread_evenly() {
        for (name, shape) in
            [("a.weight", vec![512, 48]), ("a.weight", vec![24_576]), ("a.bias", vec![24_576])]
        {
            let source = Synthetic::new(7, name, &shape);
            let values: Vec<f32> = (0..24_576).map(|i| source.value(i)).collect();
            assert!(values.iter().all(|v| bf16::from_f32(*v).to_f32() == *v), "{source:?}");
            let deviations: Vec<f64> =
                values.iter().map(|v| f64::from((v - source.offset) / source.scale)).collect();
            let largest = deviations.iter().fold(0.0, |a: f64, d| a.max(d.abs()));
            let mean = deviations.iter().sum::<f64>() / deviations.len() as f64;
            let variance = deviations.iter().map(|d| d * d).sum::<f64>() / deviations.len() as f64;
            // Four standard errors of the mean; the variance of a uniform value, less for whole sixteenths.
            let (bound, expected) = if source.offset == 0.0 { (255.0, 0.333) } else { (240.0, 0.302) };
            assert_eq!(largest, bound / 256.0, "{source:?}");
            assert!(mean.abs() < 0.015 && (variance - expected).abs() < 0.01, "{source:?} {mean} {variance}");
        }
    }

    #[test]
    fn seed_and_name_choose_the_sequence() {
        let first = |seed, name: &str| Synthetic::new(seed, name, &[8, 8]).key;
        assert_eq!(first(1, "a.weight"), first(1, "a.weight"));
        assert_ne!(first(1, "a.weight"), first(2, "a.weight"));
        assert_ne!(first(1, "a.weight"), first(1, "b.weight"));
    }
}
