//! The search: policies that the measurements predict to be cheapest within a budget, built and measured.

use super::knapsack::{self, Item, Joint};
use super::measure::Measurer;
use super::sections::Together;
use super::sensitivity::{Base, Choices, GroupOption, Sensitivity};
use super::{ActionError, Budget};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// The budgets that policies are searched for, as multiples of the one asked for, that one first.
const MULTIPLES: [f64; 4] = [1.0, 2.0, 0.5, 4.0];
/// Policies built for one budget.
const ROUNDS: usize = 5;
/// The share of a budget from which a policy makes enough use of it.
const USED: f64 = 0.9;
/// By how much more a prediction is corrected after a budget was exceeded.
const CAUTION: f64 = 1.02;
/// The share of the time after which no more policies are searched.
const UNTIL: f64 = 0.85;
/// By how much the correction changes at most in a round.
const STEP: f64 = 2.0;

/// The preset `fp8` with the scales of the range scan, where the preset itself finds them in every inference.
pub const CALIBRATED: &str = "fp8-calibrated";

/// A policy of the whole model that was measured.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: String,
    /// The preset that it starts from; none for a preset itself, calibrated or not.
    pub(super) base: Option<&'static str>,
    pub(super) policy: PrecisionPolicy,
    /// The operand format of each group, where it was chosen.
    pub(super) formats: Option<Vec<Format>>,
    pub(super) predicted: Option<Prediction>,
    pub(super) error: ActionError,
    /// The error as a multiple of that of the budget's preset.
    pub(super) level: f64,
    pub(super) cost: f64,
    pub(super) noise: f64,
    /// Whether the cost was measured at length.
    pub(super) lasting: bool,
}

/// What the measurements of kinds and groups say of a policy.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Prediction {
    /// Its error.
    pub error: f64,
    /// By what predictions were multiplied at the time, after earlier proposals' measured errors; part of `error`.
    pub correction: f64,
    /// Its cost.
    pub cost: f64,
}

/// A base with the squared error and the cost that its storage adds to those of the best base.
struct Start<'a> {
    base: &'a Base,
    square: f64,
    cost: f64,
}

/// The presets and [`CALIBRATED`], measured.
///
/// # Errors
/// The reference or the budget's preset cannot be measured.
pub(super) fn presets(m: &mut Measurer, choices: &Choices, budget: &Budget) -> Result<Vec<Candidate>> {
    let mut names = PrecisionPolicy::PRESETS.to_vec();
    names.sort_by_key(|name| *name != budget.preset);
    let mut policies = names.into_iter().map(PrecisionPolicy::preset).collect::<Result<Vec<_>>>()?;
    let calibrated = PrecisionPolicy::preset("fp8")?.with_calibration(choices.calibration.clone());
    policies.push(calibrated.named(CALIBRATED));
    m.phase("presets", policies.len());
    let mut found = Vec::new();
    for policy in policies {
        if m.runs(&policy, &choices.sites) {
            let error = m.error(&policy)?;
            if policy.name() == budget.preset {
                m.allowance = error.filter(ActionError::is_finite);
            }
            if m.allowance.is_some() {
                found.extend(measured(m, choices, policy, None, None)?);
            }
        }
        m.done();
    }
    match found.is_empty() {
        false => Ok(found),
        true => {
            let why = m.refused.get(budget.preset).map_or("actions that are not finite", String::as_str);
            let what = format!("expected a preset that the target runs with finite actions, found {why}");
            Err(Error::input(format!("budget {budget}"), what))
        }
    }
}

