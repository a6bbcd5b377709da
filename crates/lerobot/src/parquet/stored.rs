//! Numbers as parquet stores them: unsigned ones in signed columns, half floats, decimals.

use parquet::basic::{ConvertedType, LogicalType};
use parquet::schema::types::ColumnDescriptor;

use super::Cell;

/// What the stored bits of a column stand for, where that is not what they are stored as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stored {
    Plain,
    Unsigned,
    /// Half floats, little endian.
    Half,
    /// Integers (big endian where they are bytes), to be divided by this power of ten.
    Decimal(f64),
}

impl Stored {
    pub(super) fn of(column: &ColumnDescriptor) -> Stored {
        let decimal = || Stored::Decimal(10f64.powi(column.type_scale()));
        match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::Integer(int)), _) if !int.is_signed => Stored::Unsigned,
            (Some(LogicalType::Float16), _) => Stored::Half,
            (Some(LogicalType::Decimal(_)), _) | (_, ConvertedType::DECIMAL) => decimal(),
            (
                _,
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64,
            ) => Stored::Unsigned,
            _ => Stored::Plain,
        }
    }

    /// An integer of `bits` bits, which are sign-extended.
    pub(super) fn integer<V: Cell>(self, value: i64, bits: u32) -> Option<V> {
        match self {
            Stored::Unsigned => V::from_unsigned(value.cast_unsigned() & (u64::MAX >> (64 - bits))),
            Stored::Decimal(unit) => V::from_float(value as f64 / unit),
            Stored::Plain | Stored::Half => V::from_integer(value),
        }
    }

    pub(super) fn bytes<V: Cell>(self, bytes: &[u8]) -> Option<V> {
        match (self, bytes) {
            (Stored::Half, [low, high]) => V::from_float(half(u16::from_le_bytes([*low, *high]))),
            (Stored::Decimal(unit), _) => V::from_float(big_endian(bytes)? / unit),
            _ => V::from_bytes(bytes),
        }
    }
}

/// The value of an IEEE half float.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (fraction + 1024.0) * 2f64.powi(exponent - 25),
    }
}

/// A signed big-endian integer that 16 bytes hold; wider ones begin with bytes of the sign alone.
fn big_endian(bytes: &[u8]) -> Option<f64> {
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let (sign, bytes) = bytes.split_at(bytes.len().saturating_sub(16));
    let begins = bytes.first().is_some_and(|byte| (*byte >= 0x80) == negative);
    let fill = if negative { 0xff } else { 0 };
    if !(sign.is_empty() || begins && sign.iter().all(|byte| *byte == fill)) {
        return None;
    }
    let mut whole = if negative { [0xff; 16] } else { [0; 16] };
    whole.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(whole) as f64)
}

#[cfg(test)]
mod tests {
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
}
