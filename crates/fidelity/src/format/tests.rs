//! Every format against its specification and against the `half` crate.

use super::*;
use half::{bf16, f16};
use proptest::prelude::*;

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn all_16_bit_codes_decode_and_encode_as_in_half() {
    for code in 0..=u16::MAX {
        let bits = u32::from(code);
        assert!(same(Format::Bf16.decode(bits), bf16::from_bits(code).to_f32()), "bf16 {code:04x}");
        assert!(same(Format::Fp16.decode(bits), f16::from_bits(code).to_f32()), "fp16 {code:04x}");
        assert_eq!(Format::Bf16.encode(Format::Bf16.decode(bits)), bits, "bf16");
        assert_eq!(Format::Fp16.encode(Format::Fp16.decode(bits)), bits, "fp16");
    }
}

/// The value of an fp8 code, from the formula of the OCP specification.
fn specified(code: u8, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let field = i32::from(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let fraction = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
    if field == 0 {
        sign * fraction * 2f64.powi(1 - bias)
    } else {
        sign * (1.0 + fraction) * 2f64.powi(field - bias)
    }
}

#[test]
fn all_fp8_codes_decode_as_specified_and_survive_encoding() {
    for code in 0..=u8::MAX {
        let bits = u32::from(code);
        let e4m3 = Format::Fp8E4m3.decode(bits);
        if code & 0x7f == 0x7f {
            assert!(e4m3.is_nan());
        } else {
            assert_eq!(f64::from(e4m3), specified(code, 4, 3, 7), "e4m3 {code:02x}");
        }
        let e5m2 = Format::Fp8E5m2.decode(bits);
        match code & 0x7f {
            0x7c => assert!(e5m2.is_infinite()),
            0x7d.. => assert!(e5m2.is_nan()),
            _ => assert_eq!(f64::from(e5m2), specified(code, 5, 2, 15), "e5m2 {code:02x}"),
        }
        assert_eq!(e4m3.is_sign_negative(), code & 0x80 != 0);
        assert_eq!(e5m2.is_sign_negative(), code & 0x80 != 0);
        assert_eq!(Format::Fp8E4m3.encode(e4m3), bits, "e4m3 {code:02x}");
        assert_eq!(Format::Fp8E5m2.encode(e5m2), bits, "e5m2 {code:02x}");
    }
}

#[test]
fn known_values_of_the_formats() {
    assert_eq!(Format::Fp8E4m3.encode(448.0), 0x7e);
    assert_eq!(Format::Fp8E4m3.encode(-1.0), 0xb8);
    assert_eq!(Format::Fp8E4m3.decode(0x01), 2f32.powi(-9));
    assert_eq!(Format::Fp8E5m2.encode(57344.0), 0x7b);
    assert_eq!(Format::Fp8E5m2.encode(1.0), 0x3c);
    assert_eq!(Format::Tf32.encode(1.0 + 2f32.powi(-10)), 0x3f80_2000);
    assert_eq!(Format::Tf32.decode(0x3f80_1fff), 1.0);
    assert_eq!(Format::Bf16.max(), bf16::MAX.to_f32());
    assert_eq!(Format::Fp16.max(), f16::MAX.to_f32());
    assert_eq!(Format::Fp16.min_positive_subnormal(), f16::MIN_POSITIVE_SUBNORMAL.to_f32());
    assert_eq!(Format::Fp16.min_positive_normal(), f16::MIN_POSITIVE.to_f32());
    assert_eq!(Format::Bf16.min_positive_subnormal(), bf16::MIN_POSITIVE_SUBNORMAL.to_f32());
    assert_eq!(Format::Bf16.epsilon(), bf16::EPSILON.to_f32());
    assert_eq!(Format::F32.epsilon(), f32::EPSILON);
    assert_eq!(Format::F32.min_positive_subnormal(), f32::from_bits(1));
    assert_eq!(Format::Fp8E4m3.min_positive_normal(), 2f32.powi(-6));
    assert_eq!(Format::ALL.map(Format::bits), [32, 32, 16, 16, 8, 8]);
}

#[test]
fn ties_go_to_even() {
    assert_eq!(Format::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
    assert_eq!(Format::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 2.0 / 128.0);
    assert_eq!(Format::Fp16.round(2.0f32.powi(-25)), 0.0);
    for format in Format::ALL {
        // Between any two neighbours of a binade, and among subnormals.
        if format == Format::F32 {
            continue;
        }
        let epsilon = format.epsilon();
        assert_eq!(format.round(1.0 + epsilon / 2.0), 1.0, "{format}");
        assert_eq!(format.round(1.0 + epsilon * 1.5), 1.0 + 2.0 * epsilon, "{format}");
        let smallest = format.min_positive_subnormal();
        assert_eq!(format.round(smallest / 2.0), 0.0, "{format}");
        assert_eq!(format.round(smallest * 1.5), smallest * 2.0, "{format}");
        assert!(format.round(-smallest / 2.0).is_sign_negative(), "{format}");
    }
}

#[test]
fn overflow_saturates_only_where_asked() {
    assert_eq!(Format::Bf16.round(f32::MAX), f32::INFINITY);
    assert_eq!(Format::Fp16.round(65519.0), 65504.0);
    assert_eq!(Format::Fp16.round(65520.0), f32::INFINITY);
    // 464 is the tie between 448 and the 480 that E4M3 does not have; 448 is even.
    assert_eq!(Format::Fp8E4m3.round(464.0), 448.0);
    assert!(Format::Fp8E4m3.round(464.1).is_nan());
    assert!(Format::Fp8E4m3.round(f32::NEG_INFINITY).is_nan());
    assert_eq!(Format::Fp8E5m2.round(61439.0), 57344.0);
    assert_eq!(Format::Fp8E5m2.round(-61440.0), f32::NEG_INFINITY);
    for format in Format::ALL {
        assert_eq!(format.round_saturating(f32::INFINITY), format.max());
        assert_eq!(format.round_saturating(-f32::MAX), -format.max());
        assert!(format.round_saturating(f32::NAN).is_nan());
        assert!(format.round(f32::NAN).is_nan());
        assert!(format.round(f32::from_bits(0x7fff_ffff)).is_nan());
        assert!(format.round(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(format.decode(format.encode(f32::from_bits(0xff80_0001))).is_nan());
    }
    assert!(Format::Fp8E4m3.decode(Format::Fp8E4m3.encode(1e9)).is_nan());
    assert_eq!(Format::Fp8E5m2.decode(Format::Fp8E5m2.encode(1e9)), f32::INFINITY);
}

#[test]
fn containment_is_that_of_the_value_sets() {
    let holds = |outer: Format, inner: Format| {
        (0..=u16::MAX).all(|code| {
            let value = inner.decode(u32::from(code) << (inner.bits().max(16) - 16));
            same(outer.round(value), value)
        })
    };
    for outer in Format::ALL {
        for inner in [Format::Bf16, Format::Fp16, Format::Fp8E4m3, Format::Fp8E5m2, Format::Tf32] {
            if inner == Format::Tf32 {
                assert_eq!(outer.contains(inner), matches!(outer, Format::F32 | Format::Tf32));
            } else {
                assert_eq!(outer.contains(inner), holds(outer, inner), "{outer} ⊇ {inner}");
            }
        }
        assert!(Format::F32.contains(outer));
    }
}

#[test]
fn names_parse_and_others_do_not() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>(), Ok(format));
    }
    assert!("f16".parse::<Format>().is_err_and(|message| message.contains("found `f16`")));
    assert_eq!(format!("{:>5}", Format::F32), "  f32");
}

#[test]
fn reinterpretation_keeps_bits() {
    assert_eq!(reinterpret(1.0, Format::Bf16, Format::Fp16), Ok(f16::from_bits(0x3f80).to_f32()));
    let error = reinterpret(1.0, Format::F32, Format::Bf16).unwrap_err();
    assert!(error.to_string().contains("f32 of 32 bits read as bf16 of 16 bits"));
    // Little-endian: the low half comes first.
    let words = [f32::from_bits(0x3f80_4000), f32::from_bits(0xc000_0000)];
    assert_eq!(reinterpret_bytes(&words, Format::F32, Format::Bf16), [2.0, 1.0, 0.0, -2.0]);
    assert_eq!(
        reinterpret_bytes(&[2.0, 1.0, 0.0, -2.0, 5.0], Format::Bf16, Format::F32),
        words,
        "the odd value is dropped"
    );
    assert_eq!(reinterpret_bytes(&[], Format::F32, Format::Fp8E4m3), [0f32; 0]);
    assert_eq!(reinterpret_bytes(&[1.0], Format::F32, Format::Fp8E5m2).len(), 4);
}

#[test]
fn stochastic_rounding_is_right_on_average() {
    let mut random = 1u32;
    for (format, value) in
        [(Format::Bf16, 1.003), (Format::Fp16, 3e-8), (Format::Fp8E4m3, -0.013), (Format::Tf32, 1e-40)]
    {
        let value: f32 = value;
        let (mut sum, count) = (0.0f64, 1 << 16);
        for _ in 0..count {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let rounded = format.round_stochastic(value, random);
            assert!(same(format.round(rounded), rounded));
            assert!((f64::from(rounded) - f64::from(value)).abs() < format.ulp(value));
            sum += f64::from(rounded);
        }
        // Four standard deviations of the mean of a choice between two neighbours.
        let allowed = 4.0 * 0.5 * format.ulp(value) / f64::from(count).sqrt();
        assert!((sum / f64::from(count) - f64::from(value)).abs() < allowed, "{format}");
    }
    assert_eq!(Format::Fp8E4m3.round_stochastic(1e6, u32::MAX), 448.0);
    assert_eq!(Format::Fp8E4m3.round_stochastic(447.9, 0), 448.0);
    assert_eq!(Format::Fp8E5m2.round_stochastic(f32::INFINITY, 0), f32::INFINITY);
    assert!(Format::Bf16.round_stochastic(f32::NAN, 0).is_nan());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn rounding_agrees_with_half(bits: u32) {
        let value = f32::from_bits(bits);
        prop_assert!(same(Format::Bf16.round(value), bf16::from_f32(value).to_f32()));
        prop_assert!(same(Format::Fp16.round(value), f16::from_f32(value).to_f32()));
        if !value.is_nan() {
            prop_assert_eq!(Format::Bf16.encode(value), u32::from(bf16::from_f32(value).to_bits()));
            prop_assert_eq!(Format::Fp16.encode(value), u32::from(f16::from_f32(value).to_bits()));
        }
    }

    #[test]
    fn fp8_rounds_to_the_nearest_code(value in prop_oneof![-500f32..500.0, -0.1f32..0.1, -7e4f32..7e4]) {
        for format in [Format::Fp8E4m3, Format::Fp8E5m2] {
            let found = format.round_saturating(value);
            let nearest = (0..=255)
                .map(|code| format.decode(code))
                .filter(|code| code.is_finite())
                .map(|code| (f64::from(code) - f64::from(value)).abs())
                .fold(f64::INFINITY, f64::min);
            prop_assert_eq!((f64::from(found) - f64::from(value)).abs(), nearest);
        }
    }

    #[test]
    fn rounding_codes_and_slices_agree(bits: u32, random: u32) {
        let value = f32::from_bits(bits);
        for format in Format::ALL {
            let rounded = format.round(value);
            prop_assert!(same(format.round(rounded), rounded));
            prop_assert!(same(format.decode(format.encode(value)), rounded));
            prop_assert!(same(format.round_stochastic(rounded, random), rounded));
            let mut slice = [value; 9];
            format.round_slice(&mut slice);
            prop_assert!(slice.iter().all(|found| same(*found, rounded)));
        }
    }
}
