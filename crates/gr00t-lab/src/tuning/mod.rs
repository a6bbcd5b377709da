//! Tuning: the cheapest precision policy that keeps the actions, found by measuring.
//!
//! [`tune`] runs the f32 reference once to find the range of every tensor ([`ranges`]), then measures on the target
//! what other operand formats do to the actions and to the cost: of all layers of a kind at once, and group by group
//! (`groups`) where something is to be gained. A knapsack over these effects (`knapsack`) proposes policies, which
//! are built and measured; the chosen one is the cheapest that was measured to be within the budget.
//! docs/TUNING.md has the method.

mod budget;
mod error;
mod groups;
mod knapsack;
mod measure;
mod outcome;
pub mod ranges;
mod search;
mod sections;
mod sensitivity;
pub mod state;
pub mod target;

pub use budget::Budget;
pub use error::{ActionError, Spread};
pub use measure::{Deadline, Subject};
pub use outcome::{Kept, MeasuredPolicy, Outcome, Why};
pub use search::{CALIBRATED, Prediction};
pub use sections::SectionEffect;
pub use sensitivity::{BASES, FORMATS, GroupEffect, KindEffect, Raising};
pub use state::State;
pub use target::{BASELINE, CpuTarget, Target, TimedTarget, Unit};

use groups::Groups;
use measure::Measurer;
use sensitivity::{Choices, Sensitivity};
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::{Error, Result};

/// What errors are measured against.
pub const REFERENCE: &str = "f32";

/// What a tuning tells of its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A part of the work begins.
    Phase {
        /// Its name.
        name: &'static str,
        /// At most how many steps it has.
        total: usize,
    },
    /// One of its steps is done.
    Done,
}

/// Finds the cheapest policy within the budget. Measurements that `state` has are taken over.
///
/// # Errors
/// No frame; the reference, the baseline or the budget's preset cannot be measured; the state cannot be written.
pub fn tune(
    subject: &Subject,
    target: &mut dyn Target,
    budget: &Budget,
    state: State,
    deadline: Deadline,
    progress: &mut dyn FnMut(Event),
) -> Result<(Outcome, Calibration)> {
    if subject.inputs.is_empty() || subject.inputs.len() != subject.observations.len() {
        return Err(Error::input("frames", "expected an input for each of at least one observation"));
    }
    let (of, taken_over) = (subject.header(target), state.taken_over);
    let cost_unit = target.unit();
    let mut m = Measurer::new(subject, target, state, deadline, progress);
    let choices = choices(&mut m, cost_unit)?;
    let mut found = search::presets(&mut m, &choices, budget)?;
    m.deadline.share_what_is_left();
    let allowed = budget.factor;
    let sensitivity = Sensitivity::measure(&mut m, &choices)?;
    let mut whole = search::search(&mut m, &choices, &sensitivity, allowed, &mut found)?;
    // Counted costs are exact.
    if cost_unit == Unit::Milliseconds {
        whole &= search::confirm(&mut m, &choices, &mut found)?;
    }
    let chosen = search::choose(&found, allowed).ok_or_else(|| {
        Error::input(format!("budget {budget}"), "expected a policy that is within it, measured none")
    })?;
    let outcome = Outcome {
        of,
        budget: budget.to_string(),
        allowed_error: allowed,
        preset: budget.preset,
        spread: m.spread()?,
        cost_unit,
        cut_short: sensitivity.cut_short || !whole,
        taken_over,
        pareto: search::front(&found),
        kept: outcome::kept(&choices, &sensitivity, &found[chosen], allowed),
        policies: found.iter().map(MeasuredPolicy::from).collect(),
        chosen,
        ranges: choices.ranges.findings(),
        best_base: sensitivity.best().name,
        refused: m.refused,
        sections: sensitivity.sections,
        kinds: sensitivity.kinds,
        raising: sensitivity.raising,
        groups: sensitivity.groups,
    };
    Ok((outcome, choices.calibration))
}

/// The choices that the model's ranges leave.
fn choices(m: &mut Measurer, unit: Unit) -> Result<Choices> {
    let ranges = m.ranges()?;
    let sites = m.subject.model.sites()?;
    let groups = Groups::new(&sites, &m.subject.model.topology);
    let calibration = ranges.calibration(&m.subject.calibration_subject());
    Ok(Choices::new(sites, groups, ranges, calibration, unit))
}
