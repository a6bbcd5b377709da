//! Fault matchers: which simple transformation of the reference reproduces what an engine gave.
//!
//! Each matcher is one hypothesis, such as "the bits were read as another format" or "the rows behind this
//! one were never written". A hypothesis is claimed only where it leaves almost nothing unexplained;
//! unexplained errors match nothing.

mod bits;
mod describe;
mod kind;
mod layout;
mod values;

#[cfg(test)]
mod tests;

pub use kind::{Fill, Match, MatchKind};

use crate::relative_l2;

/// A residual may exceed the floor by this much: floors are measured as means over calls, and single calls
/// scatter around them by less than this factor.
pub const FLOOR_FACTOR: f64 = 3.0;
/// A hypothesis must leave less than this share of the error unexplained.
pub const UNEXPLAINED_SHARE: f64 = 0.2;
/// Fewer values than this come near some hypothesis by chance; they have to agree exactly.
const MIN_VALUES: usize = 16;
/// Fewer values than this may even agree exactly by chance.
const MIN_EXACT_VALUES: usize = 4;
/// In place of a number of values: zeros and NaNs where others should be speak for themselves.
const SELF_EVIDENT: usize = usize::MAX;

/// What is known about a tensor besides its values.
#[derive(Debug, Clone)]
pub struct MatchContext<'a> {
    /// The relative L2 error of a healthy engine at this tensor. 0 accepts only exact explanations.
    pub floor: f64,
    /// The reference of the previous call, if there was one.
    pub previous: Option<&'a [f32]>,
    /// Numbers of heads or channel groups that the last dimension may divide into.
    pub groups: &'a [usize],
    /// How many elements a shift is looked for in each direction; shifts by whole rows are looked for anyway.
    pub max_shift: usize,
}

impl Default for MatchContext<'_> {
    /// No floor, no previous call, no groups, shifts by up to 64 elements.
    fn default() -> Self {
        MatchContext { floor: 0.0, previous: None, groups: &[], max_shift: 64 }
    }
}

/// The transformations of `reference` that reproduce `found`, best first; of equally good ones the
/// simplest first. `shape`: that of the reference, [..., channels].
///
/// A match leaves at most [`FLOOR_FACTOR`] times the floor (or the rounding that the hypothesis implies,
/// whichever is larger) and less than [`UNEXPLAINED_SHARE`] of the error. Empty where the error is
/// within the floor, where nothing matches, where the reference holds NaNs, and where `reference` does not
/// have the shape. `found` may have another length, which only a change of element size explains.
pub fn explain(reference: &[f32], found: &[f32], shape: &[usize], context: &MatchContext) -> Vec<Match> {
    let fits = crate::value_count(shape) == Some(reference.len());
    let case = Case::new(reference, found, shape, context);
    // A NaN reference has a NaN energy.
    let unknown = reference.is_empty() || found.is_empty() || case.energy.is_nan();
    if !fits || unknown || case.raw <= case.floor {
        return Vec::new();
    }
    let mut matches = Vec::new();
    if found.len() == reference.len() {
        values::simple(&case, &mut matches);
        values::rounded(&case, &mut matches);
        values::unwritten_tail(&case, &mut matches);
        values::not_finite(&case, &mut matches);
        values::scaled(&case, &mut matches);
    }
    bits::reinterpreted(&case, &mut matches);
    if found.len() == reference.len() {
        bits::byte_order(&case, &mut matches);
        layout::shifted(&case, &mut matches);
        layout::axes(&case, &mut matches);
        layout::groups(&case, &mut matches);
    }
    matches.sort_by(|a, b| a.residual.total_cmp(&b.residual));
    matches
}

/// One question: what relates `found` to `reference`.
struct Case<'a> {
    reference: &'a [f32],
    found: &'a [f32],
    shape: &'a [usize],
    context: &'a MatchContext<'a>,
    /// The context's floor, 0 where it is no number.
    floor: f64,
    /// The unexplained error, at most 1: a wild or infinite error must not excuse a large residual.
    raw: f64,
    /// `Σ reference²`.
    energy: f64,
}

impl<'a> Case<'a> {
    fn new(
        reference: &'a [f32],
        found: &'a [f32],
        shape: &'a [usize],
        context: &'a MatchContext<'a>,
    ) -> Self {
        let floor = if context.floor.is_finite() { context.floor.max(0.0) } else { 0.0 };
        let energy = reference.iter().map(|value| f64::from(*value).powi(2)).sum();
        Case { reference, found, shape, context, floor, raw: relative_l2(found, reference).min(1.0), energy }
    }

    /// Length of a row: the last dimension.
    fn row(&self) -> usize {
        self.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Whether a hypothesis that implies a rounding error of `rounding` and was tested on `values` values
    /// may be claimed with this residual. False for NaN.
    fn accepts(&self, residual: f64, rounding: f64, values: usize) -> bool {
        // A format that the reference overflows has no rounding error to allow for.
        let rounding = if rounding.is_finite() { rounding } else { 0.0 };
        residual <= FLOOR_FACTOR * self.floor.max(rounding)
            && residual < UNEXPLAINED_SHARE * self.raw
            && values >= if residual == 0.0 { MIN_EXACT_VALUES } else { MIN_VALUES }
    }

    /// Adds a match if it may be claimed.
    fn claim(&self, matches: &mut Vec<Match>, kind: MatchKind, residual: f64, rounding: f64, values: usize) {
        if self.accepts(residual, rounding, values) {
            let (description, fix) = (kind.description(self.shape), kind.fix());
            matches.push(Match { kind, residual, description, fix });
        }
    }

    /// The relative L2 distance of pairs (found, transformed reference), `energy` bounding the norm of the
    /// latter. None as soon as it cannot come below what is acceptable: most hypotheses fail within the
    /// first values.
    fn residual(&self, pairs: impl Iterator<Item = (f32, f32)>, energy: f64) -> Option<f64> {
        let most = (FLOOR_FACTOR * self.floor).min(UNEXPLAINED_SHARE * self.raw);
        let bound = most * most * energy;
        let (mut difference, mut norm) = (0.0f64, 0.0f64);
        for (found, expected) in pairs {
            if found == expected && expected.is_infinite() {
                continue;
            }
            difference += (f64::from(found) - f64::from(expected)).powi(2);
            norm += f64::from(expected).powi(2);
            if difference > bound || difference.is_nan() {
                return None;
            }
        }
        Some(if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() })
    }
}
