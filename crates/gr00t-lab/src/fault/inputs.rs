//! Faults made before the model: in noise, images and states.

use super::{Case, Effect, Fault, Reach, Suspect, wobble};
use std::sync::Arc;
use steadyhand_gr00t::noise;
use steadyhand_gr00t::processor::PixelValues;

const PIXELS: &str = "vision.patches";
const PIXELS_FIX: &str = "compare resizing, cropping and normalization with processor_config.json";

/// The engine starts from its own noise, drawn with `seed`.
pub fn unpaired_noise(seed: u64) -> Fault {
    Fault {
        kind: "unpaired-noise",
        place: "noise".to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(move |input| {
            // Another draw for each inference, as an engine with a generator of its own would make.
            let inference = input.noise.data.first().map_or(0, |value| value.to_bits());
            input.noise = noise::gaussian(seed, 0, inference, input.noise.rows, input.noise.cols);
        })),
        opaque: true,
        description: "starts from other noise than the reference".to_owned(),
        fix: "give both engines the same initial noise before comparing them".to_owned(),
    }
}

/// Images arrive as BGR.
pub fn channel_order() -> Fault {
    Fault {
        kind: "channel-order",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(|input| input.images.iter_mut().for_each(exchange_red_and_blue))),
        opaque: false,
        description: "is given BGR images".to_owned(),
        fix: "convert BGR to RGB before the processor".to_owned(),
    }
}

/// Images are resized half a pixel off.
pub fn shifted_pixels() -> Fault {
    Fault {
        kind: "shifted-pixels",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(|input| input.images.iter_mut().for_each(shift_half_a_pixel))),
        opaque: false,
        description: "is given images resized half a pixel off".to_owned(),
        fix: PIXELS_FIX.to_owned(),
    }
}

/// The pixels differ in another way.
pub fn other_pixels() -> Fault {
    Fault {
        kind: "other-pixels",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: Effect::Unknown,
        opaque: true,
        description: "is given other pixels than the reference".to_owned(),
        fix: PIXELS_FIX.to_owned(),
    }
}

/// States are normalized with the statistics of another dataset, whose ranges differ by `spread`, relative to the
/// right ones.
pub fn other_statistics(spread: f32) -> Fault {
    Fault {
        kind: "other-statistics",
        place: "action_head.state".to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(move |input| {
            for (dimension, value) in input.state.data.iter_mut().enumerate() {
                // Padding stays zero: it was never normalized.
                if *value != 0.0 {
                    *value = *value * (1.0 + spread * wobble(dimension)) + spread * wobble(dimension + 1000);
                }
            }
        })),
        opaque: true,
        description: "is given another normalized state than the reference".to_owned(),
        fix: "use the checkpoint's own statistics.json, and the same state".to_owned(),
    }
}

fn exchange_red_and_blue(image: &mut PixelValues) {
    let plane = image.height * image.width;
    let (red, rest) = image.data.split_at_mut(plane);
    red.swap_with_slice(&mut rest[plane..2 * plane]);
}

/// Every pixel becomes the mean of itself and its right neighbour.
fn shift_half_a_pixel(image: &mut PixelValues) {
    for row in image.data.chunks_exact_mut(image.width) {
        for x in 0..row.len() - 1 {
            row[x] = 0.5 * (row[x] + row[x + 1]);
        }
    }
}

fn at(site: &str) -> Vec<Fault> {
    match site {
        PIXELS => vec![channel_order(), shifted_pixels(), other_pixels()],
        "noise" => vec![unpaired_noise(0)],
        "action_head.state" => vec![other_statistics(0.0)],
        _ => Vec::new(),
    }
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    at(suspect.site)
}

pub(super) fn of_any_engine() -> Vec<Fault> {
    ["noise", PIXELS, "action_head.state"].iter().flat_map(|site| at(site)).collect()
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "unpaired noise", strong: unpaired_noise(1), weak: unpaired_noise(2) },
        Case {
            name: "channel order or resize of the image wrong",
            strong: channel_order(),
            weak: shifted_pixels(),
        },
        Case {
            name: "statistics of another dataset",
            strong: other_statistics(0.5),
            weak: other_statistics(0.02),
        },
    ]
}
