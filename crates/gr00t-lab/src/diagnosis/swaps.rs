//! Components exchanged between the reference and a running engine, in both directions.

use super::baseline::{Baseline, MARGIN};
use super::replay::{Progress, Task};
use super::report::{SwapErrors, Swaps};
use super::setup::Setup;
use super::side_by_side::{self, ENGINES, Swap, swap_components};
use crate::Result;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// An engine and what it gave for the last inference.
pub(super) struct Exchange<'a> {
    pub(super) engine: &'a mut dyn Engine,
    pub(super) actions: &'a Matrix,
    /// Whether what it gives may depend on the inference before.
    pub(super) keeps_state: bool,
    /// Exchange also where the actions lie no further apart than rounding allows.
    pub(super) always: bool,
}

/// Exchanges every component in the last inference; none where there is no error to look for.
///
/// # Errors
/// Those of the engine.
pub(super) fn run(
    setup: &Setup,
    baseline: &Baseline,
    exchange: Exchange,
    progress: &dyn Fn(Progress),
) -> Result<Option<Swaps>> {
    let Exchange { engine, actions, keeps_state, always } = exchange;
    let (Some(right), Some((input, before))) = (baseline.actions.last(), setup.inputs.split_last()) else {
        return Ok(None);
    };
    let floor = baseline.expected_of(setup.inputs.len() - 1) * MARGIN;
    let all_b = relative_l2(&actions.data, &right.data);
    if all_b <= floor && !always {
        return Ok(None);
    }
    let f32 = PrecisionPolicy::preset("f32")?;
    let (model, denoising_steps) = (setup.model, setup.denoising_steps);
    let side_a = side_by_side::Reference { model, policy: &f32, denoising_steps };
    let before: Option<&ModelInput> = before.last().filter(|_| keeps_state);
    let swaps = swap_components(side_a, engine, (input, before), right, &|done, of| {
        progress(Progress { task: Task::Mixtures, done, of });
    });
    let swaps = match swaps {
        // An engine without some component has nothing to be exchanged: that is told where it was asked for.
        Err(steadyhand_gr00t::Error::Input { field, .. }) if field == ENGINES && !always => return Ok(None),
        swaps => swaps?,
    };
    Ok(Some(Swaps {
        floor,
        all_b,
        located: swaps.iter().filter(|swap| swap.locates(floor)).map(|s| s.component.to_string()).collect(),
        conclusion: conclusion(&swaps, all_b, floor),
        components: swaps
            .iter()
            .map(|swap| SwapErrors {
                component: swap.component.to_string(),
                only_b: swap.only_b,
                all_but_b: swap.all_but_b,
            })
            .collect(),
    }))
}

/// What both directions together say.
fn conclusion(swaps: &[Swap], all_b: f64, floor: f64) -> String {
    let names = |chosen: &dyn Fn(&Swap) -> bool| -> Vec<String> {
        swaps.iter().filter(|swap| chosen(swap)).map(|swap| format!("`{}`", swap.component)).collect()
    };
    let causes = names(&|swap| swap.only_b > floor);
    let located = names(&|swap| swap.locates(floor));
    if all_b <= floor {
        return match &causes[..] {
            [] => "no component errs by more than rounding allows, alone or together".to_owned(),
            some => format!("{} alone would err by more than rounding allows", some.join(", ")),
        };
    }
    match (&located[..], &causes[..]) {
        ([one], _) => format!(
            "{one} makes the error: alone it causes it, and with the reference's in its place no more is left than \
             rounding gives"
        ),
        ([], []) => "no component alone makes the error: several add up to it".to_owned(),
        ([], some) => format!(
            "{} err by more than rounding allows, each alone; exchanging one of them does not heal the engine",
            some.join(", ")
        ),
        (several, _) => format!("each of {} causes the error alone and heals it alone", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swaps(of: [(f64, f64); 3]) -> Vec<Swap> {
        let components = ["vision", "language", "dit"];
        let with = |(component, (only_b, all_but_b))| Swap { component, only_b, all_but_b };
        components.into_iter().zip(of).map(with).collect()
    }

    #[test]
    fn the_conclusion_names_what_both_directions_name() {
        let one = swaps([(1e-3, 0.5), (0.5, 1e-3), (1e-3, 0.5)]);
        assert!(conclusion(&one, 0.5, 1e-2).starts_with("`language` makes the error"));
        let two = swaps([(0.4, 0.5), (0.5, 0.4), (1e-3, 0.5)]);
        assert!(conclusion(&two, 0.6, 1e-2).starts_with("`vision`, `language` err by more"));
        let none = swaps([(9e-3, 0.5); 3]);
        assert!(conclusion(&none, 0.6, 1e-2).starts_with("no component alone"));
        let healthy = swaps([(1e-3, 1e-3); 3]);
        assert!(conclusion(&healthy, 1e-3, 1e-2).starts_with("no component errs"));
    }
}