/// Measures a policy of the whole model; none where the target refuses it.
fn measured(
    m: &mut Measurer,
    choices: &Choices,
    policy: PrecisionPolicy,
    chosen: Option<(&'static str, Vec<Format>)>,
    predicted: Option<Prediction>,
) -> Result<Option<Candidate>> {
    let Some(error) = m.error(&policy)? else { return Ok(None) };
    let Some((cost, noise)) = m.cost(&policy, &choices.ranges, false)? else { return Ok(None) };
    let (base, formats) = chosen.unzip();
    let (name, level) = (policy.name().to_owned(), m.level(&error));
    Ok(Some(Candidate { name, base, policy, formats, predicted, error, level, cost, noise, lasting: false }))
}

/// Searches policies for multiples of an error and adds those that were built to `found`; false where time was up
/// before.
///
/// # Errors
/// Those of the measurements.
pub(super) fn search(
    m: &mut Measurer,
    choices: &Choices,
    sensitivity: &Sensitivity,
    allowed: f64,
    found: &mut Vec<Candidate>,
) -> Result<bool> {
    let starts: Vec<Start> = sensitivity.bases.iter().filter_map(|base| start(sensitivity, base)).collect();
    let mut correction = 1.0;
    m.phase("search", MULTIPLES.len() * ROUNDS);
    for limit in MULTIPLES.map(|multiple| allowed * multiple) {
        let mut aim = Aim { limit, correction, under: None, over: None };
        for _ in 0..ROUNDS {
            if m.deadline.passed(UNTIL) {
                return Ok(false);
            }
            let proposal = cheapest(sensitivity, &starts, &aim, choices);
            let Some((index, formats, predicted)) = proposal else { break };
            let base = starts[index].base.name;
            let policy = choices.policy(base, &formats, &format!("tuned-{}", found.len() + 1))?;
            let identity = policy.identity();
            let level = match found.iter().find(|known| known.policy.identity() == identity) {
                Some(known) => known.level,
                None if !m.runs(&policy, &choices.sites) => break,
                None => {
                    let chosen = Some((base, formats));
                    let Some(new) = measured(m, choices, policy, chosen, Some(predicted))? else { break };
                    found.push(new);
                    found[found.len() - 1].level
                }
            };
            m.done();
            if (USED * limit..=limit).contains(&level) {
                break;
            }
            aim.learn(level);
        }
        correction = aim.correction;
    }
    Ok(true)
}

/// What is asked of predictions so that the measured error comes near its limit.
struct Aim {
    limit: f64,
    /// By what predicted errors are multiplied.
    correction: f64,
    /// The least correction known to stay within the limit, and the largest known to exceed it.
    under: Option<f64>,
    over: Option<f64>,
}

impl Aim {
    /// Learns what the proposal's error was measured to be.
    fn learn(&mut self, measured: f64) {
        let tried = self.correction;
        match measured <= self.limit {
            true => self.under = Some(self.under.map_or(tried, |under| under.min(tried))),
            false => self.over = Some(self.over.map_or(tried, |over| over.max(tried))),
        }
        let ratio = (measured / self.limit).clamp(1.0 / STEP, STEP);
        self.correction = match (self.under, self.over) {
            (Some(under), Some(over)) if over < under => (under * over).sqrt(),
            _ if measured > self.limit => tried * ratio * CAUTION,
            _ => tried * ratio,
        };
    }
}

/// What a base's storage adds: what it differs by from the base of the same operands with the storage of the best one.
/// None where there is no such base, and for the best one's storage with other operands, which groups can have anyway.
///
/// The effects of its operands, measured by kind, need not do in place of that base: kinds of other operands than their
/// neighbours' may cost more than they would among their own. With the kernels of an earlier time those of `mixed` in
/// place of `mixed-fp16` came to 1.7 ms on an H200, where the two took the same time.
fn start<'a>(sensitivity: &Sensitivity, base: &'a Base) -> Option<Start<'a>> {
    let best = sensitivity.best();
    if base.storage == best.storage {
        return (base.name == best.name).then_some(Start { base, square: 0.0, cost: 0.0 });
    }
    let alike = |other: &&Base| other.compute == base.compute && other.storage == best.storage;
    let other = sensitivity.bases.iter().find(alike)?;
    let square = (base.error.powi(2) - other.error.powi(2)).max(0.0);
    Some(Start { base, square, cost: base.cost - other.cost })
}

