//! Every fault injected and found, and nothing found where there is none.

use super::*;
use crate::Format;
use crate::format::reinterpret_bytes;
use proptest::prelude::*;

/// Normally distributed values from a seed.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let draw = |_| (-2.0 * uniform().max(1e-300).ln()).sqrt() * (uniform() * std::f64::consts::TAU).cos();
    (0..count).map(draw).map(|value| value as f32).collect()
}

/// `values` with an independent error of this relative size, as a healthy engine gives it.
fn healthy(values: &[f32], size: f32) -> Vec<f32> {
    let noise = normal(991, values.len());
    let rms = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
    values.iter().zip(noise).map(|(value, noise)| value + size * rms * noise).collect()
}

const FLOOR: f64 = 2e-3;
const GROUPS: [usize; 4] = [2, 3, 4, 8];

fn kinds(reference: &[f32], found: &[f32], shape: &[usize]) -> Vec<MatchKind> {
    let previous = normal(77, reference.len());
    let context =
        MatchContext { floor: FLOOR, previous: Some(&previous), groups: &GROUPS, ..Default::default() };
    let matches = explain(reference, found, shape, &context);
    assert!(matches.is_sorted_by(|a, b| a.residual <= b.residual));
    matches.into_iter().map(|found| found.kind).collect()
}

/// Asserts that the first claim about this fault, exact or on top of a healthy error, is `expected`.
fn finds(expected: MatchKind, shape: &[usize], fault: impl Fn(&[f32]) -> Vec<f32>) {
    let reference = normal(5, shape.iter().product());
    for noise in [0.0, FLOOR as f32] {
        let found = fault(&healthy(&reference, noise));
        assert_eq!(kinds(&reference, &found, shape).first(), Some(&expected), "noise {noise}");
    }
}

#[test]
fn values_gone_wrong() {
    finds(MatchKind::Zeros, &[6, 8], |values| vec![0.0; values.len()]);
    finds(MatchKind::SignFlipped, &[6, 8], |values| values.iter().map(|value| -value).collect());
    finds(MatchKind::Stale, &[6, 8], |values| healthy(&normal(77, values.len()), 1e-3));
    let clamped = |values: &[f32]| values.iter().map(|value| (value * 300.0).clamp(-448.0, 448.0)).collect();
    let reference: Vec<f32> = normal(5, 64).iter().map(|value| value * 300.0).collect();
    let found: Vec<f32> = clamped(&healthy(&normal(5, 64), FLOOR as f32));
    assert_eq!(kinds(&reference, &found, &[64])[0], MatchKind::Saturated { format: Format::Fp8E4m3 });
}

#[test]
fn rounding_is_found_exactly() {
    let reference: Vec<f32> = normal(5, 96).iter().map(|value| value * 400.0).collect();
    for format in [Format::Bf16, Format::Fp16, Format::Fp8E5m2] {
        let mut found = reference.clone();
        format.round_slice(&mut found);
        let matches = explain(&reference, &found, &[8, 12], &MatchContext::default());
        assert_eq!(matches[0].kind, MatchKind::Rounded { format, saturating: false });
        assert_eq!(matches[0].residual, 0.0);
    }
    // Beyond the range of fp16, or it would be the first claim.
    let far: Vec<f32> = reference.iter().map(|value| value * 1e3).collect();
    let found: Vec<f32> = far.iter().map(|value| Format::Tf32.round(*value)).collect();
    let matches = explain(&far, &found, &[8, 12], &MatchContext::default());
    assert_eq!(matches[0].kind, MatchKind::Rounded { format: Format::Tf32, saturating: false });
    let found: Vec<f32> = reference.iter().map(|value| Format::Fp8E4m3.round_saturating(*value)).collect();
    let matches = explain(&reference, &found, &[8, 12], &MatchContext::default());
    assert_eq!(matches[0].kind, MatchKind::Rounded { format: Format::Fp8E4m3, saturating: true });
}

