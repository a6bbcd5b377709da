//! Real-time chunking: a chunk of actions that goes on from the one that the robot is executing.
//!
//! The new chunk begins with the end of the last one instead of noise. The first steps of that overlap, which will have been
//! executed before the inference ends, are not moved at all; the following ones are moved the more the later they are; behind
//! the overlap the velocity counts in full. The model itself is told nothing.
//!
//! Source: `get_action` in `gr00t_n1d7.py` (experimental there).

use crate::observation::Matrix;
use crate::{Error, Result};

/// How a chunk goes on from the one before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RtcOptions {
    /// Steps of the chunk before.
    pub action_horizon: usize,
    /// Its last steps, which the new chunk begins with.
    pub overlap_steps: usize,
    /// Steps at the beginning of the new chunk that stay as they are.
    pub frozen_steps: usize,
    /// How quickly the steps between those and the end of the overlap follow the velocity; above 0.
    pub ramp_rate: f32,
}

/// The chunk before, and how to go on from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rtc {
    /// `[at least action_horizon, max_action_dim]`, normalized and zero-padded.
    pub previous: Matrix,
    /// How to go on.
    pub options: RtcOptions,
}

impl RtcOptions {
    /// Whether the steps fit each other and a chunk of `horizon` steps.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self, horizon: usize) -> Result<()> {
        for (field, found, most, of) in [
            ("action_horizon", self.action_horizon, horizon, "the steps of a chunk"),
            ("overlap_steps", self.overlap_steps, self.action_horizon, "action_horizon"),
            ("frozen_steps", self.frozen_steps, self.overlap_steps, "overlap_steps"),
        ] {
            if found > most {
                let what = format!("expected at most {most}, {of}, found {found}");
                return Err(Error::input(format!("rtc.{field}"), what));
            }
        }
        if !(self.ramp_rate.is_finite() && self.ramp_rate > 0.0) {
            let what = format!("expected a number above 0, found {}", self.ramp_rate);
            return Err(Error::input("rtc.ramp_rate", what));
        }
        Ok(())
    }

    /// By how much each of `horizon` steps follows the velocity.
    pub fn strength(&self, horizon: usize) -> Vec<f32> {
        let RtcOptions { overlap_steps: overlap, frozen_steps: frozen, ramp_rate: rate, .. } = *self;
        let whole = (1.0 - (-rate).exp()).max(1e-8);
        let ramp = |step: usize| {
            let share = (step - frozen + 1) as f32 / (overlap - frozen + 1) as f32;
            (1.0 - (-rate * share).exp()) / whole
        };
        let one = |step: usize| match step {
            step if step < frozen => 0.0,
            step if step < overlap => ramp(step),
            _ => 1.0,
        };
        (0..horizon).map(one).collect()
    }
}

impl Rtc {
    /// Whether it fits a model with chunks of `[horizon, dim]`.
    ///
    /// # Errors
    /// As [`RtcOptions::check`]; actions of another shape.
    pub fn check(&self, [horizon, dim]: [usize; 2]) -> Result<()> {
        self.options.check(horizon)?;
        let Matrix { rows, cols, ref data } = self.previous;
        let least = self.options.action_horizon;
        if cols != dim || rows < least || data.len() != rows * cols {
            let what = format!("expected at least {least} rows of {dim} values, found [{rows}, {cols}]");
            return Err(Error::input("rtc.previous", what));
        }
        Ok(())
    }

    /// The actions that the new chunk starts from: `noise` with the overlap in its first rows.
    pub fn start(&self, noise: &Matrix) -> Vec<f32> {
        let RtcOptions { action_horizon, overlap_steps, .. } = self.options;
        let cols = noise.cols;
        let overlap = &self.previous.data[(action_horizon - overlap_steps) * cols..action_horizon * cols];
        [overlap, &noise.data[overlap.len()..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: RtcOptions =
        RtcOptions { action_horizon: 16, overlap_steps: 9, frozen_steps: 3, ramp_rate: 6.0 };

    #[test]
    fn the_strength_of_the_official_code() {
        let strength = OPTIONS.strength(20);
        let expected = [0.0, 0.0, 0.0, 0.5771, 0.8219, 0.9259, 0.9700, 0.9887, 0.9966, 1.0];
        for (found, expected) in strength.iter().zip(expected) {
            assert!((found - expected).abs() < 5e-5, "{strength:?}");
        }
        assert_eq!(strength[9..], [1.0; 11]);
        let none = RtcOptions { overlap_steps: 3, ..OPTIONS };
        assert_eq!(none.strength(5), [0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn the_end_of_the_chunk_before_comes_first() {
        let previous = Matrix { rows: 20, cols: 2, data: (0..40).map(|i| i as f32).collect() };
        let noise = Matrix { rows: 20, cols: 2, data: vec![-1.0; 40] };
        let start = Rtc { previous, options: OPTIONS }.start(&noise);
        assert_eq!((start[0], start[17], start[18], start.len()), (14.0, 31.0, -1.0, 40));
    }

    #[test]
    fn steps_that_do_not_fit_are_refused() {
        let refused = |options: RtcOptions| options.check(20).expect_err("refused").to_string();
        assert!(refused(RtcOptions { action_horizon: 21, ..OPTIONS }).contains("rtc.action_horizon"));
        assert!(refused(RtcOptions { overlap_steps: 17, ..OPTIONS }).contains("at most 16"));
        assert!(refused(RtcOptions { frozen_steps: 10, ..OPTIONS }).contains("rtc.frozen_steps"));
        assert!(refused(RtcOptions { ramp_rate: f32::NAN, ..OPTIONS }).contains("rtc.ramp_rate"));
    }
}
