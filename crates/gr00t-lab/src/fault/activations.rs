//! Non-linearities and modulations that are others.

use super::spots::Spot;
use super::{Change, Fault, Modulation, Nonlinearity};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::Activation;

/// The names of non-linearities.
pub(super) const ACTIVATIONS: [&str; 5] = ["gelu", "silu", "relu", "swish", "timestep_silu"];

/// Other functions than that at a site of this name. The two forms of GELU are confused elsewhere: see
/// [`super::swapped_gelu`].
fn functions(name: &str) -> Vec<(&'static str, Nonlinearity)> {
    let own: &[Activation] = match name {
        "gelu" => &[Activation::Gelu, Activation::GeluTanh],
        "relu" => &[Activation::Relu],
        _ => &[Activation::Silu],
    };
    let all = [
        ("QuickGELU, x sigmoid(1.702 x),", Nonlinearity::QuickGelu),
        ("GELU (erf)", Nonlinearity::As(Activation::Gelu)),
        ("GELU (tanh)", Nonlinearity::As(Activation::GeluTanh)),
        ("SiLU", Nonlinearity::As(Activation::Silu)),
        ("ReLU", Nonlinearity::As(Activation::Relu)),
        ("sigmoid without x", Nonlinearity::Sigmoid),
        ("tanh", Nonlinearity::Tanh),
        ("leaky ReLU (0.01)", Nonlinearity::LeakyRelu),
        ("squared ReLU", Nonlinearity::SquaredRelu),
        ("no non-linearity", Nonlinearity::Identity),
    ];
    let other = |of: &Nonlinearity| !own.iter().any(|own| *of == Nonlinearity::As(*own));
    all.into_iter().filter(|(_, function)| other(function)).collect()
}

fn activation(spot: &Spot, name: &str) -> Vec<Fault> {
    let of = |(what, function): (&str, Nonlinearity)| {
        let what = format!("computes {what} instead of the right non-linearity in {}", spot.words);
        let fix = "take the activation from the checkpoint's configuration";
        spot.otherwise("activation", Change::Activation(function), what, fix)
    };
    functions(name).into_iter().map(of).collect()
}

/// `gate * silu(up)` instead of `silu(gate) * up`.
fn activated_up(place: &str) -> Fault {
    let spot = Spot::named(place, &["silu", "gated"]);
    let what = format!("applies the non-linearity to `up` instead of `gate` in `{place}`");
    spot.otherwise("activated-up", Change::ActivatedUp, what, "silu(gate) * up: exchange the two operands")
}

/// Faults of the non-linearity at `site`.
pub(super) fn activation_at(model: &Model, site: &str) -> Vec<Fault> {
    let name = site.rsplit('.').next().unwrap_or(site);
    let mut faults: Vec<Fault> =
        Spot::around(model, site).iter().flat_map(|spot| activation(spot, name)).collect();
    if site.starts_with("language.layer.") {
        let layer = model.topology.layer_of(site);
        faults.extend(layer.into_iter().chain(["language.layer"]).map(activated_up));
    }
    faults
}

/// Faults of the non-linearities of a part.
pub(super) fn activations_of(model: &Model, part: &str) -> Vec<Fault> {
    match part {
        "vision" => activation(&Spot::named(part, &["gelu"]), "gelu"),
        "dit" => {
            let mut faults = activation(&Spot::named(part, &["gelu"]), "gelu");
            faults.extend(activation(&Spot::at("dit.silu"), "silu"));
            faults.extend(activation(&Spot::at("dit.timestep_silu"), "timestep_silu"));
            faults
        }
        "language" => {
            let mut faults = activation(&Spot::named(part, &["silu"]), "silu");
            faults.push(activated_up("language.layer"));
            faults
        }
        "action_encoder" => activation(&Spot::at("action_encoder.swish"), "swish"),
        "action_head" => activation(&Spot::at("action_head.state_encoder.relu"), "relu"),
        "decoder" => activation(&Spot::at("decoder.relu"), "relu"),
        tokens if tokens == model.topology.image_tokens => activation(&Spot::named(part, &["gelu"]), "gelu"),
        _ => Vec::new(),
    }
}

fn modulation(spot: &Spot) -> Vec<Fault> {
    let order = "the blocks have scale first, the output norm shift first";
    let plain = "compute x * (1 + scale) + shift";
    let at = &spot.words;
    let mut faults = vec![
        spot.otherwise(
            "scale-without-one",
            Change::ScaleWithoutOne,
            format!("modulates by (scale) instead of (1 + scale) in {at}"),
            "multiply by 1 + scale",
        ),
        spot.otherwise(
            "scale-as-shift",
            Change::ScaleAsShift,
            format!("exchanges scale and shift of the modulation in {at}"),
            order,
        ),
    ];
    let others = [
        (Modulation::TwoPlus, "by (2 + scale) instead of (1 + scale): 1 is added twice", plain),
        (Modulation::NoScale, "without the scale", plain),
        (Modulation::NoShift, "without the shift", plain),
        (Modulation::LeftOut, "by nothing: scale and shift are left out", plain),
        (Modulation::ShiftFirst, "by (x + shift) * (1 + scale): the shift is added first", plain),
        (Modulation::Alternating, "by scale and shift taken by turns instead of in two halves", order),
    ];
    faults.extend(others.map(|(other, what, fix)| {
        spot.otherwise("modulation", Change::Modulation(other), format!("modulates {what} in {at}"), fix)
    }));
    faults
}

/// Faults of the modulation at `site`.
pub(super) fn modulation_at(model: &Model, site: &str) -> Vec<Fault> {
    let mut spots = Spot::around(model, site);
    spots.push(Spot::named("dit", &["modulated"]));
    spots.iter().flat_map(modulation).collect()
}

/// Faults of the modulations of all blocks, of the output norm, and of both.
pub(super) fn modulations() -> Vec<Fault> {
    let spots = [
        Spot::named("dit.block", &["modulated"]),
        Spot::at("dit.modulated"),
        Spot::named("dit", &["modulated"]),
    ];
    spots.iter().flat_map(modulation).collect()
}