/// The base and formats of least predicted cost among those whose predicted error is within the limit.
fn cheapest(
    sensitivity: &Sensitivity,
    starts: &[Start],
    aim: &Aim,
    choices: &Choices,
) -> Option<(usize, Vec<Format>, Prediction)> {
    let parts = choices.unit.parts();
    let best = sensitivity.best();
    let whole = |cost: f64| (cost * parts).round() as i64;
    let item = |option: &GroupOption| Item { cost: whole(option.cost), square: option.square };
    let items: Vec<Vec<Item>> =
        sensitivity.options.iter().map(|options| options.iter().map(item).collect()).collect();
    let place = |group: usize, format: Format| {
        sensitivity.options[group].iter().position(|option| option.format == format)
    };
    let joint = |layer: &Together| {
        let items = layer.groups.iter().map(|group| Some((*group, place(*group, layer.format)?)));
        Some(Joint { items: items.collect::<Option<_>>()?, cost: whole(layer.cost) })
    };
    let joints: Vec<Joint> = sensitivity.together.iter().filter_map(joint).collect();
    let mut found: Option<(usize, Vec<Format>, Prediction)> = None;
    for (index, start) in starts.iter().enumerate() {
        let fixed = best.error.powi(2) + start.square;
        let room = (aim.limit / aim.correction).powi(2) - fixed;
        let Some(chosen) = knapsack::solve(&items, &joints, room) else { continue };
        let options = sensitivity.options.iter().zip(chosen).map(|(options, chosen)| options[chosen]);
        let (mut square, mut cost, mut formats) = (fixed, best.cost + start.cost, Vec::new());
        for option in options {
            square += option.square;
            cost += option.cost;
            formats.push(option.format);
        }
        let layers = sensitivity.together.iter().filter(|layer| layer.is_in(|group| formats[group]));
        cost += layers.map(|layer| layer.cost).sum::<f64>();
        let error = square.max(0.0).sqrt() * aim.correction;
        let predicted = Prediction { error, correction: aim.correction, cost };
        let better =
            |(_, _, other): &(usize, Vec<Format>, Prediction)| (cost, error) < (other.cost, other.error);
        if found.as_ref().is_none_or(better) {
            found = Some((index, formats, predicted));
        }
    }
    found
}

/// Measures the costs of the policies worth it at length: the presets, and what no other policy beats; false where
/// time was up before.
///
/// # Errors
/// Those of the measurements.
pub(super) fn confirm(m: &mut Measurer, choices: &Choices, found: &mut [Candidate]) -> Result<bool> {
    let worth: Vec<usize> = {
        let front = front(found);
        (0..found.len()).filter(|index| found[*index].base.is_none() || front.contains(index)).collect()
    };
    m.phase("costs at length", worth.len());
    for index in worth {
        if m.deadline.passed(1.0) {
            return Ok(false);
        }
        if let Some((cost, noise)) = m.cost(&found[index].policy, &choices.ranges, true)? {
            let candidate = &mut found[index];
            (candidate.cost, candidate.noise, candidate.lasting) = (cost, noise, true);
        }
        m.done();
    }
    Ok(true)
}

/// The policies that no other one beats in both error and cost, cheapest first.
pub(super) fn front(found: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..found.len()).filter(|i| found[*i].level.is_finite()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&found[*a], &found[*b]);
        a.cost.total_cmp(&b.cost).then(a.level.total_cmp(&b.level))
    });
    let mut least = f64::INFINITY;
    order.retain(|index| {
        let better = found[*index].level < least;
        least = least.min(found[*index].level);
        better
    });
    order
}

/// The cheapest policy of at most this error, costs measured at length before others.
pub(super) fn choose(found: &[Candidate], allowed: f64) -> Option<usize> {
    let fits = |index: &usize| found[*index].level <= allowed;
    let lasting = found.iter().any(|candidate| candidate.lasting && candidate.level <= allowed);
    (0..found.len()).filter(fits).filter(|index| found[*index].lasting || !lasting).min_by(|a, b| {
        let (a, b) = (&found[*a], &found[*b]);
        a.cost.total_cmp(&b.cost).then(a.level.total_cmp(&b.level))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aim_closes_in_on_the_limit() {
        // Predictions are off by a third, and not quite in proportion.
        let measured = |correction: f64| 1.5 * (1.0f64 / correction).powf(1.3);
        let mut aim = Aim { limit: 1.0, correction: 1.0, under: None, over: None };
        let mut rounds = 0;
        while !(USED..=1.0).contains(&measured(aim.correction)) {
            aim.learn(measured(aim.correction));
            rounds += 1;
        }
        assert!(rounds < ROUNDS, "{rounds}");
        // An error without bound moves the aim by a step.
        let mut aim = Aim { limit: 1.0, correction: 1.0, under: None, over: None };
        aim.learn(f64::INFINITY);
        assert_eq!(aim.correction, STEP * CAUTION);
    }
}
