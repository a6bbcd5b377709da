//! Residual connections with other terms.

use super::spots::Spot;
use super::{Change, Fault};
use steadyhand_gr00t::model::Model;

fn of_spot(spot: &Spot, in_layer: bool) -> Vec<Fault> {
    let fix = "add what was computed to what entered the block, before its norm, once";
    let at = &spot.words;
    let mut faults = Vec::new();
    for first in [true, false] {
        let (kept, other) = if first { ("first", "second") } else { ("second", "first") };
        let what = format!(
            "leaves the {other} term of the residual connection out: only the {kept} is there, in {at}"
        );
        faults.push(spot.otherwise("residual-term", Change::OneTerm { first }, what, fix));
        let what = format!("adds the {kept} term of the residual connection twice in {at}");
        faults.push(spot.otherwise("residual-twice", Change::TermTwice { first }, what, fix));
    }
    for name in ["norm1", "norm2", "modulated"].into_iter().filter(|_| in_layer) {
        let what =
            format!("adds to `{name}` instead of to what entered the block, in the residual connection {at}");
        faults.push(spot.otherwise("residual-operand", Change::ResidualOf(name), what, fix));
    }
    faults
}

/// Faults of the residual connection at `site`.
pub(super) fn at(model: &Model, site: &str) -> Vec<Fault> {
    Spot::around(model, site).iter().flat_map(|spot| of_spot(spot, true)).collect()
}

/// Faults of all residual connections of one kind in a stack of layers.
pub(super) fn of_stack(stack: &str) -> Vec<Fault> {
    let spots = [Spot::named(stack, &["residual1"]), Spot::layers(stack)];
    spots.iter().flat_map(|spot| of_spot(spot, true)).collect()
}

/// Faults of the sum with a table of positions at `site`.
pub(super) fn of_positions(site: &str) -> Vec<Fault> {
    of_spot(&Spot::at(site), false)
}
