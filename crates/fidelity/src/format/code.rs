//! The bits that a format stores for a value, and back.

use super::{Format, power_of_two};

const F32_MANTISSA: u32 = 23;
const QUIET: u32 = 0x0040_0000;

impl Format {
    /// The stored bits of `value` rounded by [`Format::round`], in the low [`Format::bits`] bits.
    ///
    /// A NaN keeps its sign and the top of its payload (hardware gives one canonical NaN), so that every
    /// code survives [`Format::decode`] and back.
    pub fn encode(self, value: f32) -> u32 {
        let layout = self.layout();
        let dropped = F32_MANTISSA - layout.mantissa;
        if matches!(self, Format::F32 | Format::Tf32 | Format::Bf16) {
            // Tf32 lies in the high bits of its word, the others fill theirs.
            let unused = 32 - layout.bits;
            let bits = if value.is_nan() { nan_bits(value, dropped) } else { self.round(value).to_bits() };
            return bits >> unused;
        }
        let sign = (value.to_bits() >> 31) << (layout.bits - 1);
        let largest = (1 << (layout.bits - 1)) - 1;
        let rounded = self.round(value).abs();
        let magnitude = if rounded.is_nan() {
            if layout.infinities {
                let exponents = largest >> layout.mantissa << layout.mantissa;
                exponents | ((nan_bits(value, dropped) & 0x007f_ffff) >> dropped)
            } else {
                largest
            }
        } else if rounded.is_infinite() {
            largest >> layout.mantissa << layout.mantissa
        } else if rounded < self.min_positive_normal() {
            // Exact: the rounded value is a whole number of the smallest one.
            (rounded / self.min_positive_subnormal()) as u32
        } else {
            let bias_difference = (126 + layout.min_exponent) as u32;
            (rounded.to_bits() >> dropped) - (bias_difference << layout.mantissa)
        };
        sign | magnitude
    }

    /// The value that the low [`Format::bits`] bits of `bits` stand for; the bits above are ignored. For
    /// `Tf32` the low 13 bits are ignored as well, as a tensor core ignores them.
    pub fn decode(self, bits: u32) -> f32 {
        let layout = self.layout();
        let dropped = F32_MANTISSA - layout.mantissa;
        match self {
            Format::F32 => return f32::from_bits(bits),
            Format::Tf32 => return f32::from_bits(bits >> dropped << dropped),
            Format::Bf16 => return f32::from_bits(bits << 16),
            Format::Fp16 | Format::Fp8E4m3 | Format::Fp8E5m2 => {}
        }
        let sign = ((bits >> (layout.bits - 1)) & 1) << 31;
        let magnitude = bits & ((1 << (layout.bits - 1)) - 1);
        let mantissa = magnitude & ((1 << layout.mantissa) - 1);
        let field = magnitude >> layout.mantissa;
        let largest_field = (1 << (layout.bits - 1 - layout.mantissa)) - 1;
        let value = if field == largest_field && layout.infinities {
            f32::from_bits(0x7f80_0000 | (mantissa << dropped))
        } else if magnitude == (1 << (layout.bits - 1)) - 1 && !layout.infinities {
            f32::NAN
        } else if field == 0 {
            mantissa as f32 * self.min_positive_subnormal()
        } else {
            let significand = f64::from(mantissa | (1 << layout.mantissa));
            let exponent = field as i32 - 1 + layout.min_exponent - layout.mantissa as i32;
            (significand * power_of_two(exponent)) as f32
        };
        f32::from_bits(value.to_bits() & 0x7fff_ffff | sign)
    }
}

/// A NaN's bits without the `dropped` low ones; quiet where nothing else would keep it a NaN.
fn nan_bits(value: f32, dropped: u32) -> u32 {
    let kept = if value.is_nan() { value.to_bits() >> dropped << dropped } else { f32::NAN.to_bits() };
    if kept & 0x007f_ffff == 0 { kept | QUIET } else { kept }
}
