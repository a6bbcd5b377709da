//! Quantized linear layers: weights stored in fewer bits than the checkpoint's, activations that are brought to whole
//! numbers before the product.

use super::ActivationScale;
use crate::{Error, Result};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use steadyhand_fidelity::Format;

/// How the weights of a linear layer are stored. They are dequantized to the compute format before the product, unless
/// the layer's activations are quantized too ([`ActivationFormat`]).
///
/// int8, int4 and e4m3 are symmetric, without a zero point: of weights that share a scale and whose largest magnitude is
/// a, a weight w becomes the code `round(w * (M / a))`, which stands for `code * (a / M)`. M is 127 for int8, 7 for int4,
/// 448 for e4m3. This is what TensorRT's, AWQ's and `onnxruntime`'s symmetric schemes do.
///
/// uint8 and uint4 have a zero point. With l the smallest and h the largest of the weights that share a scale, zero
/// counted among them, and L the largest code, 255 or 15, the step is s = (h - l) / L and the zero point z = round(-l / s);
/// w becomes `clamp(round(w / s) + z, 0, L)`, which stands for `(code - z) * s`. So ONNX's QuantizeLinear and AWQ do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormat {
    /// What a weight is stored as.
    pub code: WeightCode,
    /// Which weights share a scale.
    pub sharing: Sharing,
}

/// What one weight is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightCode {
    /// A whole number from -127 to 127.
    Int8,
    /// A whole number from -7 to 7.
    Int4,
    /// A whole number from 0 to 255, of which one stands for zero.
    Uint8,
    /// A whole number from 0 to 15, of which one stands for zero.
    Uint4,
    /// OCP FP8 E4M3.
    Fp8E4m3,
}

/// Which weights of a layer `[out, in]` share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All of them.
    PerTensor,
    /// Those of one output feature.
    PerChannel,
    /// This many neighbours of one output feature; the last block may be shorter.
    PerBlock(u16),
}

impl WeightFormat {
    /// What can be asked for, in words.
    pub const FORMS: &'static str =
        "int8, int4, uint8, uint4 or fp8_e4m3 with _per_tensor, _per_channel or _per_block_N, or none";

    /// Rounds whole rows of a weight, `features` values each, to what their codes stand for. `whole` is the extent of the
    /// whole weight, which only [`Sharing::PerTensor`] asks for.
    pub fn round_rows(self, rows: &mut [f32], features: usize, whole: Extent) {
        let block = match self.sharing {
            Sharing::PerTensor => return self.code.round(rows, whole),
            Sharing::PerChannel => features,
            Sharing::PerBlock(block) => usize::from(block),
        };
        for row in rows.chunks_mut(features.max(1)) {
            for shared in row.chunks_mut(block.max(1)) {
                let extent = Extent::of(shared);
                self.code.round(shared, extent);
            }
        }
    }
}

/// The smallest and the largest of some values, zero counted among them; what is no number is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Extent {
    /// At most zero.
    pub low: f32,
    /// At least zero.
    pub high: f32,
}

impl Extent {
    /// That of these values.
    pub fn of(values: &[f32]) -> Self {
        values.iter().fold(Extent::default(), |extent, value| Extent {
            low: extent.low.min(*value),
            high: extent.high.max(*value),
        })
    }

