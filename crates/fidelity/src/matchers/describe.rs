//! The sentences that go with a match.

use super::{Fill, MatchKind};

impl MatchKind {
    /// What happened to a tensor whose reference has this shape.
    pub(super) fn description(&self, shape: &[usize]) -> String {
        match self {
            MatchKind::Zeros => "all values are zero".into(),
            MatchKind::SignFlipped => "every value has the opposite sign".into(),
            MatchKind::Stale => "the tensor is that of the previous call".into(),
            MatchKind::Rounded { format, saturating: false } => format!("values are rounded to {format}"),
            MatchKind::Rounded { format, saturating: true } => {
                format!("values are rounded to {format}, those beyond ±{} to ±{0}", format.max())
            }
            MatchKind::Saturated { format } => {
                format!("values beyond ±{} are clamped to it, the largest of {format}", format.max())
            }
            MatchKind::UnwrittenTail { fill, first_row, rows } => {
                let holds = match fill {
                    Fill::Zeros => "zeros",
                    Fill::Nan => "NaN",
                    Fill::Previous => "the values of the previous call",
                };
                format!("rows {first_row} to {} of {rows} hold {holds}", rows - 1)
            }
            MatchKind::NotFinite { nan, infinite, first, overflow } => {
                let cause = overflow.map_or(String::new(), |format| {
                    format!("; they are exactly the values beyond the range of {format}")
                });
                let what = format!("{nan} NaN and {infinite} infinite values, the first at element {first}");
                format!("{what}, all others are right{cause}")
            }
            MatchKind::Scaled { scale, offset: 0.0 } => format!("values are multiplied by {scale:.6}"),
            MatchKind::Scaled { scale: 1.0, offset } => format!("{offset:.6} is added to every value"),
            MatchKind::Scaled { scale, offset } => {
                format!("values are multiplied by {scale:.6}, then {offset:.6} is added")
            }
            MatchKind::Reinterpreted { stored, read } => {
                format!("values were written as {stored} and their bits read as {read}")
            }
            MatchKind::ByteOrder { format } => format!("the bytes of every {format} value are swapped"),
            MatchKind::Shifted { by, wrapped } => shifted(*by, *wrapped, shape),
            MatchKind::AxesPermuted { shape, order, groups } => {
                let split = groups
                    .map_or(String::new(), |groups| format!(", the last dimension being {groups} groups"));
                format!("memory holds {shape:?} with its axes in the order {order:?}{split}")
            }
            MatchKind::GroupsPermuted { groups, order } => {
                format!("the {groups} groups of the last dimension stand in the order {order:?}")
            }
        }
    }

    /// What to do about it.
    pub(super) fn fix(&self) -> String {
        match self {
            MatchKind::Zeros => "check that the output is written, and that its own buffer is read".into(),
            MatchKind::SignFlipped => "look for a negated operand or a subtraction in reverse order".into(),
            MatchKind::Stale => {
                "wait for the call to finish before reading, and bind this call's buffer".into()
            }
            MatchKind::Rounded { format, .. } => {
                format!("keep this tensor in a wider format than {format}, or allow for {format} here")
            }
            MatchKind::Saturated { format } => {
                format!("scale the values into the range of {format}, or keep this tensor in a wider format")
            }
            MatchKind::UnwrittenTail { first_row, .. } => {
                format!("make the launch or copy cover the rows from {first_row} on")
            }
            MatchKind::NotFinite { overflow: Some(format), .. } => {
                format!("keep this tensor in a format of a larger range than {format}, or scale it")
            }
            MatchKind::NotFinite { .. } => {
                "look for a division by zero, a fully masked row or unwritten memory at these places".into()
            }
            MatchKind::Scaled { .. } => {
                "look for a normalization, scale or bias that is missing or applied twice".into()
            }
            MatchKind::Reinterpreted { stored, read } => {
                format!("bind the buffer as {stored}, or convert it to {read} where it is handed over")
            }
            MatchKind::ByteOrder { format } => {
                format!("write and read {format} in the same byte order (little-endian)")
            }
            MatchKind::Shifted { .. } => {
                "check the offset of the buffer and the start index of the copy".into()
            }
            MatchKind::AxesPermuted { .. } => {
                "make the tensor contiguous in the expected order, or bind it with its strides".into()
            }
            MatchKind::GroupsPermuted { .. } => {
                "check the order in which heads or groups are split and joined".into()
            }
        }
    }
}

fn shifted(by: isize, wrapped: bool, shape: &[usize]) -> String {
    let row = shape.last().copied().unwrap_or(1).max(1);
    let distance = by.unsigned_abs();
    let amount = if row > 1 && distance.is_multiple_of(row) {
        format!("{} rows", distance / row)
    } else {
        format!("{distance} elements")
    };
    let direction = if by > 0 { "after" } else { "before" };
    let around = if wrapped { ", wrapped around" } else { "" };
    format!("values stand {amount} {direction} their place{around}")
}