#[test]
fn scale_and_offset_are_measured() {
    let reference = normal(5, 200);
    for (scale, offset) in [(0.5f32, 0.0), (3.0, 0.0), (1.0, 0.25), (-2.0, 1000.0), (1.02, 0.0)] {
        let found: Vec<f32> = reference.iter().map(|value| value * scale + offset).collect();
        let matches = explain(&reference, &found, &[200], &MatchContext::default());
        let Some(MatchKind::Scaled { scale: a, offset: b }) = matches.first().map(|found| &found.kind) else {
            panic!("{scale} {offset}: {matches:?}");
        };
        assert!((a - f64::from(scale)).abs() < 1e-5 && (b - f64::from(offset)).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn unwritten_tails_name_their_first_row() {
    let tail = |fill, first_row| MatchKind::UnwrittenTail { fill, first_row, rows: 12 };
    let with = |values: &[f32], tail: Vec<f32>| [&values[..7 * 16], &tail[7 * 16..]].concat();
    finds(tail(Fill::Zeros, 7), &[3, 4, 16], |values| with(values, vec![0.0; 192]));
    finds(tail(Fill::Nan, 7), &[3, 4, 16], |values| with(values, vec![f32::NAN; 192]));
    finds(tail(Fill::Previous, 7), &[3, 4, 16], |values| with(values, normal(77, 192)));
    // Rows 10 and 11 are padding, zero in the reference as well.
    let mut reference = normal(5, 192);
    reference[160..].fill(0.0);
    let mut found = reference.clone();
    found[112..].fill(0.0);
    assert_eq!(kinds(&reference, &found, &[12, 16])[0], tail(Fill::Zeros, 7));
    let scattered = [&reference[..50], &[0.0], &reference[51..]].concat();
    assert!(kinds(&reference, &scattered, &[12, 16]).is_empty());
}

#[test]
fn infinities_and_nans_among_right_values() {
    finds(MatchKind::NotFinite { nan: 2, infinite: 1, first: 9, overflow: None }, &[48], |values| {
        let mut found = values.to_vec();
        (found[9], found[20], found[30]) = (f32::NAN, f32::NEG_INFINITY, f32::NAN);
        found
    });
    let reference: Vec<f32> = normal(5, 64).iter().map(|value| value * 60000.0).collect();
    let mut found = healthy(&reference, FLOOR as f32);
    found.iter_mut().filter(|value| value.abs() > 65520.0).for_each(|value| *value = f32::NAN);
    let claimed = kinds(&reference, &found, &[64]);
    assert!(matches!(claimed[0], MatchKind::NotFinite { overflow: Some(Format::Fp16), .. }), "{claimed:?}");
    assert!(matches!(
        kinds(&reference, &[f32::NAN; 64], &[64])[0],
        MatchKind::NotFinite { nan: 64, first: 0, .. }
    ));
}

#[test]
fn bits_read_as_another_format() {
    for (stored, read) in [
        (Format::Bf16, Format::Fp16),
        (Format::Fp16, Format::Bf16),
        (Format::F32, Format::Bf16),
        (Format::F32, Format::Fp16),
        (Format::Fp8E5m2, Format::Fp8E4m3),
    ] {
        finds(MatchKind::Reinterpreted { stored, read }, &[8, 16], |values| {
            let mut found = reinterpret_bytes(values, stored, read);
            found.truncate(values.len());
            found
        });
    }
    for stored in [Format::Bf16, Format::Fp16] {
        let kind = MatchKind::Reinterpreted { stored, read: Format::F32 };
        // The buffer is half as long as what is read from it: what follows is anything.
        finds(kind.clone(), &[8, 16], |values| {
            [reinterpret_bytes(values, stored, Format::F32), normal(3, 64)].concat()
        });
        finds(kind, &[8, 16], |values| reinterpret_bytes(values, stored, Format::F32));
    }
    let kind = MatchKind::Reinterpreted { stored: Format::F32, read: Format::Fp16 };
    finds(kind, &[8, 16], |values| reinterpret_bytes(values, Format::F32, Format::Fp16));
    for format in [Format::F32, Format::Bf16, Format::Fp16] {
        finds(MatchKind::ByteOrder { format }, &[8, 16], |values| {
            let swap = |value: &f32| format.encode(*value).swap_bytes() >> (32 - format.bits());
            values.iter().map(|value| format.decode(swap(value))).collect()
        });
    }
}

#[test]
fn values_in_other_places() {
    let junk = normal(3, 1000);
    for by in [1usize, 3, 16, 32] {
        let (later, earlier) = (by as isize, -(by as isize));
        finds(MatchKind::Shifted { by: later, wrapped: false }, &[8, 16], |values| {
            [&junk[..by], &values[..128 - by]].concat()
        });
        finds(MatchKind::Shifted { by: earlier, wrapped: true }, &[8, 16], |values| {
            [&values[by..], &values[..by]].concat()
        });
    }
    let permuted = |shape: &[usize], order: &[usize], groups| MatchKind::AxesPermuted {
        shape: shape.to_vec(),
        order: order.to_vec(),
        groups,
    };
    finds(permuted(&[3, 4, 5], &[0, 2, 1], None), &[3, 1, 4, 5], |values| {
        let place = |at: usize| at / 20 * 20 + at % 4 * 5 + at % 20 / 4;
        (0..60).map(|at| values[place(at)]).collect()
    });
    // Heads outermost: [tokens, heads, channels] written as [heads, tokens, channels].
    finds(permuted(&[5, 3, 4], &[1, 0, 2], Some(3)), &[5, 12], |values| {
        (0..60).map(|at| values[at % 20 / 4 * 12 + at / 20 * 4 + at % 4]).collect()
    });
    // Heads interleaved: channel by channel instead of head by head.
    finds(permuted(&[5, 3, 4], &[0, 2, 1], Some(3)), &[5, 12], |values| {
        (0..60).map(|at| values[at / 12 * 12 + at % 3 * 4 + at % 12 / 3]).collect()
    });
    finds(MatchKind::GroupsPermuted { groups: 4, order: vec![2, 0, 1, 3] }, &[10, 32], |values| {
        let order = [2, 0, 1, 3];
        (0..320).map(|at| values[at / 32 * 32 + order[at % 32 / 8] * 8 + at % 8]).collect()
    });
    finds(MatchKind::GroupsPermuted { groups: 3, order: vec![2, 1, 0] }, &[50, 3], |values| {
        (0..150).map(|at| values[at / 3 * 3 + 2 - at % 3]).collect()
    });
}

#[test]
fn a_massive_channel_misleads_no_matcher() {
    let mut reference = normal(5, 16 * 32);
    reference.iter_mut().skip(5).step_by(32).for_each(|value| *value += 200.0);
    let order = [1, 0, 3, 2];
    let swapped: Vec<f32> =
        (0..512).map(|at| reference[at / 32 * 32 + order[at % 32 / 8] * 8 + at % 8]).collect();
    let kind = MatchKind::GroupsPermuted { groups: 4, order: order.to_vec() };
    assert_eq!(kinds(&reference, &healthy(&swapped, 1e-4), &[16, 32])[0], kind);
    // All other channels are noise: an error, but none of the kinds.
    let mut found = normal(6, 16 * 32);
    found.iter_mut().skip(5).step_by(32).zip(reference.iter().skip(5).step_by(32)).for_each(|(a, b)| *a = *b);
    assert!(kinds(&reference, &found, &[16, 32]).is_empty());
}

#[test]
fn permuted_indices_are_those_of_a_permutation() {
    let places: Vec<usize> = layout::PermutedIndices::new(&[2, 3], &[1, 0]).collect();
    assert_eq!(places, [0, 3, 1, 4, 2, 5]);
}

#[test]
fn nothing_is_claimed_without_need_or_evidence() {
    let reference = normal(5, 64);
    assert!(kinds(&reference, &reference, &[8, 8]).is_empty());
    assert!(kinds(&reference, &healthy(&reference, 1e-3), &[8, 8]).is_empty());
    // A shape or a length that does not fit.
    assert!(kinds(&reference, &vec![0.0; 64], &[8, 9]).is_empty());
    assert!(kinds(&reference, &[0.0; 63], &[8, 8]).is_empty());
    assert!(kinds(&[], &[], &[0]).is_empty());
    assert!(kinds(&reference, &[], &[8, 8]).is_empty());
    // Two values are always some multiple of two others.
    assert!(kinds(&[1.0, 2.0], &[3.0, 7.0], &[2]).is_empty());
    assert!(kinds(&[1.0], &[3.0], &[]).is_empty());
    // A reference with NaN says nothing.
    assert!(kinds(&[f32::NAN; 32], &reference[..32], &[32]).is_empty());
    let holed = [&[f32::NAN], &reference[1..]].concat();
    let tail = [&holed[..40], &[0.0; 24]].concat();
    assert!(kinds(&holed, &tail, &[8, 8]).is_empty());
    // A constant far from a small reference is no offset of it.
    let far: Vec<f32> = normal(9, 64).iter().map(|value| 1000.0 + value).collect();
    assert!(kinds(&reference, &far, &[64]).is_empty());
}

#[test]
fn a_match_speaks_and_serializes() {
    let reference = normal(5, 64);
    let found = [&reference[..40], &[0.0; 24]].concat();
    let claimed = &explain(&reference, &found, &[8, 8], &MatchContext::default())[0];
    assert_eq!(claimed.description, "rows 5 to 7 of 8 hold zeros");
    assert_eq!(claimed.fix, "make the launch or copy cover the rows from 5 on");
    let json = serde_json::to_value(claimed).expect("plain data");
    assert_eq!(json["kind"], "unwritten_tail");
    assert_eq!((&json["fill"], &json["first_row"]), (&"zeros".into(), &5.into()));
    let shifted = MatchKind::Shifted { by: -16, wrapped: true };
    assert_eq!(shifted.description(&[4, 8]), "values stand 2 rows before their place, wrapped around");
    let overflow = MatchKind::Rounded { format: Format::Fp8E4m3, saturating: true };
    assert_eq!(overflow.description(&[1]), "values are rounded to fp8_e4m3, those beyond ±448 to ±448");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn noise_matches_nothing(
        seed in 1u64..1 << 40,
        shape in prop::sample::select(vec![
            vec![1], vec![3], vec![7], vec![16], vec![17], vec![32], vec![4, 4], vec![2, 8], vec![5, 24],
            vec![2, 3, 8], vec![16, 48], vec![1, 10, 64], vec![2, 2, 2, 2, 4], vec![2000],
        ]),
        floor in prop::sample::select(vec![0.0, 1e-4, 2e-3, 0.05, 0.5]),
        relative in prop::sample::select(vec![0.01f32, 0.1, 0.6, f32::INFINITY]),
        format in prop::sample::select(Format::ALL.to_vec()),
        heavy: bool,
    ) {
        let count = shape.iter().product();
        let draw = |salt: u64| {
            let mut values = normal(seed + salt, count);
            if heavy {
                values.iter_mut().for_each(|value| *value = value.powi(3));
            }
            values
        };
        let (reference, noise, previous) = (draw(0), draw(1 << 41), draw(2 << 41));
        // Either independent of the reference, or an error of some size on top of it.
        let mut found: Vec<f32> = if relative.is_finite() {
            reference.iter().zip(noise).map(|(value, noise)| value + relative * noise).collect()
        } else {
            noise
        };
        // On a format's grid, as an engine gives it, unless the grid, or the chance of a few values that all
        // round to zero, would make rounding the true explanation.
        if format.epsilon() < relative / 2.0 && count >= 16 {
            format.round_slice(&mut found);
        }
        let previous = Some(previous.as_slice());
        let context = MatchContext { floor, previous, groups: &GROUPS, ..Default::default() };
        let matches = explain(&reference, &found, &shape, &context);
        prop_assert!(matches.is_empty(), "{:?}", matches);
    }

    #[test]
    fn any_bits_of_any_shape_are_survived(
        bits in prop::collection::vec(any::<u32>(), 1..80),
        width in 1usize..9,
        floor: f64,
        shift in 0usize..100,
    ) {
        let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let half = values.len() / 2;
        let (reference, found) = values.split_at(half);
        let rows = half / width;
        let context = MatchContext { floor, previous: Some(found), groups: &GROUPS, max_shift: shift };
        for shape in [vec![half], vec![1, half, 1], vec![rows, width], vec![]] {
            for claimed in explain(reference, found, &shape, &context) {
                prop_assert!(claimed.residual >= 0.0 && claimed.residual < UNEXPLAINED_SHARE);
            }
        }
        let length = reference.len().min(rows * width);
        explain(&reference[..length], &found[..length], &[rows, width], &context);
    }
}