    /// That of both.
    #[must_use]
    pub fn with(self, other: Extent) -> Self {
        Extent { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// The largest magnitude.
    pub fn amax(self) -> f32 {
        self.high.max(-self.low)
    }
}

impl WeightCode {
    const ALL: [WeightCode; 5] =
        [WeightCode::Int8, WeightCode::Int4, WeightCode::Uint8, WeightCode::Uint4, WeightCode::Fp8E4m3];

    fn name(self) -> &'static str {
        match self {
            WeightCode::Int8 => "int8",
            WeightCode::Int4 => "int4",
            WeightCode::Uint8 => "uint8",
            WeightCode::Uint4 => "uint4",
            WeightCode::Fp8E4m3 => "fp8_e4m3",
        }
    }

    /// The largest code.
    fn max(self) -> f32 {
        match self {
            WeightCode::Int8 => 127.0,
            WeightCode::Int4 => 7.0,
            WeightCode::Uint8 => 255.0,
            WeightCode::Uint4 => 15.0,
            WeightCode::Fp8E4m3 => Format::Fp8E4m3.max(),
        }
    }

    /// Rounds values of one scale to what their codes stand for.
    fn round(self, values: &mut [f32], extent: Extent) {
        let amax = extent.amax();
        // Zeros need no scale; what is not finite stays, to be found where it came from.
        if amax == 0.0 || !amax.is_finite() {
            return;
        }
        let (up, down) = (self.max() / amax, amax / self.max());
        let step = (extent.high - extent.low) / self.max();
        let zero = (-extent.low / step).round_ties_even();
        for value in values {
            *value = match self {
                WeightCode::Fp8E4m3 => Format::Fp8E4m3.round_saturating(*value * up) * down,
                // Values beyond a calibrated magnitude saturate.
                WeightCode::Int8 | WeightCode::Int4 => {
                    (*value * up).round_ties_even().clamp(-self.max(), self.max()) * down
                }
                WeightCode::Uint8 | WeightCode::Uint4 => {
                    let code = (*value / step).round_ties_even() + zero;
                    (code.clamp(0.0, self.max()) - zero) * step
                }
            };
        }
    }
}

/// How the activations of a linear layer whose weights are whole numbers are quantized (W8A8): the codes are multiplied
/// and summed as integers, exactly, and the sum is scaled in f32.
///
/// int8 is symmetric, M = 127, uint8 has a zero point, both as in [`WeightFormat`]; uint8 for the whole tensor is what
/// `onnxruntime.quantization.quantize_dynamic` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationFormat {
    /// Whether one of the codes from 0 to 255 stands for zero; codes lie from -127 to 127 otherwise.
    pub zero_point: bool,
    /// Whether each token has a scale of its own. One scale is the whole observation's otherwise, from a
    /// [`Calibration`](super::Calibration) where the policy has one.
    pub per_token: bool,
}

impl ActivationFormat {
    const ALL: [ActivationFormat; 4] = [
        ActivationFormat { zero_point: false, per_token: false },
        ActivationFormat { zero_point: false, per_token: true },
        ActivationFormat { zero_point: true, per_token: false },
        ActivationFormat { zero_point: true, per_token: true },
    ];

    /// Rounds the activations of one observation, tokens of `features` values, to what their codes stand for.
    pub fn round(self, values: &mut [f32], features: usize, scale: ActivationScale) {
        let code = if self.zero_point { WeightCode::Uint8 } else { WeightCode::Int8 };
        let shared = if self.per_token { features } else { values.len() };
        for values in values.chunks_mut(shared.max(1)) {
            let extent = match scale {
                ActivationScale::Dynamic => Extent::of(values),
                ActivationScale::Calibrated(amax) => Extent { low: -amax, high: amax },
            };
            code.round(values, extent);
        }
    }
}

impl fmt::Display for ActivationFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.zero_point { "uint8" } else { "int8" };
        let sharing = if self.per_token { "token" } else { "tensor" };
        f.pad(&format!("{code}_per_{sharing}"))
    }
}

impl FromStr for ActivationFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        ActivationFormat::ALL.into_iter().find(|format| format.to_string() == name).ok_or_else(|| {
            let known = ActivationFormat::ALL.map(|format| format.to_string()).join(", ");
            Error::input("activations", format!("expected one of {known} or none, found `{name}`"))
        })
    }
}

impl Serialize for ActivationFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.name();
        match self.sharing {
            Sharing::PerTensor => f.pad(&format!("{code}_per_tensor")),
            Sharing::PerChannel => f.pad(&format!("{code}_per_channel")),
            Sharing::PerBlock(block) => f.pad(&format!("{code}_per_block_{block}")),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parsed = WeightCode::ALL.into_iter().find_map(|code| {
            let sharing = match name.strip_prefix(code.name())?.strip_prefix("_per_")? {
                "tensor" => Sharing::PerTensor,
                "channel" => Sharing::PerChannel,
                block => Sharing::PerBlock(block.strip_prefix("block_")?.parse().ok().filter(|n| *n > 0)?),
            };
            Some(WeightFormat { code, sharing })
        });
        parsed.ok_or_else(|| {
            Error::input("weights", format!("expected {}, found `{name}`", WeightFormat::FORMS))
        })
    }
}

