//! The verdict of a tuning, as text.

use crate::report::table::{Table, thousands};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_lab::tuning::{BASELINE, CALIBRATED, Kept, MeasuredPolicy, Outcome, Unit, Why};

/// Groups that are listed by name.
const LISTED: usize = 6;

/// A joint group and its error.
type GroupError = (String, Option<f64>);

/// What is printed.
pub fn page(outcome: &Outcome, checkpoint: &str, out: &Path) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_page(&mut text, outcome, checkpoint, out);
    text
}

fn write_page(text: &mut String, outcome: &Outcome, checkpoint: &str, out: &Path) -> std::fmt::Result {
    let of = &outcome.of;
    writeln!(
        text,
        "{checkpoint} for {} ({}), {} frames, {} Euler steps, seed {}",
        of.target, of.device, of.frames, of.denoising_steps, of.seed
    )?;
    writeln!(text, "budget {} in every joint group, for 95 % of frames and chunk positions", outcome.budget)?;
    if outcome.cut_short {
        writeln!(text, "time was up before everything was measured: run again to go on")?;
    }
    writeln!(text, "\n{}", table(outcome))?;
    let choice = outcome.choice();
    writeln!(text, "chosen: {}, {}", choice.name, measured(outcome, choice))?;
    writeln!(text, "{}", against_f32(outcome))?;
    write_groups(text, outcome)?;
    write_kept(text, outcome)?;
    write_refused(text, outcome)?;
    writeln!(text, "policy: {}", out.join("policy.toml").display())?;
    writeln!(text, "evidence: {}", out.join("tuning.json").display())
}

/// Presets, then what no other policy beats, then the choice.
fn table(outcome: &Outcome) -> Table {
    let cost = match outcome.cost_unit {
        Unit::Milliseconds => "ms",
        Unit::Bytes => "bytes",
    };
    let mut table = Table::new(&[
        "precision",
        cost,
        "of bf16's",
        &format!("error, x {}", outcome.preset),
        "predicted",
        "",
    ]);
    for (index, policy) in outcome.policies.iter().enumerate() {
        let front = outcome.pareto.contains(&index);
        if policy.base.is_some() && !front && index != outcome.chosen {
            continue;
        }
        let note = match (index == outcome.chosen, front) {
            (true, _) => "chosen",
            (false, true) => "pareto",
            _ => "",
        };
        table.row([
            policy.name.clone(),
            cost_text(outcome, policy.cost),
            ratio(policy.cost, outcome.of_preset(BASELINE).map(|baseline| baseline.cost)),
            policy.error.map_or("not finite".to_owned(), |error| format!("{error:.3}")),
            policy.predicted.map_or("-".to_owned(), |predicted| format!("{:.3}", predicted.error)),
            note.to_owned(),
        ]);
    }
    table
}

fn ratio(value: f64, to: Option<f64>) -> String {
    to.map_or("-".to_owned(), |to| format!("{:.3}", value / to))
}

fn cost_text(outcome: &Outcome, cost: f64) -> String {
    match outcome.cost_unit {
        Unit::Milliseconds => format!("{cost:.3}"),
        Unit::Bytes => thousands(cost.round() as usize),
    }
}

/// A policy's cost beside the baseline's, and its error beside that of the budget's preset.
pub fn measured(outcome: &Outcome, policy: &MeasuredPolicy) -> String {
    let mut text = format!("{} {}", cost_text(outcome, policy.cost), outcome.cost_unit.label());
    if let Some(baseline) = outcome.of_preset(BASELINE) {
        let _ = write!(text, " ({} of {BASELINE}'s)", ratio(policy.cost, Some(baseline.cost)));
    }
    if let Some(error) = policy.error {
        let _ = write!(text, ", error {error:.3}x {}", outcome.preset);
    }
    text
}

fn against_f32(outcome: &Outcome) -> String {
    match outcome.of_preset("f32") {
        Some(f32) => format!(
            "f32, which errors are measured from: {} {}; the choice needs {} of that",
            cost_text(outcome, f32.cost),
            outcome.cost_unit.label(),
            ratio(outcome.choice().cost, Some(f32.cost))
        ),
        None => "f32 is what errors are measured from".to_owned(),
    }
}

/// The choice's error by joint group, beside that of the budget's preset.
fn write_groups(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let Some(preset) = outcome.of_preset(outcome.preset) else { return Ok(()) };
    let error = |error: Option<f64>| error.map_or("not finite".to_owned(), |error| format!("{error:.2e}"));
    let pairs = outcome.choice().error_by_group.groups.iter().zip(&preset.error_by_group.groups);
    let group = |((name, own), (_, other)): (&GroupError, &GroupError)| {
        format!("{name} {} ({} {})", error(*own), preset.name, error(*other))
    };
    let groups: Vec<String> = pairs.map(group).collect();
    writeln!(text, "error by joint group, of the {}: {}", outcome.spread.source, groups.join(", "))
}

/// What the target does not run: presets by name, of the others how many and why one of them.
fn write_refused(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let by_name = |name: &str| name == CALIBRATED || PrecisionPolicy::PRESETS.contains(&name);
    let (presets, others): (Vec<_>, Vec<_>) = outcome.refused.iter().partition(|(name, _)| by_name(name));
    for (name, why) in presets {
        writeln!(text, "{name} was not measured: {why}")?;
    }
    match others.first() {
        Some((name, why)) => writeln!(text, "not run, {} in all, such as {name}: {why}", others.len()),
        None => Ok(()),
    }
}

/// Groups whose operands are wider than they could be: those that overflow by name, of those that would cost too much
/// error the worst.
fn write_kept(text: &mut String, Outcome { kept, cut_short, .. }: &Outcome) -> std::fmt::Result {
    let (overflow, error): (Vec<&Kept>, Vec<&Kept>) =
        kept.iter().partition(|kept| matches!(kept.why, Why::Overflow(_)));
    match (kept.is_empty(), cut_short) {
        (true, false) => return writeln!(text, "every group of sites has its cheapest format"),
        (true, true) => {
            return writeln!(text, "no group of sites was seen to have a cheaper format in that time");
        }
        (false, _) => {}
    }
    for (index, kept) in overflow.iter().enumerate() {
        if let Why::Overflow(finding) = &kept.why {
            if index >= LISTED {
                writeln!(text, "and {} more that overflow", overflow.len() - LISTED)?;
                break;
            }
            writeln!(
                text,
                "{} in {}, not {}: {} of `{}` reach {:.3e}, its largest number is {:e}",
                kept.group,
                kept.format,
                kept.instead_of,
                finding.tensor,
                finding.path,
                finding.amax,
                finding.limit
            )?;
        }
    }
    let share = |kept: &Kept| match kept.why {
        Why::Error(share) => share,
        Why::Overflow(_) => f64::INFINITY,
    };
    let mut worst = error.clone();
    worst.sort_by(|a, b| share(b).total_cmp(&share(a)));
    for kept in worst.iter().take(LISTED) {
        writeln!(
            text,
            "{} in {}, not {}: alone {:.1} % of the allowed squared error",
            kept.group,
            kept.format,
            kept.instead_of,
            100.0 * share(kept)
        )?;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for kept in worst.iter().skip(LISTED) {
        *counts.entry(format!("{}, not {}", kept.format, kept.instead_of)).or_default() += 1;
    }
    counts.iter().try_for_each(|(what, count)| writeln!(text, "and {count} more in {what}, for their error"))
}
