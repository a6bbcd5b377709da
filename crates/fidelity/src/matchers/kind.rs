//! What a matcher can claim.

use crate::Format;
use serde::Serialize;

/// A transformation of the reference that reproduces what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    /// Which transformation, with its parameters; serialized beside the other fields.
    #[serde(flatten)]
    pub kind: MatchKind,
    /// The relative L2 error that it leaves. Of changes to the bits, the error that remains after undoing
    /// them, because bits read as another format have no meaningful norm.
    pub residual: f64,
    /// What happened, in one sentence.
    pub description: String,
    /// What to do about it, in one sentence.
    pub fix: String,
}

/// The kinds of transformation, with their parameters.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MatchKind {
    /// All values are zero.
    Zeros,
    /// All signs are inverted.
    SignFlipped,
    /// The tensor is that of the previous call.
    Stale,
    /// Values were rounded to a format.
    Rounded {
        /// The format.
        format: Format,
        /// Whether overflow became the largest value instead of an infinity or NaN.
        saturating: bool,
    },
    /// Values beyond a format's range became its largest; the others are right.
    Saturated {
        /// The format.
        format: Format,
    },
    /// The rows from `first_row` on were never written.
    UnwrittenTail {
        /// What they hold instead.
        fill: Fill,
        /// The first bad row.
        first_row: usize,
        /// Number of rows: the product of all dimensions but the last.
        rows: usize,
    },
    /// Some values are NaN or infinite; all others are right.
    NotFinite {
        /// Number of NaNs.
        nan: usize,
        /// Number of infinities.
        infinite: usize,
        /// Index of the first of them, counted in elements.
        first: usize,
        /// The format out of whose range exactly these values of the reference lie.
        overflow: Option<Format>,
    },
    /// `found = scale · reference + offset`.
    Scaled {
        /// 1 where only an offset was added.
        scale: f64,
        /// 0 where the values were only scaled.
        offset: f64,
    },
    /// Written as one format, read as another.
    Reinterpreted {
        /// The format that was written.
        stored: Format,
        /// The format that was read.
        read: Format,
    },
    /// The bytes of each value are in the opposite order.
    ByteOrder {
        /// The format of the values.
        format: Format,
    },
    /// Element `i` of the reference is found at `i + by`.
    Shifted {
        /// In elements; negative towards the start.
        by: isize,
        /// Whether what left at one end came in at the other.
        wrapped: bool,
    },
    /// The memory is that of the reference with its axes in another order.
    AxesPermuted {
        /// The reference's shape without dimensions of one; the last one divided into [groups, channels]
        /// where `groups` is given.
        shape: Vec<usize>,
        /// The axes of `shape` in the order found in memory, outermost first.
        order: Vec<usize>,
        /// The number of groups that the last dimension was divided into.
        groups: Option<usize>,
    },
    /// Heads or channel groups stand in another order.
    GroupsPermuted {
        /// How many groups the last dimension consists of.
        groups: usize,
        /// The reference's group found at each place.
        order: Vec<usize>,
    },
}

/// What unwritten memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// NaN, as a canary or as fresh memory.
    Nan,
    /// The values of the previous call.
    Previous,
}
