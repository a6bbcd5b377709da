//! RoPE that turns otherwise.

use super::spots::Spot;
use super::{Change, Fault, Numbering, Rotation};
use steadyhand_gr00t::model::Model;

/// Bases of RoPE in published models.
const THETAS: [f64; 7] = [1e4, 1e5, 5e5, 1e6, 5e6, 1e7, 1e3];

const BOTH: &[&str] = &["query_rope", "key_rope"];

fn of_spot(model: &Model, spot: &Spot, part: &str) -> Vec<Fault> {
    let at = &spot.words;
    let mut faults = Vec::new();
    if part == "language" {
        let right = model.language.rope_theta;
        for theta in THETAS.into_iter().filter(|theta| *theta != right) {
            let what = format!(
                "rotates with a RoPE theta (base of the frequencies) of {theta:e} instead of {right:e} in {at}"
            );
            let change = Change::Rotary { theta: Some(theta), first: 0 };
            faults.push(spot.otherwise(
                "rope-theta",
                change,
                what,
                "take rope_theta from the checkpoint's configuration",
            ));
        }
        for first in [1, 2] {
            let what = format!("counts the positions of RoPE from {first} instead of 0 in {at}");
            let change = Change::Rotary { theta: None, first };
            let fix = "number the tokens of the prompt from 0";
            faults.push(spot.otherwise("rope-position", change, what, fix));
        }
        let numberings = [
            (Numbering::FromImage, "from 0 again at the first token of an image"),
            (Numbering::BehindImage, "from 0 again behind an image"),
            (Numbering::ImageAsOne, "with one position for all tokens of an image"),
            (Numbering::WithoutImages, "as if image tokens had no positions"),
        ];
        faults.extend(numberings.map(|(other, what)| {
            let what = format!("counts the positions of RoPE {what} in {at}");
            let fix = "number the tokens of the prompt from 0, image tokens among them";
            spot.otherwise("rope-position", Change::Positions(other), what, fix)
        }));
    }
    let rotations = [
        (
            Rotation::Neighbours,
            "rotates interleaved pairs of neighbours (2 i, 2 i + 1) instead of the two halves of a head (RoPE)",
        ),
        (Rotation::Backwards, "rotates backwards: the sign of the sines of RoPE is turned"),
        (Rotation::SinesForCosines, "exchanges sines and cosines of RoPE"),
        (Rotation::HalfOfHead, "rotates only the first half of each head (RoPE)"),
    ];
    faults.extend(rotations.map(|(other, what)| {
        let fix = "x cos + rotate_half(x) sin, with the halves of a head as pairs";
        spot.otherwise("rotation", Change::Rotation(other), format!("{what} in {at}"), fix)
    }));
    let what = format!("leaves RoPE out in {at}");
    faults.push(spot.otherwise(
        "no-rope",
        Change::NoRotary,
        what,
        "rotate queries and keys by their positions",
    ));
    faults
}

/// Faults of the rotation at `site`.
pub(super) fn at(model: &Model, site: &str) -> Vec<Fault> {
    let part = site.split('.').next().unwrap_or(site);
    let mut spots = Spot::around(model, site);
    if let Some((layers, _)) = model.topology.layers_of(site) {
        spots.push(Spot::named(layers.path, BOTH));
    }
    if let Some(layer) = model.topology.layer_of(site) {
        spots.push(Spot::named(layer, BOTH));
    }
    spots.iter().flat_map(|spot| of_spot(model, spot, part)).collect()
}

/// Faults of all rotations of a part.
pub(super) fn of_part(model: &Model, part: &str) -> Vec<Fault> {
    of_spot(model, &Spot::named(part, BOTH), part)
}
