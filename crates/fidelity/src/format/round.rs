//! Rounding to the nearest value of a format.

use super::{Format, power_of_two};

impl Format {
    /// The nearest value of this format, ties to even, as PyTorch and CUDA conversions round.
    ///
    /// The non-saturating conversion: overflow gives an infinity, and NaN in `Fp8E4m3`, which has no
    /// infinities (an infinity becomes NaN there too). This is what PyTorch's `.to(float8_e4m3fn)` and
    /// `__NV_NOSAT` do; [`Format::round_saturating`] is the other one. NaN stays NaN.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Format::F32 => value,
            Format::Tf32 => round_wide::<10>(value),
            Format::Bf16 => round_wide::<7>(value),
            Format::Fp16 => round_narrow::<10, -14>(value, Format::Fp16.max(), f32::INFINITY),
            Format::Fp8E4m3 => round_narrow::<3, -6>(value, Format::Fp8E4m3.max(), f32::NAN),
            Format::Fp8E5m2 => round_narrow::<2, -14>(value, Format::Fp8E5m2.max(), f32::INFINITY),
        }
    }

    /// As [`Format::round`], but whatever overflows, infinities included, becomes the largest finite
    /// value of its sign: NVIDIA's `__NV_SATFINITE` and `cvt.satfinite`. NaN stays NaN.
    pub fn round_saturating(self, value: f32) -> f32 {
        let max = self.max();
        // NaN passes through `clamp`.
        self.round(value.clamp(-max, max))
    }

    /// [`Format::round`] on every value, in place.
    pub fn round_slice(self, values: &mut [f32]) {
        // One loop a format, so that each is vectorised over its constants.
        match self {
            Format::F32 => {}
            Format::Tf32 => values.iter_mut().for_each(|value| *value = round_wide::<10>(*value)),
            Format::Bf16 => values.iter_mut().for_each(|value| *value = round_wide::<7>(*value)),
            Format::Fp16 => values.iter_mut().for_each(|value| *value = Format::Fp16.round(*value)),
            Format::Fp8E4m3 => values.iter_mut().for_each(|value| *value = Format::Fp8E4m3.round(*value)),
            Format::Fp8E5m2 => values.iter_mut().for_each(|value| *value = Format::Fp8E5m2.round(*value)),
        }
    }
}

/// Formats with the exponents of f32: rounding is one addition on the bits, subnormals and overflow to
/// infinity included. Branch-free so that the compiler vectorises it.
#[inline(always)]
fn round_wide<const MANTISSA: u32>(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = round_bits::<MANTISSA>(bits);
    // The carry would turn some NaNs into infinities; a set quiet bit keeps them NaN.
    let kept_nan = (bits & (u32::MAX << (23 - MANTISSA))) | 0x0040_0000;
    f32::from_bits(if value.is_nan() { kept_nan } else { rounded })
}

/// Formats with fewer exponents than f32: subnormals and overflow need care. Branch-free as well.
#[inline(always)]
fn round_narrow<const MANTISSA: u32, const MIN_EXPONENT: i32>(value: f32, max: f32, overflow: f32) -> f32 {
    let magnitude = value.abs();
    let normal = f32::from_bits(round_bits::<MANTISSA>(magnitude.to_bits()));
    // At this magnitude one f32 step is one subnormal step of the format, so the addition rounds.
    let steps = const { power_of_two(MIN_EXPONENT - MANTISSA as i32 + 23) as f32 };
    let subnormal = (magnitude + steps) - steps;
    let rounded = if magnitude < const { power_of_two(MIN_EXPONENT) as f32 } { subnormal } else { normal };
    let limited = if rounded > max { overflow } else { rounded };
    let nan = f32::from_bits(value.to_bits() | 0x0040_0000);
    if value.is_nan() { nan } else { limited.copysign(value) }
}

/// Rounds f32 bits to `MANTISSA` stored mantissa bits, ties to even.
#[inline(always)]
fn round_bits<const MANTISSA: u32>(bits: u32) -> u32 {
    let dropped = const { 23 - MANTISSA };
    let half = const { (1 << (22 - MANTISSA)) - 1 };
    bits.wrapping_add(half + ((bits >> dropped) & 1)) & (u32::MAX << dropped)
}
