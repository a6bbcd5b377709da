//! Weight-only quantization: weights stored in fewer bits than they are multiplied in.

use crate::{Error, Result};
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use steadyhand_fidelity::Format;

/// How the weights of a linear layer are stored. They are dequantized to the compute format before the product;
/// activations are not quantized.
///
/// Symmetric, without a zero point: of weights that share a scale and whose largest magnitude is a, a weight w becomes
/// the code `round(w * (M / a))`, which stands for `code * (a / M)`. M is 127 for int8, 7 for int4, 448 for e4m3. This is
/// what TensorRT's, AWQ's and `onnxruntime`'s symmetric schemes do.
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
        "int8, int4 or fp8_e4m3 with _per_tensor, _per_channel or _per_block_N, or none";

    /// Rounds whole rows of a weight, `features` values each, to what their codes stand for. `amax` is the largest
    /// magnitude of the whole weight, which only [`Sharing::PerTensor`] asks for.
    pub fn round_rows(self, rows: &mut [f32], features: usize, amax: f32) {
        let block = match self.sharing {
            Sharing::PerTensor => return self.code.round(rows, amax),
            Sharing::PerChannel => features,
            Sharing::PerBlock(block) => usize::from(block),
        };
        for row in rows.chunks_mut(features.max(1)) {
            for shared in row.chunks_mut(block.max(1)) {
                let amax = shared.iter().fold(0.0, |largest: f32, value| value.abs().max(largest));
                self.code.round(shared, amax);
            }
        }
    }
}

impl WeightCode {
    const ALL: [WeightCode; 3] = [WeightCode::Int8, WeightCode::Int4, WeightCode::Fp8E4m3];

    fn name(self) -> &'static str {
        match self {
            WeightCode::Int8 => "int8",
            WeightCode::Int4 => "int4",
            WeightCode::Fp8E4m3 => "fp8_e4m3",
        }
    }

    /// The largest code.
    fn max(self) -> f32 {
        match self {
            WeightCode::Int8 => 127.0,
            WeightCode::Int4 => 7.0,
            WeightCode::Fp8E4m3 => Format::Fp8E4m3.max(),
        }
    }

    /// Rounds values of one scale to what their codes stand for.
    fn round(self, values: &mut [f32], amax: f32) {
        // Zeros need no scale; what is not finite stays, to be found where it came from.
        if amax == 0.0 || !amax.is_finite() {
            return;
        }
        let (up, down) = (self.max() / amax, amax / self.max());
        for value in values {
            let code = match self {
                WeightCode::Fp8E4m3 => Format::Fp8E4m3.round_saturating(*value * up),
                WeightCode::Int8 | WeightCode::Int4 => (*value * up).round_ties_even(),
            };
            *value = code * down;
        }
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
        let amax = rows.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        format.parse::<WeightFormat>().expect(format).round_rows(&mut rows, features, amax);
        rows
    }

    #[test]
    fn forms_are_read_as_they_are_written() {
        for form in ["int8_per_tensor", "int8_per_channel", "int4_per_block_128", "fp8_e4m3_per_channel"] {
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
