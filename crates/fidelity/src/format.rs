//! Number formats: what a value becomes when it is stored in one.

use half::f16;
use std::fmt;
use std::str::FromStr;

/// A floating-point format. Values are carried as `f32`; a format says which of them exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32: 8 exponent bits, 23 stored mantissa bits.
    F32,
    /// bfloat16: 8 exponent bits, 7 stored mantissa bits. The range of `F32` at a 65536th of its precision.
    Bf16,
    /// IEEE 754 binary16: 5 exponent bits, 10 stored mantissa bits. Overflows above 65504.
    Fp16,
}

impl Format {
    /// The nearest value of this format, ties to even, as PyTorch and CUDA conversions round.
    /// Overflow gives an infinity, NaN stays NaN.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Format::F32 => value,
            Format::Bf16 => round_bf16(value),
            Format::Fp16 => f16::from_f32(value).to_f32(),
        }
    }

    /// [`Format::round`] on every value, in place.
    pub fn round_slice(self, values: &mut [f32]) {
        match self {
            Format::F32 => {}
            Format::Bf16 => values.iter_mut().for_each(|value| *value = round_bf16(*value)),
            Format::Fp16 => values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
        }
    }

    /// Whether every value of `other` exists in this format too.
    pub fn contains(self, other: Format) -> bool {
        self == other || self == Format::F32
    }
}

/// Branch-free on the bits so that the compiler vectorises it; `half` converts one value at a time.
fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    // The carry would turn some NaNs into infinities; a set quiet bit keeps them NaN.
    let kept_nan = (bits & 0xffff_0000) | 0x0040_0000;
    f32::from_bits(if value.is_nan() { kept_nan } else { rounded })
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::Fp16 => "fp16",
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Format::F32),
            "bf16" => Ok(Format::Bf16),
            "fp16" => Ok(Format::Fp16),
            _ => Err(format!("number format: expected f32, bf16 or fp16, found `{name}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn bf16_rounds_to_nearest_even_like_the_half_crate() {
        let special =
            [0.0, -0.0, 1.0, -1.5, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        let mut bits = 0x9e37_79b9u32;
        let random = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits)
        });
        for value in special.into_iter().chain(random.take(100_000)) {
            let expected = bf16::from_f32(value).to_f32();
            let found = Format::Bf16.round(value);
            assert!(
                expected.to_bits() == found.to_bits() || (expected.is_nan() && found.is_nan()),
                "{value}"
            );
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_to_infinity() {
        assert_eq!(Format::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(Format::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 2.0 / 128.0);
        assert_eq!(Format::Bf16.round(f32::MAX), f32::INFINITY);
        assert_eq!(Format::Fp16.round(65519.0), 65504.0);
        assert_eq!(Format::Fp16.round(65520.0), f32::INFINITY);
        assert_eq!(Format::Fp16.round(2.0f32.powi(-25)), 0.0);
        assert!(Format::Bf16.round(f32::from_bits(0x7fff_ffff)).is_nan());
    }

    #[test]
    fn a_slice_rounds_as_its_values_do() {
        for format in [Format::F32, Format::Bf16, Format::Fp16] {
            let values: Vec<f32> =
                (0..1000).map(|i| (i as f32 * 0.37).sin() * 10f32.powi(i % 9 - 4)).collect();
            let mut slice = values.clone();
            format.round_slice(&mut slice);
            assert!(values.iter().zip(&slice).all(|(value, rounded)| format.round(*value) == *rounded));
        }
    }
}
