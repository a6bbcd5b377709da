//! A fault with a number in it that no list can hold: found by what it leaves of the error where it is made.

use super::teacher_forced::{Examination, LocalError, Localization};
use crate::fault::{Fault, Results, clipped_weights};
use steadyhand_gr00t::Result;

/// Shares of the largest weight that are tried first, from just below 1: each is so much of the one before.
const RATIO: f64 = 0.9;
/// How many, down to 1.6 % of the largest weight.
const SHARES: i32 = 40;
/// Steps of the golden section between the neighbours of the best: it ends within 4e-9 of where it begins, below what f32
/// tells apart.
const STEPS: usize = 40;
/// Operations that are computed each time, at most: that one, and a few that the engine does not show.
const MOST_COMPUTED: usize = 8;
/// What the best of the shares leaves of the error, at most, where a narrower search is worth it.
const PROMISING: f64 = 0.9;

impl Examination<'_> {
    /// Weights of the linear layer behind the error `first` that are cut off where that leaves least of it; none where it
    /// does not help, or where more than that one operation would have to be computed again and again.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub(super) fn clipped_at(&self, base: &Localization, first: &LocalError) -> Result<Option<Fault>> {
        let computed = self.plan_at(base, first).map_or(usize::MAX, |plan| plan.computes(|_| true));
        if computed > MOST_COMPUTED {
            return Ok(None);
        }
        let nothing = Results::new();
        let left = |share: f64| -> Result<f64> {
            let fault = clipped_weights(&first.path, share as f32);
            Ok(self.replay_at(base, first, &fault, &nothing)?.unwrap_or(f64::INFINITY))
        };
        let share = |at: i32| RATIO.powi(at);
        let mut best = (0, f64::INFINITY);
        for at in 1..=SHARES {
            let left = left(share(at))?;
            if left < best.1 {
                best = (at, left);
            }
        }
        if best.1 > PROMISING * first.error {
            return Ok(None);
        }
        let (mut low, mut high) = (share(best.0 + 1), share(best.0 - 1));
        let golden = (5.0f64.sqrt() - 1.0) / 2.0;
        for _ in 0..STEPS {
            let [a, b] = [high - golden * (high - low), low + golden * (high - low)];
            match left(a)? <= left(b)? {
                true => high = b,
                false => low = a,
            }
        }
        Ok(Some(clipped_weights(&first.path, (0.5 * (low + high)) as f32)))
    }
}
