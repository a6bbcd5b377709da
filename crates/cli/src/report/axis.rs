//! Ranges and ticks of a plot's axes.

/// The smallest span an axis shows, times the magnitude of its values (or 1): float noise on a constant
/// series must not be stretched to a full panel.
const LEAST_SPAN: f64 = 1e-3;

/// Room above and below the curves, as a fraction of their span.
const PADDING: f64 = 0.06;

/// A range of values and the ticks inside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Holds every finite value, padded, with at most about `ticks` ticks.
    pub fn around(values: impl Iterator<Item = f32>, ticks: usize) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()).map(f64::from) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (-1.0, 1.0);
        }
        let centre = (low + high) / 2.0;
        let span = (high - low).max(LEAST_SPAN * centre.abs().max(1.0));
        let half = span * (0.5 + PADDING);
        Self::exactly(centre - half, centre + half, ticks)
    }

    /// From `low` to `high`, with as many round ticks as there are up to `most`; more only to have two.
    pub fn exactly(low: f64, high: f64, most: usize) -> Self {
        let with_step = |step: f64| {
            let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
            Self { low, high, ticks: (first..=last).map(|tick| tick as f64 * step).collect(), step }
        };
        // From fine to coarse. The first step is at most the least spacing that `most` ticks can have.
        let mut axes = round_steps((high - low) / (most + 1) as f64).map(with_step);
        let mut chosen = axes.next().unwrap_or_else(|| with_step(high - low));
        for coarser in axes {
            if chosen.ticks.len() <= most || coarser.ticks.len() < 2 {
                break;
            }
            chosen = coarser;
        }
        chosen
    }

    /// Where a value lies in the range: 0 at `low`, 1 at `high`.
    pub fn fraction(&self, value: f64) -> f32 {
        ((value - self.low) / (self.high - self.low)) as f32
    }

    /// A tick's text, with the decimals its step needs.
    pub fn label(&self, tick: f64) -> String {
        let magnitude = self.low.abs().max(self.high.abs());
        if tick != 0.0 && magnitude >= 1e5 {
            // Enough digits to tell neighbouring ticks apart, without the zeros at the end.
            let digits = (magnitude / self.step).log10() as usize + 2;
            let text = format!("{tick:.digits$e}").replace('-', "\u{2212}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            return format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'));
        }
        // Steps are 1, 2, 2.5 or 5 times a power of ten.
        let decimals = (0..6).find(|&d| is_whole(self.step * 10f64.powi(d))).unwrap_or(6);
        // Adding zero turns -0 into 0; the true minus sign is as wide as a plus.
        format!("{:.*}", decimals as usize, tick + 0.0).replace('-', "\u{2212}")
    }
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6
}

/// Steps that read well, from the largest not above `least` upwards.
fn round_steps(least: f64) -> impl Iterator<Item = f64> {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0, 20.0, 25.0, 50.0].map(|factor| factor * power);
    let first = steps.iter().rposition(|&step| step <= least).unwrap_or(0);
    steps.into_iter().skip(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|&tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(&Axis::exactly(0.0, 199.0, 4)), ["0", "50", "100", "150"]);
        assert_eq!(labels(&Axis::exactly(-0.42, 0.31, 3)), ["\u{2212}0.25", "0.00", "0.25"]);
    }

    #[test]
    fn a_constant_series_lies_in_the_middle() {
        for constant in [0.0, -1.5, 1.0e6] {
            let axis = Axis::around([constant; 4].into_iter(), 3);
            assert!((axis.fraction(f64::from(constant)) - 0.5).abs() < 1e-3, "{axis:?}");
            assert!(!axis.ticks.is_empty() && axis.ticks.len() < 8, "{axis:?}");
        }
    }

    #[test]
    fn extreme_and_non_finite_values_make_a_usable_range() {
        let none = Axis::around([f32::NAN, f32::INFINITY].into_iter(), 3);
        assert_eq!(labels(&none), ["\u{2212}1", "0", "1"]);
        let huge = Axis::around([f32::MIN, 0.0, f32::MAX, f32::NAN].into_iter(), 3);
        assert!(huge.low.is_finite() && huge.high.is_finite() && huge.ticks.len() < 8, "{huge:?}");
        assert_eq!(labels(&Axis::exactly(0.0, 3.5e5, 3)), ["0", "2e5"]);
        assert_eq!(labels(&Axis::exactly(0.998e6, 1.003e6, 3)), ["9.98e5", "1e6", "1.002e6"]);
    }
}
