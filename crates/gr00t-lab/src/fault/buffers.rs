//! Faults of the buffers between an engine and its caller.

use super::{Case, Effect, Fault, PIXELS, Reach, Sites, Suspect};
use std::sync::Arc;
use steadyhand_fidelity::Format;
use steadyhand_fidelity::format::reinterpret_bytes;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::topology::Topology;

/// What was written and what was read.
pub(super) const MISREAD: [(Format, Format); 6] = [
    (Format::Bf16, Format::Fp16),
    (Format::Fp16, Format::Bf16),
    (Format::F32, Format::Bf16),
    (Format::F32, Format::Fp16),
    (Format::Bf16, Format::F32),
    (Format::Fp16, Format::F32),
];

/// A buffer holds values of one format and is read as another: the bytes are reinterpreted. Where the
/// formats differ in width, the reader gets as many values as it expects from the start of the buffer.
pub fn misread(site: &str, stored: Format, read: Format) -> Fault {
    let description = match (stored.bits(), read.bits()) {
        (a, b) if a == b => format!("writes {stored} at `{site}` and the bytes are read as {read}"),
        (a, b) => format!("writes {a}-bit {stored} at `{site}` into a buffer that is read as {b}-bit {read}"),
    };
    Fault {
        kind: "reinterpreted",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |_, values| {
            let misread = reinterpret_bytes(values, stored, read);
            values.iter_mut().zip(misread).for_each(|(value, misread)| *value = misread);
        })),
        opaque: false,
        description,
        fix: format!(
            "allocate the output buffer with the engine's own type, {stored}, as the binding reports it, and convert \
             by value"
        ),
    }
}

const BUFFER_FIX: &str = "check that the buffer bound is the one that is read, its size, and that reading waits for \
                          the stream";

/// What the model is given at a site, in words.
fn given(site: &str) -> Option<&'static str> {
    match site {
        PIXELS => Some("pixels of the image"),
        "action_head.state" => Some("state"),
        "noise" => Some("noise"),
        _ => None,
    }
}

/// The buffer still holds the result of the previous inference.
pub fn stale(site: &str) -> Fault {
    Fault {
        kind: "stale",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Stale,
        opaque: false,
        description: match given(site) {
            Some(what) => format!("works on the {what} (`{site}`) of the previous inference"),
            None => format!("gives the previous inference's `{site}`"),
        },
        fix: BUFFER_FIX.to_owned(),
    }
}

/// The last `unwritten` tokens of a buffer are never written and hold zeros. Of a buffer that has no more than those nothing
/// was written, which is no tail: see [`stale`].
pub fn unwritten_tail(site: &str, unwritten: usize) -> Fault {
    Fault {
        kind: "unwritten-tail",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |[_, tokens, features], values| {
            for item in values.chunks_exact_mut(tokens * features).filter(|_| unwritten < tokens) {
                item[(tokens - unwritten) * features..].fill(0.0);
            }
        })),
        opaque: false,
        description: format!("never writes the last {unwritten} tokens of `{site}`"),
        fix: BUFFER_FIX.to_owned(),
    }
}

/// What can happen to any buffer.
fn of(config: &Config, site: &str) -> Vec<Fault> {
    let mut faults: Vec<Fault> = MISREAD.iter().map(|&(stored, read)| misread(site, stored, read)).collect();
    faults.push(stale(site));
    let most = config.action_horizon.max(8);
    faults.extend((1..=most).map(|tokens| unwritten_tail(site, tokens)));
    faults
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    of(&suspect.model.config, suspect.site)
}

pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    let Topology { features, image_tokens, .. } = &model.topology;
    let sites = ["dit.output", "decoder", features, "action_head.state_features", image_tokens, "euler"];
    sites.iter().flat_map(|site| of(&model.config, site)).collect()
}

pub(super) fn cases(sites: &Sites) -> Vec<Case> {
    let (cross, own) = (&sites.cross, &sites.own);
    vec![
        Case {
            name: "bf16 read as fp16",
            strong: misread("dit.output", Format::Bf16, Format::Fp16),
            weak: misread(&format!("{cross}.attention_output"), Format::Bf16, Format::Fp16),
        },
        Case {
            name: "fp16 read as bf16",
            strong: misread("dit.output", Format::Fp16, Format::Bf16),
            weak: misread(&format!("{}.gated", sites.language), Format::Fp16, Format::Bf16),
        },
        Case {
            name: "f32 buffer read as bf16",
            strong: misread("dit.output", Format::F32, Format::Bf16),
            weak: misread(&format!("{own}.attention_output"), Format::F32, Format::Bf16),
        },
        Case {
            name: "output of the previous call",
            strong: stale("dit.output"),
            weak: stale(&format!("{own}.attention")),
        },
        Case {
            name: "unwritten tail",
            strong: unwritten_tail("dit.output", 8),
            weak: unwritten_tail(&sites.features, 1),
        },
    ]
}
