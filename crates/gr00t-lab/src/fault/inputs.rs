//! Faults made before the model: in noise, images and states.

use super::{Case, Effect, Fault, Reach, Suspect, wobble};
use std::sync::Arc;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise;
use steadyhand_gr00t::ops::Patching;
use steadyhand_gr00t::processor::PixelValues;

pub(crate) const PIXELS: &str = "vision.patches";
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

/// Every image is changed.
fn on_each_image(change: impl Fn(&mut PixelValues) + Send + Sync + 'static) -> Effect {
    Effect::Input(Arc::new(move |input| input.images.change(|images| images.iter_mut().for_each(&change))))
}

/// Images arrive as BGR.
pub fn channel_order() -> Fault {
    Fault {
        kind: "channel-order",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: on_each_image(exchange_red_and_blue),
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
        effect: on_each_image(shift_half_a_pixel),
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

/// Images that were made another way of the same frames: the right ones of an inference, and those.
pub(crate) type Otherwise = (Vec<PixelValues>, Vec<PixelValues>);

/// The images were made with a step left out or added, `what`.
pub(crate) fn made_otherwise(what: &str, images: Vec<Otherwise>) -> Fault {
    Fault {
        kind: "images-made-otherwise",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(move |input| {
            input.images.change(|own| {
                if let Some((_, otherwise)) = images.iter().find(|(right, _)| right == own) {
                    own.clone_from(otherwise);
                }
            });
        })),
        opaque: false,
        description: format!("is given images that were made {what}"),
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

/// The pixels went through another preparation.
fn prepared_pixels(what: &str, change: impl Fn(&mut PixelValues) + Send + Sync + 'static) -> Fault {
    Fault {
        kind: "pixel-preparation",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: on_each_image(change),
        opaque: false,
        description: format!("is given pixels of images that are {what}"),
        fix: PIXELS_FIX.to_owned(),
    }
}

/// Preparations of images that deployments get wrong.
fn preparations() -> Vec<Fault> {
    let affine = |scale: f32, offset: f32| {
        move |image: &mut PixelValues| {
            image.data.iter_mut().for_each(|value| *value = *value * scale + offset)
        }
    };
    vec![
        prepared_pixels("normalized twice", affine(2.0, -1.0)),
        prepared_pixels("not normalized: in [0, 1]", affine(0.5, 0.5)),
        prepared_pixels("not normalized: in [0, 255]", affine(127.5, 127.5)),
        prepared_pixels("all zero", affine(0.0, 0.0)),
        prepared_pixels(
            "in another memory layout: rows, columns, channels read as channels, rows, columns",
            |image| {
                let (plane, right) = (image.height * image.width, image.data.clone());
                for (at, value) in image.data.iter_mut().enumerate() {
                    *value = right[at % 3 * plane + at / 3];
                }
            },
        ),
        prepared_pixels("upside down: the order of rows is reversed", |image| {
            let (height, width) = (image.height, image.width);
            for channel in image.data.chunks_exact_mut(height * width) {
                let right = channel.to_vec();
                for (row, values) in channel.chunks_exact_mut(width).enumerate() {
                    values.copy_from_slice(&right[(height - 1 - row) * width..][..width]);
                }
            }
        }),
        prepared_pixels("mirrored: the order of columns is reversed", |image| {
            image.data.chunks_exact_mut(image.width).for_each(<[f32]>::reverse);
        }),
    ]
}

/// Noise and states that are scaled or left out.
fn scaled(place: &'static str, what: &str, factor: f32) -> Fault {
    Fault {
        kind: "scaled-input",
        place: place.to_owned(),
        reach: Reach::Place,
        effect: Effect::Input(Arc::new(move |input| {
            let values = if place == "noise" { &mut input.noise.data } else { &mut input.state.data };
            values.iter_mut().for_each(|value| *value *= factor);
        })),
        opaque: false,
        description: format!("multiplies {what} by {factor}"),
        fix: "give both engines the same input".to_owned(),
    }
}

/// A patch's values in the other of the two usual orders.
fn patch_layout(patching: Patching) -> Fault {
    let [right, wrong] = match patching.channels_first {
        true => ["channel, row, column", "row, column, channel"],
        false => ["row, column, channel", "channel, row, column"],
    };
    Fault {
        kind: "patch-layout",
        place: PIXELS.to_owned(),
        reach: Reach::Place,
        effect: Effect::Result(Arc::new(move |[_, _, features], values| {
            let pixels = features / 3;
            for patch in values.chunks_exact_mut(features) {
                let right = patch.to_vec();
                for (at, value) in patch.iter_mut().enumerate() {
                    // Frames, where there are several, stand before the rows either way.
                    *value = match patching.channels_first {
                        true => right[at % 3 * pixels + at / 3],
                        false => right[at % pixels * 3 + at / pixels],
                    };
                }
            }
        })),
        opaque: false,
        description: format!("flattens the pixels of a patch in the order {wrong} instead of {right}"),
        fix: format!("permute the patches, or the patch embedding's weight, to {right}"),
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

fn at(model: &Model, site: &str) -> Vec<Fault> {
    match site {
        PIXELS => {
            let mut faults =
                vec![channel_order(), shifted_pixels(), other_pixels(), patch_layout(model.vision.patching)];
            faults.extend(preparations());
            faults
        }
        "noise" => {
            let mut faults = vec![unpaired_noise(0)];
            faults.extend(
                [0.0, 0.5, 0.1, 2.0, -1.0].map(|factor| scaled("noise", "the initial noise", factor)),
            );
            faults
        }
        "action_head.state" => {
            vec![other_statistics(0.0), scaled("action_head.state", "the normalized state", 0.0)]
        }
        _ => Vec::new(),
    }
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let mut faults = at(suspect.model, suspect.site);
    // What an engine was given shows first in what it makes of it.
    let behind = |input: &str| suspect.site != input && suspect.unshown.iter().any(|path| path == input);
    if suspect.site == PIXELS || behind(PIXELS) {
        faults.extend(suspect.made_otherwise.iter().cloned());
    }
    for input in [PIXELS, "noise", "action_head.state"] {
        if behind(input) {
            faults.extend(at(suspect.model, input).into_iter().filter(|fault| !fault.opaque));
        }
    }
    faults
}

pub(super) fn of_any_engine(model: &Model) -> Vec<Fault> {
    ["noise", PIXELS, "action_head.state"].iter().flat_map(|site| at(model, site)).collect()
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
