//! Right places, wrong values.

use super::{Case, Fill, Match, MatchKind, SELF_EVIDENT};
use crate::{Format, relative_l2};

/// Formats that a tensor may have been rounded to, the least change first. Within its range fp16 rounds as
/// tf32 does, and is what tensors are stored in.
const NARROW: [Format; 5] = [Format::Fp16, Format::Tf32, Format::Bf16, Format::Fp8E4m3, Format::Fp8E5m2];
/// Two fitted parameters explain the few values that dominate a small tensor, whatever they are.
const MIN_FITTED_VALUES: usize = 64;
/// What computing a transformed value in f32 may cost, relatively.
const F32_ROUNDING: f64 = Format::F32.epsilon() as f64;

/// Zeros, opposite signs, the previous call.
pub(super) fn simple(case: &Case, matches: &mut Vec<Match>) {
    let values = case.found.len();
    if case.found.iter().all(|value| *value == 0.0) {
        case.claim(matches, MatchKind::Zeros, 0.0, 0.0, SELF_EVIDENT);
        return;
    }
    let pairs = case.found.iter().zip(case.reference).map(|(found, value)| (*found, -value));
    if let Some(residual) = case.residual(pairs, case.energy) {
        case.claim(matches, MatchKind::SignFlipped, residual, 0.0, values);
    }
    if let Some(previous) = case.context.previous {
        case.claim(matches, MatchKind::Stale, relative_l2(case.found, previous), 0.0, values);
    }
}

/// Rounded to a narrower format, or clamped to its range.
pub(super) fn rounded(case: &Case, matches: &mut Vec<Match>) {
    let values = case.found.len();
    for format in NARROW {
        let mut rounded = case.reference.to_vec();
        format.round_slice(&mut rounded);
        let residual = relative_l2(case.found, &rounded);
        case.claim(matches, MatchKind::Rounded { format, saturating: false }, residual, 0.0, values);
        let max = format.max();
        if case.reference.iter().all(|value| value.abs() <= max) {
            continue;
        }
        let clamped: Vec<f32> = case.reference.iter().map(|value| value.clamp(-max, max)).collect();
        rounded.copy_from_slice(&clamped);
        format.round_slice(&mut rounded);
        let residual = relative_l2(case.found, &rounded);
        case.claim(matches, MatchKind::Rounded { format, saturating: true }, residual, 0.0, values);
        let residual = relative_l2(case.found, &clamped);
        let rounding = relative_l2(&rounded, &clamped);
        case.claim(matches, MatchKind::Saturated { format }, residual, rounding, values);
    }
}

/// Right rows, then rows that nobody wrote. The boundary is where the fewest errors remain.
pub(super) fn unwritten_tail(case: &Case, matches: &mut Vec<Match>) {
    let row = case.row();
    let rows = case.found.len() / row;
    let previous = case.context.previous.filter(|previous| previous.len() == case.found.len());
    let fills = [Some(Fill::Zeros), Some(Fill::Nan), previous.map(|_| Fill::Previous)];
    for fill in fills.into_iter().flatten() {
        let filled = |at: usize| match fill {
            Fill::Zeros => 0.0,
            Fill::Nan => f32::NAN,
            Fill::Previous => previous.map_or(0.0, |previous| previous[at]),
        };
        let (first_row, residual) = best_split(case, row, rows, filled);
        if first_row == 0 || first_row == rows {
            continue;
        }
        // Zeros and NaN are recognised exactly; near values of a previous call need more of them.
        let tail = (rows - first_row) * row;
        let values = match fill {
            Fill::Previous => tail,
            Fill::Zeros | Fill::Nan if residual == 0.0 => SELF_EVIDENT,
            Fill::Zeros | Fill::Nan => case.found.len(),
        };
        case.claim(matches, MatchKind::UnwrittenTail { fill, first_row, rows }, residual, 0.0, values);
    }
}

