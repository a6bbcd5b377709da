//! What an engine's tensor looks like: the reference's, moved, scaled, cut off, or of another call.

use crate::fault::{self, Fault};
use std::collections::BTreeSet;
use steadyhand_fidelity::{MatchContext, MatchKind, explain, relative_l2};

/// A transformation of the right tensor that gives the engine's, of one tensor or of every one that errs at a place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Likeness {
    /// Tells transformations of one kind and of the same parameters.
    pub(super) kind: String,
    /// What happened, as a sentence without its end.
    pub(super) description: String,
    /// What to do about it.
    pub(super) fix: String,
    /// Relative L2 that it leaves.
    pub(super) residual: f64,
    /// Whether the transformation itself says what was done: bits read as others, another call's tensor, values that
    /// were not written. Any other could come about in several ways.
    pub(super) decisive: bool,
    /// The match that it is.
    pub(super) of: Option<MatchKind>,
}

impl Likeness {
    /// The fault of the catalogue that does the same at `path`, where one does.
    pub(super) fn as_fault(&self, path: &str) -> Option<Fault> {
        match &self.of {
            Some(MatchKind::Reinterpreted { stored, read }) => Some(fault::misread(path, *stored, *read)),
            Some(MatchKind::Stale) => Some(fault::stale(path)),
            _ => None,
        }
    }
}

/// One tensor that errs.
pub(super) struct Pair<'a> {
    /// The reference's values on the engine's inputs.
    pub(super) right: &'a [f32],
    /// The engine's.
    pub(super) found: &'a [f32],
    /// `[..., features]`.
    pub(super) shape: &'a [usize],
    /// What a healthy engine may differ by, relative L2.
    pub(super) floor: f64,
    /// The right values of the inference before; zeros before the first.
    pub(super) previous: Option<&'a [f32]>,
}

/// Transformations that reproduce every pair, the best first.
pub(super) fn common(pairs: &[Pair], groups: &[usize]) -> Vec<Likeness> {
    let mut of_each = pairs.iter().map(|pair| likenesses(pair, groups));
    let Some(mut shared) = of_each.next() else { return Vec::new() };
    for found in of_each {
        shared.retain_mut(|likeness| match found.iter().find(|other| other.kind == likeness.kind) {
            Some(other) => {
                likeness.residual = likeness.residual.max(other.residual);
                true
            }
            None => false,
        });
    }
    shared
}

/// Transformations that reproduce one pair, the best first.
fn likenesses(pair: &Pair, groups: &[usize]) -> Vec<Likeness> {
    let floor = if pair.floor.is_finite() { pair.floor } else { 0.0 };
    let context = MatchContext { floor, previous: pair.previous, groups, ..MatchContext::default() };
    let matches = explain(pair.right, pair.found, pair.shape, &context);
    let mut found: Vec<Likeness> = matches
        .into_iter()
        .map(|of| Likeness {
            kind: kind(&of.kind),
            decisive: matches!(
                of.kind,
                MatchKind::Reinterpreted { .. }
                    | MatchKind::ByteOrder { .. }
                    | MatchKind::Stale
                    | MatchKind::UnwrittenTail { .. }
            ),
            description: of.description,
            fix: of.fix,
            residual: of.residual,
            of: Some(of.kind),
        })
        .collect();
    // A call before the first holds zeros.
    let before = pair.previous.filter(|previous| previous.iter().all(|value| *value == 0.0));
    if before.is_some() && pair.found.iter().all(|value| *value == 0.0) {
        found.push(stale());
    }
    if pair.right.len() == pair.found.len() {
        found.extend(clipped(pair, floor));
        found.extend(permuted(pair, floor));
    }
    found.sort_by(|a, b| a.residual.total_cmp(&b.residual));
    found
}

fn stale() -> Likeness {
    Likeness {
        kind: "stale".to_owned(),
        description: "the tensor is that of the previous call".to_owned(),
        fix: "wait for the call to finish before reading, and bind this call's buffer".to_owned(),
        residual: 0.0,
        decisive: true,
        of: Some(MatchKind::Stale),
    }
}

