//! Right bits, read wrongly: undone on what was found, and compared with the reference as it is.
//!
//! Undoing is exact, where redoing it on the reference is not: bits that are noise in one format are
//! exponents in another.

use super::{Case, Match, MatchKind};
use crate::format::reinterpret_bytes;
use crate::{Format, relative_l2};

/// Pairs (stored, read) of equal and of different widths.
const PAIRS: [(Format, Format); 8] = [
    (Format::Bf16, Format::Fp16),
    (Format::Fp16, Format::Bf16),
    (Format::F32, Format::Bf16),
    (Format::F32, Format::Fp16),
    (Format::Bf16, Format::F32),
    (Format::Fp16, Format::F32),
    (Format::Fp8E4m3, Format::Fp8E5m2),
    (Format::Fp8E5m2, Format::Fp8E4m3),
];

/// Written as one format, read as another. Where sizes differ, what both sides have is compared: all of the
/// reference if narrow values were read as wide ones, else its first half.
pub(super) fn reinterpreted(case: &Case, matches: &mut Vec<Match>) {
    for (stored, read) in PAIRS {
        // Either as many values as expected, or all the bytes that were stored.
        let (found, expected) = (case.found.len(), case.reference.len());
        let same_bytes = found * read.bits() as usize / 8 == expected * stored.bits() as usize / 8;
        if (found != expected && !same_bytes) || !all_in(case.found, read) {
            continue;
        }
        let undone = reinterpret_bytes(case.found, read, stored);
        let values = undone.len().min(case.reference.len());
        if values == 0 {
            continue;
        }
        let reference = &case.reference[..values];
        let residual = relative_l2(&undone[..values], reference);
        let kind = MatchKind::Reinterpreted { stored, read };
        case.claim(matches, kind, residual, rounding(reference, stored), values);
    }
}

/// Bytes swapped within each value.
pub(super) fn byte_order(case: &Case, matches: &mut Vec<Match>) {
    for format in [Format::F32, Format::Bf16, Format::Fp16] {
        if !all_in(case.found, format) {
            continue;
        }
        let unused = 32 - format.bits();
        let swap = |value: &f32| format.decode(format.encode(*value).swap_bytes() >> unused);
        let undone: Vec<f32> = case.found.iter().map(swap).collect();
        let residual = relative_l2(&undone, case.reference);
        let kind = MatchKind::ByteOrder { format };
        case.claim(matches, kind, residual, rounding(case.reference, format), undone.len());
    }
}

/// Whether all values are values of the format: otherwise they were not read as it.
fn all_in(values: &[f32], format: Format) -> bool {
    values.iter().all(|value| value.is_nan() || format.round(*value) == *value)
}

/// The relative error of rounding the reference to a format.
fn rounding(reference: &[f32], format: Format) -> f64 {
    let mut rounded = reference.to_vec();
    format.round_slice(&mut rounded);
    relative_l2(&rounded, reference)
}
