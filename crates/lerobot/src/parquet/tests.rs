use super::*;

#[test]
fn half_floats() {
    for (bits, value) in [
        (0x3c00, 1.0),
        (0xc000, -2.0),
        (0x7bff, 65504.0),
        (0x0001, 2f64.powi(-24)),
        (0x0400, 2f64.powi(-14)),
        (0x3555, 0.333251953125),
        (0xfc00, f64::NEG_INFINITY),
    ] {
        assert_eq!(half(bits), value, "{bits:x}");
    }
    assert!(half(0x7e00).is_nan());
}

#[test]
fn what_stored_bits_stand_for() {
    assert_eq!(Stored::Unsigned.integer::<f32>(i64::from(3_000_000_000u32.cast_signed()), 32), Some(3e9));
    assert_eq!(Stored::Unsigned.integer::<f64>(-1, 64), Some(u64::MAX as f64));
    assert_eq!(Stored::Unsigned.integer::<i64>(-1, 64), None);
    assert_eq!(Stored::Plain.integer::<i64>(-1, 64), Some(-1));
    assert_eq!(Stored::Decimal(100.0).integer::<f64>(-125, 32), Some(-1.25));
    assert_eq!(Stored::Decimal(10.0).bytes::<f64>(&[0xff, 0x85]), Some(-12.3));
    let wide = |first: u8| [&[first; 30][..], &[0xff, 0x85]].concat();
    assert_eq!(Stored::Decimal(10.0).bytes::<f64>(&wide(0xff)), Some(-12.3));
    assert_eq!(Stored::Decimal(10.0).bytes::<f64>(&wide(0)), Some(6541.3));
    assert_eq!(Stored::Decimal(10.0).bytes::<f64>(&wide(0x70)), None);
    assert_eq!(i64::from_float(2.0), Some(2));
    assert_eq!((i64::from_float(2.5), i64::from_float(f64::NAN)), (None, None));
}

#[test]
fn row_lengths_of_lists_nulls_and_scalars() {
    let lengths = |defs: &[i16], reps: &[i16], levels, values| {
        let mut out = Column::<f32>::default();
        row_lengths(defs, reps, levels, values, &mut out);
        (out.lengths, out.null)
    };
    assert_eq!(lengths(&[], &[], 3, 3), (vec![1, 1, 1], None));
    assert_eq!(lengths(&[1, 0, 1], &[], 3, 2), (vec![1, 0, 1], None));
    assert_eq!(lengths(&[0, 0], &[], 2, 0), (vec![0, 0], None));
    // [a, b], null, [], [c, null]
    assert_eq!(lengths(&[3, 3, 0, 1, 3, 2], &[0, 1, 0, 0, 0, 1], 6, 3), (vec![2, 0, 0, 1], Some(3)));
    // [null, a], [b, c]
    assert_eq!(lengths(&[2, 3, 3, 3], &[0, 1, 0, 1], 4, 3), (vec![1, 2], Some(0)));
}