/// The kind of a match with what must agree between tensors of one place.
fn kind(kind: &MatchKind) -> String {
    match kind {
        MatchKind::Stale => "stale".to_owned(),
        MatchKind::Scaled { scale, offset } => format!("scaled {scale:.3} {offset:.3}"),
        MatchKind::NotFinite { .. } => "not finite".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Share of the values that must be cut off, and must not be.
const MIN_SHARE: f64 = 0.005;

/// `right.clamp(low, high)`: the bounds are the engine's own extremes.
fn clipped(pair: &Pair, floor: f64) -> Option<Likeness> {
    let bound = |pick: fn(f32, f32) -> f32, start| pair.found.iter().copied().fold(start, pick);
    let (low, high) = (bound(f32::min, f32::INFINITY), bound(f32::max, f32::NEG_INFINITY));
    if !(low.is_finite() && high.is_finite() && low < high) {
        return None;
    }
    let cut = pair.right.iter().filter(|value| **value < low || **value > high).count();
    let share = cut as f64 / pair.right.len() as f64;
    let made: Vec<f32> = pair.right.iter().map(|value| value.clamp(low, high)).collect();
    let residual = relative_l2(pair.found, &made);
    let error = relative_l2(pair.found, pair.right);
    (residual <= floor && residual < 0.1 * error && (MIN_SHARE..1.0 - MIN_SHARE).contains(&share)).then(
        || Likeness {
            kind: format!("clipped {low:.3} {high:.3}"),
            description: format!("values are clipped to [{low}, {high}]"),
            fix: "look for a clamp or a saturating conversion behind this tensor".to_owned(),
            residual,
            decisive: true,
            of: None,
        },
    )
}

/// Rows, or columns, in another order: each of the engine's is the nearest of the reference's.
fn permuted(pair: &Pair, floor: f64) -> Vec<Likeness> {
    let features = pair.shape.last().copied().unwrap_or(1).max(1);
    let rows = pair.right.len() / features;
    let by_row =
        |values: &[f32]| -> Vec<Vec<f32>> { values.chunks_exact(features).map(<[f32]>::to_vec).collect() };
    let by_column = |values: &[f32]| -> Vec<Vec<f32>> {
        (0..features).map(|column| (0..rows).map(|row| values[row * features + column]).collect()).collect()
    };
    let mut found = Vec::new();
    for (what, right, engines) in [
        ("rows (tokens)", by_row(pair.right), by_row(pair.found)),
        ("columns (features)", by_column(pair.right), by_column(pair.found)),
    ] {
        let Some((order, residual)) = nearest(&right, &engines, floor) else { continue };
        let moved: Vec<String> = order
            .iter()
            .enumerate()
            .filter(|(at, from)| at != *from)
            .take(4)
            .map(|(at, from)| format!("{at} is {from}"))
            .collect();
        let distinct = order.iter().collect::<BTreeSet<_>>().len() == order.len();
        let how = match (shift(&order), distinct) {
            (Some(by), _) => format!("shifted by {by}, those at the end repeated"),
            (None, true) => "permuted, in another order".to_owned(),
            (None, false) => "taken from other places, some of them twice".to_owned(),
        };
        found.push(Likeness {
            kind: format!("{what} {order:?}"),
            description: format!("its {what} are {how}: {}, …", moved.join(", ")),
            fix: "compare the order in which this tensor is written with the order in which it is read"
                .to_owned(),
            residual,
            decisive: false,
            of: None,
        });
    }
    found
}

/// By how many places lines are shifted, where the last or the first one fills what is left.
fn shift(order: &[usize]) -> Option<isize> {
    let by = *order.first()? as isize;
    let last = order.len() as isize - 1;
    let by = if by == 0 { *order.last()? as isize - last } else { by };
    let moved = |(at, from): (usize, &usize)| (at as isize + by).clamp(0, last) == *from as isize;
    (by != 0 && order.iter().enumerate().all(moved)).then_some(by)
}

/// Most rows or columns that are looked for one by one.
const MOST_LINES: usize = 600;

/// Which line of `right` each of `found` is, and the relative L2 left; none where some line is none of them, or where
/// all stand in their places.
fn nearest(right: &[Vec<f32>], found: &[Vec<f32>], floor: f64) -> Option<(Vec<usize>, f64)> {
    if right.len() > MOST_LINES || right.len() < 2 || right[0].len() < 4 {
        return None;
    }
    let squared = |a: &[f32], b: &[f32], most: f64| {
        let mut sum = 0.0;
        for (a, b) in a.iter().zip(b) {
            sum += f64::from(a - b).powi(2);
            if sum > most {
                return f64::INFINITY;
            }
        }
        sum
    };
    let energy = |line: &[f32]| line.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    let (mut order, mut left) = (Vec::new(), 0.0);
    let total: f64 = right.iter().map(|line| energy(line)).sum();
    // One line may differ by more than all together do, but not by as much as lines differ.
    let most = |line: &[f32]| (10.0 * floor).powi(2) * energy(line).max(total / right.len() as f64);
    for (at, line) in found.iter().enumerate() {
        let own = squared(line, &right[at], most(line));
        // Where it stands comes first: padding is alike everywhere.
        let (from, error) = match own.is_finite() {
            true => (at, own),
            false => {
                let errors = right.iter().map(|other| squared(line, other, most(line)));
                errors.enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?
            }
        };
        if !error.is_finite() {
            return None;
        }
        order.push(from);
        left += error;
    }
    let residual = (left / total).sqrt();
    let moved = order.iter().enumerate().any(|(at, from)| at != *from);
    (moved && residual <= 3.0 * floor).then_some((order, residual))
}

#[cfg(test)]
mod tests {
    use super::shift;

    #[test]
    fn lines_are_shifted_where_all_move_alike_and_an_end_fills_up() {
        assert_eq!(shift(&[1, 2, 3, 3]), Some(1));
        assert_eq!(shift(&[0, 0, 0, 1]), Some(-2));
        assert_eq!(shift(&[1, 2, 3, 0]), None);
        assert_eq!(shift(&[0, 1, 2, 3]), None);
        assert_eq!(shift(&[1, 0]), None);
    }
}
