//! `trace:DIR`: tensors that an engine left, named as the reference's taps.

use super::{Asked, Examined, Kind, Open};
use anyhow::Result;
use std::rc::Rc;
use steadyhand_fidelity::Trace;
use steadyhand_serve::Recording;

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
        open,
    },
};

/// The recording of a server that a trace is; none of other traces.
///
/// # Errors
/// A trace that cannot be read.
pub fn recording(folder: &str) -> Result<Option<Recording>> {
    Ok(Recording::of(Rc::new(Trace::open(folder)?)))
}

/// Of what a server recorded, its actions are the engine's: everything else was handed to it.
fn open(folder: &str, asked: &Asked) -> Result<Examined> {
    let trace = Rc::new(Trace::open(folder)?);
    let Some(recording) = Recording::of(Rc::clone(&trace)) else { return Ok(Examined::Trace(trace)) };
    let modalities = asked.scene.session.parts.processor.modalities();
    let actions = (0..recording.len().min(asked.scene.inputs.len()))
        .map(|index| Ok(recording.get(index, modalities)?.actions));
    Ok(Examined::Actions(actions.collect::<Result<_>>()?))
}