/// The number of rows before the tail, and the relative error with this boundary.
fn best_split(case: &Case, row: usize, rows: usize, filled: impl Fn(usize) -> f32) -> (usize, f64) {
    // From either end, so that an infinite error on one side leaves the other side's sums alone.
    let mut errors = vec![0.0f64; rows + 1];
    let mut norms = vec![0.0f64; rows + 1];
    for at in (0..rows).rev() {
        let (mut error, mut norm) = (errors[at + 1], norms[at + 1]);
        for element in at * row..(at + 1) * row {
            let (found, expected) = (case.found[element], filled(element));
            error += squared_difference(found, expected);
            norm += if expected.is_finite() { f64::from(expected).powi(2) } else { 0.0 };
        }
        (errors[at], norms[at]) = (error, norm);
    }
    let (mut before, mut before_norm) = (0.0f64, 0.0f64);
    let mut best = (0, errors[0], norms[0]);
    for at in 0..rows {
        for element in at * row..(at + 1) * row {
            before += squared_difference(case.found[element], case.reference[element]);
            before_norm += f64::from(case.reference[element]).powi(2);
        }
        // Of equal boundaries the last: padding that is zero in the reference too is not unwritten.
        if before + errors[at + 1] <= best.1 {
            best = (at + 1, before + errors[at + 1], before_norm + norms[at + 1]);
        }
    }
    (best.0, if best.1 == 0.0 { 0.0 } else { (best.1 / best.2).sqrt() })
}

/// `(found − expected)²`; 0 for two NaNs, infinite for one and for different infinities.
fn squared_difference(found: f32, expected: f32) -> f64 {
    if found == expected || (found.is_nan() && expected.is_nan()) {
        return 0.0;
    }
    let difference = (f64::from(found) - f64::from(expected)).powi(2);
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// NaNs or infinities among values that are otherwise right.
pub(super) fn not_finite(case: &Case, matches: &mut Vec<Match>) {
    let nan = case.found.iter().filter(|value| value.is_nan()).count();
    let infinite = case.found.iter().filter(|value| value.is_infinite()).count();
    let Some(first) = case.found.iter().position(|value| !value.is_finite()) else {
        return;
    };
    let pairs = case.found.iter().zip(case.reference);
    let (rest, expected): (Vec<f32>, Vec<f32>) = pairs.filter(|(found, _)| found.is_finite()).unzip();
    let overflow = [Format::Fp16, Format::Fp8E4m3, Format::Fp8E5m2].into_iter().find(|format| {
        let mut pairs = case.found.iter().zip(case.reference);
        pairs.all(|(found, value)| found.is_finite() == format.round(*value).is_finite())
    });
    // The finite values may have been rounded to the format that overflowed.
    let rounding = overflow.map_or(0.0, |format| {
        let mut rounded = expected.clone();
        format.round_slice(&mut rounded);
        relative_l2(&rounded, &expected)
    });
    let kind = MatchKind::NotFinite { nan, infinite, first, overflow };
    let residual = relative_l2(&rest, &expected);
    let values = if residual == 0.0 { SELF_EVIDENT } else { rest.len() };
    case.claim(matches, kind, residual, rounding, values);
}

/// `scale · reference`, `reference + offset`, or both: the first of them that explains the error.
pub(super) fn scaled(case: &Case, matches: &mut Vec<Match>) {
    if case.found.len() < MIN_FITTED_VALUES
        || matches.iter().any(|found| found.kind == MatchKind::SignFlipped)
    {
        return;
    }
    let count = case.found.len() as f64;
    let sum = |values: &[f32]| values.iter().map(|value| f64::from(*value)).sum::<f64>();
    let (found_mean, mean) = (sum(case.found) / count, sum(case.reference) / count);
    let found_energy: f64 = case.found.iter().map(|value| f64::from(*value).powi(2)).sum();
    let (mut product, mut energy, mut centred_product, mut centred_energy) = (0.0, 0.0, 0.0, 0.0);
    for (found, value) in case.found.iter().zip(case.reference) {
        let (found, value) = (f64::from(*found), f64::from(*value));
        product += found * value;
        energy += value * value;
        centred_product += (found - found_mean) * (value - mean);
        centred_energy += (value - mean).powi(2);
    }
    let slope = centred_product / centred_energy;
    let fits = [
        (product / energy, 0.0, energy),
        (1.0, found_mean - mean, centred_energy),
        (slope, found_mean - slope * mean, centred_energy),
    ];
    for (scale, offset, energy) in fits {
        let error: f64 = case
            .found
            .iter()
            .zip(case.reference)
            .map(|(found, value)| (f64::from(*found) - scale * f64::from(*value) - offset).powi(2))
            .sum();
        // Against what the reference contributes: a large offset must not make every error look small.
        let residual = (error / (scale * scale * energy)).sqrt();
        let before = matches.len();
        let rounding = F32_ROUNDING * (found_energy / (scale * scale * energy)).sqrt();
        case.claim(matches, MatchKind::Scaled { scale, offset }, residual, rounding, case.found.len());
        if matches.len() > before {
            return;
        }
    }
}
