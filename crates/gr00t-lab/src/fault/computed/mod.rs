//! What operations give that are computed otherwise: knows of changes, not of faults.

pub(super) mod attention;
mod change;
pub(super) mod layout;
pub(super) mod linear;
pub(super) mod norms;
pub(super) mod operands;
pub(super) mod rotary;

pub use change::{Change, Handed, Modulation, Nonlinearity, Norm, Numbering, Rotation, Seen, Weighing};