impl Serialize for WeightFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(format: &str, rows: &[f32], features: usize) -> Vec<f32> {
        let mut rows = rows.to_vec();
        let whole = Extent::of(&rows);
        format.parse::<WeightFormat>().expect(format).round_rows(&mut rows, features, whole);
        rows
    }

    #[test]
    fn forms_are_read_as_they_are_written() {
        for form in [
            "int8_per_tensor",
            "int8_per_channel",
            "int4_per_block_128",
            "uint4_per_block_32",
            "fp8_e4m3_per_channel",
        ] {
            assert_eq!(form.parse::<WeightFormat>().expect(form).to_string(), form);
        }
        for wrong in ["int8", "int2_per_tensor", "int4_per_block_0", "int4_per_block_x", "per_tensor", ""] {
            let error = wrong.parse::<WeightFormat>().expect_err(wrong).to_string();
            assert!(error.contains("int8") && error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    /// By hand: the scale is what 127 or 7 stands for, ties go to the even code.
    #[test]
    fn codes_stand_for_multiples_of_the_scale() {
        assert_eq!(rounded("int8_per_channel", &[127.0, 1.4, -0.5, 1.5], 4), [127.0, 1.0, 0.0, 2.0]);
        assert_eq!(rounded("int4_per_channel", &[-14.0, 3.0, 5.0, 0.9], 4), [-14.0, 4.0, 4.0, 0.0]);
        assert_eq!(rounded("fp8_e4m3_per_tensor", &[448.0, 17.0, 0.0, -1.0], 2), [448.0, 16.0, 0.0, -1.0]);
    }

    /// By hand: from -1 to 254 a step is 1 and code 1 stands for zero; zero is a code also where all weights are above it.
    #[test]
    fn a_zero_point_uses_all_codes_and_keeps_zero() {
        assert_eq!(rounded("uint8_per_channel", &[-1.0, 254.0, 0.4, 100.6], 4), [-1.0, 254.0, 0.0, 101.0]);
        assert_eq!(rounded("uint4_per_tensor", &[30.0, 0.0, 15.0, 2.9], 2), [30.0, 0.0, 16.0, 2.0]);
        let skewed = [-0.1, 1.0, 0.333, 0.777];
        let error = |format: &str| {
            let found = rounded(format, &skewed, 4);
            found.iter().zip(&skewed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(error("uint8_per_channel") < error("int8_per_channel"));
    }

    #[test]
    fn activations_have_a_scale_for_the_tensor_or_for_each_token() {
        let round = |format: &str, scale| {
            let mut values = [127.0, 0.4, 1.27, 0.004];
            format.parse::<ActivationFormat>().expect(format).round(&mut values, 2, scale);
            values
        };
        assert_eq!(round("int8_per_tensor", ActivationScale::Dynamic), [127.0, 0.0, 1.0, 0.0]);
        assert_eq!(round("int8_per_token", ActivationScale::Dynamic)[..3], [127.0, 0.0, 1.27]);
        // What exceeds a calibrated magnitude saturates.
        assert_eq!(round("int8_per_tensor", ActivationScale::Calibrated(12.7))[0], 12.7);
        assert_eq!(round("uint8_per_token", ActivationScale::Dynamic)[2], 1.27);
        for wrong in ["int8", "int8_per_channel", "uint4_per_tensor", ""] {
            let error = wrong.parse::<ActivationFormat>().expect_err(wrong).to_string();
            assert!(error.contains("uint8_per_token") && error.contains(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn those_that_share_a_scale_share_their_largest() {
        // A row of large and a row of small weights; blocks of two.
        let rows = [127.0, 0.4, 0.0, 12.7, 1.27, 0.013, 0.0, 0.0];
        let error = |format: &str, at: usize| (rounded(format, &rows, 4)[at] - rows[at]).abs();
        assert_eq!(error("int8_per_tensor", 5), 0.013);
        assert!(error("int8_per_channel", 5) < 0.004);
        assert!(error("int8_per_channel", 3) > 0.1 && error("int8_per_block_2", 3) == 0.0);
        assert!(rounded("int8_per_channel", &[f32::NAN, 1.0], 2)[0].is_nan());
    }
}
