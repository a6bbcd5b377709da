//! Axes: from values to fractions of a plot, and the ticks in between.

/// The decades a logarithmic axis shows at most: smaller values lie on its floor.
const MOST_DECADES: f64 = 12.0;

/// A range of values, linear or logarithmic.
#[derive(Debug, Clone)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Axis {
    /// Logarithmic, over whole decades that hold every positive finite value.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values.filter(|&value| value > 0.0)).unwrap_or((0.1, 1.0));
        let high = high.log10().ceil();
        let low = low.log10().floor().max(high - MOST_DECADES).min(high - 1.0);
        Axis { low, high, logarithmic: true }
    }

    /// Linear from zero, with some room above the largest finite value.
    pub fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let high = range(values).map_or(0.0, |(_, high)| high);
        Axis { low: 0.0, high: if high > 0.0 { high * 1.05 } else { 1.0 }, logarithmic: false }
    }

    /// Linear around every finite value. A nearly constant series is not stretched: its span is at least a
    /// thousandth of its size.
    pub fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values).unwrap_or((-1.0, 1.0));
        let centre = low / 2.0 + high / 2.0;
        let half = 0.54 * (high - low).max(1e-3 * centre.abs().max(1e-3));
        Axis { low: centre - half, high: centre + half, logarithmic: false }
    }

    /// The values at both ends of a linear axis.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Where a value lies: 0 at the low end, 1 at the high end; none for a value that is not finite.
    pub fn fraction(&self, value: f64) -> Option<f64> {
        if !value.is_finite() {
            return None;
        }
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let fraction = (value - self.low) / (self.high - self.low);
        fraction.is_finite().then(|| fraction.clamp(0.0, 1.0))
    }

    /// At most about `most` round values with their labels, from low to high.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        if self.logarithmic {
            let (low, high) = (self.low as i32, self.high as i32);
            let step = ((high - low) as usize).div_ceil(most).max(1);
            return (low..=high).step_by(step).map(|e| (10f64.powi(e), format!("1e{e}"))).collect();
        }
        let ticks = |step: f64| (self.low / step).ceil() as i64..=(self.high / step).floor() as i64;
        let power = 10f64.powf(((self.high - self.low) / most as f64).log10().floor());
        // From fine to coarse: the first with few enough ticks, unless that has a single one.
        let mut steps = [0.5, 1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter();
        let mut step = steps.next().unwrap_or(power);
        for coarser in steps {
            if ticks(step).count() <= most || ticks(coarser).count() < 2 {
                break;
            }
            step = coarser;
        }
        let ticks = ticks(step).map(|tick| tick as f64 * step);
        ticks.map(|tick| (tick, self.label(tick, step))).collect()
    }

    /// A linear tick's text, with the decimals its step needs.
    fn label(&self, tick: f64, step: f64) -> String {
        let magnitude = self.low.abs().max(self.high.abs());
        if tick == 0.0 {
            "0".to_owned()
        } else if (1e-2..1e4).contains(&magnitude) && step >= 1e-4 {
            let decimals = (-step.log10().floor()).max(0.0) as usize;
            format!("{tick:.decimals$}")
        } else {
            // Enough digits to tell neighbouring ticks apart.
            let digits = (tick.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
            format!("{tick:.digits$e}")
        }
    }
}

/// The least and the largest finite value.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, most: usize) -> Vec<String> {
        axis.ticks(most).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::from_zero([0.03].into_iter()), 4), ["0", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(&Axis::from_zero([3.1e-6].into_iter()), 4), ["0", "1e-6", "2e-6", "3e-6"]);
        assert_eq!(labels(&Axis::around([-0.42, 0.31].into_iter()), 4), ["-0.4", "-0.2", "0", "0.2"]);
        assert_eq!(labels(&Axis::logarithmic([3e-4, 2e-2].into_iter()), 4), ["1e-4", "1e-3", "1e-2", "1e-1"]);
    }

    #[test]
    fn extreme_values_have_a_place_or_none() {
        let axis = Axis::logarithmic([0.0, f64::NAN, f64::INFINITY, 1e-300, 1.0].into_iter());
        assert_eq!([f64::NAN, f64::INFINITY].map(|value| axis.fraction(value)), [None, None]);
        assert_eq!([0.0, 1e-300].map(|value| axis.fraction(value)), [Some(0.0), Some(0.0)]);
        let huge = Axis::around([f64::from(f32::MIN), f64::from(f32::MAX)].into_iter());
        assert!(huge.ticks(3).len() < 8, "{huge:?}");
        let constant = Axis::around([1e6; 3].into_iter());
        assert!((constant.fraction(1e6).unwrap() - 0.5).abs() < 1e-6);
        assert!(!constant.ticks(3).is_empty());
        assert!(!Axis::from_zero([f64::NAN].into_iter()).ticks(3).is_empty());
    }
}
