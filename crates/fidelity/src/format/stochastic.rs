//! Stochastic rounding: right on average where rounding to nearest always errs the same way.

use super::{Format, exponent, power_of_two};

impl Format {
    /// One of the two values of this format around `value`, the farther from zero with the probability
    /// that makes the mean `value`. `random` is uniform over all `u32`.
    ///
    /// Values of the format stay themselves. The mean is exact wherever the format's step divides into
    /// 2^32 f32 steps, which holds for all normal values, and within 2^-32 of a step below. A finite value
    /// beyond the largest becomes the largest, as in `cvt.rs.satfinite`; infinities and NaN are treated
    /// as in [`Format::round`].
    pub fn round_stochastic(self, value: f32, random: u32) -> f32 {
        if !value.is_finite() {
            return self.round(value);
        }
        let layout = self.layout();
        let magnitude = f64::from(value.abs());
        let step = power_of_two(exponent(magnitude).max(layout.min_exponent) - layout.mantissa as i32);
        // Exact: a division by a power of two, in a format that has all the exponents it can give.
        let steps = magnitude / step;
        let fraction = steps.fract();
        let up = f64::from(random) < fraction * power_of_two(32);
        let rounded = (steps.trunc() + f64::from(u8::from(up))) * step;
        // Exact as well: the result is a value of the format, all of which are f32.
        (rounded.min(f64::from(layout.max)) as f32).copysign(value)
    }
}
