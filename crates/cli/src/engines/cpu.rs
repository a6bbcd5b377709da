//! `cpu`: the reference.

use super::{Kind, Open};
use steadyhand_gr00t::engine::Reference;

pub const KIND: Kind = Kind {
    name: "cpu",
    form: "cpu:PRECISION",
    about: "the reference",
    exchanges: true,
    open: Open::Running { options: &[], backend: |_| Ok(Box::new(Reference)) },
};
