//! `trace:DIR`: tensors that an engine left, named as the reference's taps.

use super::{Examined, Kind, Open};
use std::rc::Rc;
use steadyhand_fidelity::Trace;

pub const KIND: Kind = Kind {
    name: "trace",
    form: "trace:DIR",
    about: "tensors that an engine left, named as the reference's",
    exchanges: false,
    open: Open::Examined {
        // The official precision.
        precision: "bf16",
        options: &[],
        fits: |folder| !folder.is_empty(),
        noise: |_| None,
        open: |folder, _| Ok(Examined::Trace(Rc::new(Trace::open(folder)?))),
    },
};
