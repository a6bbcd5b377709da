//! Number formats: what a value becomes when it is stored in one.

mod code;
mod reinterpret;
mod round;
mod stochastic;

#[cfg(test)]
mod tests;

pub use reinterpret::{WidthMismatch, reinterpret, reinterpret_bytes};

use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A floating-point format. Values are carried as `f32`; a format says which of them exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE 754 binary32: 8 exponent bits, 23 stored mantissa bits.
    F32,
    /// NVIDIA TensorFloat-32: 8 exponent bits, 10 stored mantissa bits, kept in 32-bit words whose low
    /// 13 bits count for nothing. The range of `F32` at the precision of `Fp16`.
    Tf32,
    /// bfloat16: 8 exponent bits, 7 stored mantissa bits. The range of `F32` at a 65536th of its precision.
    Bf16,
    /// IEEE 754 binary16: 5 exponent bits, 10 stored mantissa bits. Overflows above 65504.
    Fp16,
    /// OCP FP8 E4M3 (`float8_e4m3fn`): 4 exponent bits, 3 stored mantissa bits, no infinities. Overflows
    /// above 448, to NaN unless the conversion saturates.
    Fp8E4m3,
    /// OCP FP8 E5M2: 5 exponent bits, 2 stored mantissa bits. Overflows above 57344.
    Fp8E5m2,
}

/// What distinguishes one format from another.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Width of one stored value.
    bits: u32,
    /// Stored mantissa bits.
    mantissa: u32,
    /// The exponent of the smallest normal value; the bias of the exponent field is `1 - min_exponent`.
    min_exponent: i32,
    /// The largest finite value.
    max: f32,
    /// Whether the largest exponent means infinity and NaN; otherwise only its largest mantissa is NaN.
    infinities: bool,
}

impl Format {
    /// Every format, widest first.
    pub const ALL: [Format; 6] =
        [Format::F32, Format::Tf32, Format::Bf16, Format::Fp16, Format::Fp8E4m3, Format::Fp8E5m2];

    const fn layout(self) -> Layout {
        let (bits, mantissa, min_exponent, max, infinities) = match self {
            Format::F32 => (32, 23, -126, f32::MAX, true),
            Format::Tf32 => (32, 10, -126, f32::from_bits(0x7f7f_e000), true),
            Format::Bf16 => (16, 7, -126, f32::from_bits(0x7f7f_0000), true),
            Format::Fp16 => (16, 10, -14, 65504.0, true),
            Format::Fp8E4m3 => (8, 3, -6, 448.0, false),
            Format::Fp8E5m2 => (8, 2, -14, 57344.0, true),
        };
        Layout { bits, mantissa, min_exponent, max, infinities }
    }

    /// Bits of one stored value: 32, 16 or 8. `Tf32` is stored in 32, of which 19 count.
    pub const fn bits(self) -> u32 {
        self.layout().bits
    }

    /// The largest finite value.
    pub const fn max(self) -> f32 {
        self.layout().max
    }

    /// The smallest positive value of full precision.
    pub const fn min_positive_normal(self) -> f32 {
        power_of_two(self.layout().min_exponent) as f32
    }

    /// The smallest positive value; below half of it, and at half of it, everything rounds to zero.
    pub const fn min_positive_subnormal(self) -> f32 {
        let layout = self.layout();
        power_of_two(layout.min_exponent - layout.mantissa as i32) as f32
    }

    /// The distance from 1 to the next larger value. Rounding changes a normal value by at most half of
    /// this, relatively.
    pub const fn epsilon(self) -> f32 {
        power_of_two(-(self.layout().mantissa as i32)) as f32
    }

    /// The distance between neighbouring values around `value` (one unit in the last place); that of the
    /// largest finite values beyond them, NaN included. Never zero.
    pub fn ulp(self, value: f32) -> f64 {
        let layout = self.layout();
        let magnitude = f64::from(value.abs().min(layout.max));
        power_of_two(exponent(magnitude).max(layout.min_exponent) - layout.mantissa as i32)
    }

    /// Whether every value of `other` exists in this format too.
    pub fn contains(self, other: Format) -> bool {
        let (this, that) = (self.layout(), other.layout());
        this.mantissa >= that.mantissa
            && this.max >= that.max
            && self.min_positive_subnormal() <= other.min_positive_subnormal()
            && (this.infinities || !that.infinities)
    }

    const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::Tf32 => "tf32",
            Format::Bf16 => "bf16",
            Format::Fp16 => "fp16",
            Format::Fp8E4m3 => "fp8_e4m3",
            Format::Fp8E5m2 => "fp8_e5m2",
        }
    }
}

/// `2^exponent`, exactly, for the exponents of normal f64 values, which are more than f32 has.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `floor(log2(magnitude))` of a value that came from f32, all of which are normal in f64; below every
/// format's smallest exponent for zero.
fn exponent(magnitude: f64) -> i32 {
    ((magnitude.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            format!("number format: expected f32, tf32, bf16, fp16, fp8_e4m3 or fp8_e5m2, found `{name}`")
        })
    }
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
