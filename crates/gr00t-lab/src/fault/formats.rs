//! Number formats in places where they do not fit.

use super::{Case, Effect, Fault, Reach, Sites, Suspect};
use std::sync::Arc;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::Formats;

/// Formats that something may have been run in by mistake, the narrowest last.
const NARROW: [Format; 5] = [Format::Tf32, Format::Fp16, Format::Bf16, Format::Fp8E4m3, Format::Fp8E5m2];

/// A site, and everything below it, runs in narrower formats than it should.
pub fn narrow(site: &str, formats: Formats) -> Fault {
    let place = if site.is_empty() { "the whole model".to_owned() } else { format!("`{site}`") };
    Fault {
        kind: "narrow",
        place: site.to_owned(),
        reach: Reach::Below,
        effect: Effect::Formats(formats),
        opaque: false,
        description: format!(
            "runs {place} in other formats: storage {}, compute {}, accumulation {}",
            formats.storage, formats.compute, formats.accumulate
        ),
        fix: format!("keep {place} in a wider format: a layer precision, or a Cast in the export"),
    }
}

/// An fp8 layer's scale was calibrated on smaller values, `fraction` of the true maximum: what exceeds them is cut off.
pub fn stale_scale(site: &str, fraction: f32) -> Fault {
    Fault {
        kind: "stale-scale",
        place: site.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |_, values| quantize(values, fraction))),
        opaque: false,
        description: format!(
            "cuts `{site}` off at {:.0} % of its range, as an fp8 scale from other data does",
            fraction * 100.0
        ),
        fix: format!("calibrate `{site}` again on this dataset and embodiment"),
    }
}

/// Rounds to e4m3 with a scale made for `fraction` of the values' range; larger values saturate.
fn quantize(values: &mut [f32], fraction: f32) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest * fraction / Format::Fp8E4m3.max();
    if scale > 0.0 {
        for value in values.iter_mut() {
            *value = Format::Fp8E4m3.round_saturating(*value / scale) * scale;
        }
    }
}

/// Formats that are narrower than the `declared` ones in one respect, or in storage and products. Wider ones are no
/// fault.
fn narrower(declared: Formats) -> Vec<Formats> {
    let Formats { storage, compute, accumulate, .. } = declared;
    let mut found = Vec::new();
    for format in NARROW {
        let below = |wide: Format| format.epsilon() > wide.epsilon();
        found.extend(below(accumulate).then(|| Formats::new(storage, compute, format)));
        found.extend(below(compute).then(|| Formats::new(storage, format, accumulate)));
        found.extend(below(storage).then(|| Formats::new(format, compute, accumulate)));
        found.extend((below(storage) && below(compute)).then(|| Formats::new(format, format, accumulate)));
    }
    found
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let mut faults = Vec::new();
    for formats in narrower(suspect.formats) {
        // Fp16 accumulation of products is emulated term by term: a replay of a whole part would take minutes.
        let slow = formats.accumulate == Format::Fp16;
        let places = suspect.places().into_iter().take(if slow { 1 } else { usize::MAX });
        faults.extend(places.map(|site| narrow(site, formats)));
    }
    if suspect.peak < 0.99 {
        // A scale made for smaller values cuts off what exceeds them.
        faults.push(stale_scale(suspect.site, suspect.peak as f32));
    }
    faults
}

/// `declared`: the formats of a path.
pub(super) fn of_any_engine(model: &Model, declared: &dyn Fn(&str) -> Formats) -> Vec<Fault> {
    let tokens = model.topology.image_tokens;
    let parts = ["vision", tokens, "language", "action_head", "action_encoder", "dit", "decoder", "euler"];
    let of = |part: &&str| -> Vec<Fault> {
        // Fp16 accumulation is left out, for the reason in `candidates`.
        let formats = narrower(declared(part)).into_iter();
        formats.filter(|of| of.accumulate != Format::Fp16).map(|formats| narrow(part, formats)).collect()
    };
    parts.iter().flat_map(of).collect()
}

pub(super) fn cases(sites: &Sites) -> Vec<Case> {
    let own = &sites.own;
    let all = |format| Formats::new(format, format, Format::F32);
    let accumulate = |format| Formats::new(Format::F32, Format::F32, format);
    let residual = format!("{own}.residual1");
    let norm = format!("{}.norm1", sites.language);
    let attention = format!("{own}.attention");
    let fc1 = format!("{own}.fc1");
    vec![
        Case {
            name: "residual stream in fp8",
            strong: narrow(&residual, all(Format::Fp8E4m3)),
            weak: narrow(&residual, all(Format::Fp16)),
        },
        Case {
            name: "norm statistics in a narrow format",
            strong: narrow(&norm, accumulate(Format::Fp8E4m3)),
            weak: narrow(&norm, accumulate(Format::Fp16)),
        },
        Case {
            name: "low-precision softmax",
            strong: narrow(&attention, accumulate(Format::Fp8E4m3)),
            weak: narrow(&attention, accumulate(Format::Bf16)),
        },
        Case {
            name: "Euler state in a narrow format",
            strong: narrow("euler", all(Format::Bf16)),
            weak: narrow("euler", all(Format::Fp16)),
        },
        Case {
            name: "one layer silently at low precision",
            strong: narrow(own, all(Format::Fp8E4m3)),
            weak: narrow(own, all(Format::Bf16)),
        },
        Case { name: "fp8 scale stale", strong: stale_scale(&fc1, 0.1), weak: stale_scale(&fc1, 0.7) },
    ]
}
