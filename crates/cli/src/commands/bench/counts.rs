//! How many inferences are measured: what the options say, or on a CPU what fits a minute.

use super::args::BenchArgs;
use crate::output::note;
use crate::progress::roughly;
use std::time::Duration;

/// Measured where no option says another number.
const ITERATIONS: u32 = 100;
/// Run before them where no option says another number.
const WARMUP: u32 = 10;
/// How long the inferences of the CPU may take where no option says their number. Half of it is for all together, half
/// for the stages.
const CPU_TIME: Duration = Duration::from_secs(60);

/// Inferences of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub warmup: u32,
    pub iterations: u32,
}

impl Counts {
    /// Of a measurement whose first inference took so long.
    pub fn new(args: &BenchArgs, engine: &str, first: Duration) -> Self {
        let fitting =
            (CPU_TIME.as_secs_f64() / 2.0 / first.as_secs_f64().max(1e-9)).min(f64::from(u32::MAX)) as u32;
        let (warmup, iterations) = match engine {
            "cpu" => (WARMUP.min(fitting / 10), ITERATIONS.min(fitting).max(1)),
            _ => (WARMUP, ITERATIONS),
        };
        Counts { warmup: args.warmup.unwrap_or(warmup), iterations: args.iterations.unwrap_or(iterations) }
    }

    /// Says what is about to happen where that takes a while.
    pub fn tell(&self, first: Duration) {
        let all = first.as_secs_f64() * f64::from(self.warmup + 2 * self.iterations);
        if all > 2.0 {
            note!(
                "the first inference took {:.1} s; {} are measured after {} that are not, twice for the stages: about {}",
                first.as_secs_f64(),
                self.iterations,
                self.warmup,
                roughly(all)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::words_of;

    #[test]
    fn a_slow_cpu_measures_what_fits_a_minute() {
        let counts = |words: &[&str], engine: &str, first: Duration| {
            let words = ["--checkpoint", "x"].iter().chain(words).map(Into::into);
            let Counts { warmup, iterations } = Counts::new(&words_of(words).unwrap(), engine, first);
            (warmup, iterations)
        };
        let second = Duration::from_secs(1);
        assert_eq!(counts(&[], "cpu", Duration::from_millis(10)), (10, 100));
        assert_eq!(counts(&[], "cpu", 3 * second), (1, 10));
        assert_eq!(counts(&[], "cpu", 90 * second), (0, 1));
        assert_eq!(counts(&[], "cuda", 3 * second), (10, 100));
        assert_eq!(counts(&["--iterations", "7", "--warmup", "0"], "cpu", 90 * second), (0, 7));
    }
}
