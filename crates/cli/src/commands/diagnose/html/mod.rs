//! The page: a diagnosis as one HTML file that needs nothing else, neither scripts nor the network.

mod charts;
mod heatmap;
#[cfg(test)]
mod tests;

use super::report::{Inference, Report};
use crate::report::html::STYLE;
use crate::report::html::text::{escape, number, percent, times};
use crate::report::output::WRITTEN_BY;
use steadyhand_gr00t_lab::diagnosis::{
    ActionError, Considered, Diagnosis, EulerSplit, Hypothesis, Status, SwapErrors, Swaps, Unit, Verdict,
};

/// Hypotheses shown at most.
const MOST_HYPOTHESES: usize = 12;
/// Entries of the audit shown at most.
const MOST_AUDIT: usize = 20;

/// The page of a diagnosis. Sections without data are left out.
pub fn page(report: &Report) -> String {
    let diagnosis = &report.diagnosis;
    let sections = [
        verdict(&diagnosis.verdict),
        key_figures(report),
        taps(diagnosis),
        diagnosis.euler.as_ref().filter(|split| !split.steps.is_empty()).map(euler).unwrap_or_default(),
        diagnosis.swaps.as_ref().map(swaps).unwrap_or_default(),
        hypotheses(&diagnosis.hypotheses, diagnosis.considered),
        actions(&diagnosis.actions),
        trajectories(diagnosis),
        conditions(diagnosis),
    ];
    // The policy forbids whatever an engine's names could smuggle in, on top of the escaping.
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="written by {WRITTEN_BY}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{} – steady diagnose</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{}</main>
</body>
</html>
"#,
        escape(&diagnosis.verdict.headline),
        sections.concat()
    )
}

/// A titled section.
fn section(title: &str, lead: &str, body: &str) -> String {
    format!("<section><h2>{title}</h2><p class=\"lead\">{lead}</p>{body}</section>\n")
}

/// A chart with its own, smaller title.
fn figure(title: &str, chart: &str) -> String {
    format!("<figure><figcaption>{title}</figcaption>{chart}</figure>")
}

fn verdict(verdict: &Verdict) -> String {
    let (class, mark, word) = match verdict.status {
        Status::NoFault => ("fine", "✓", "No fault"),
        Status::Cause => ("cause", "●", "Cause found"),
        Status::Place => ("ranked", "◐", "Place found"),
        Status::Unexplained => ("ranked", "○", "Not explained"),
    };
    format!(
        r#"<header class="{class}"><p class="status"><span>{mark}</span> {word}</p><h1>{}</h1><p>{}</p></header>
"#,
        escape(&verdict.headline),
        escape(&verdict.paragraph)
    )
}

/// The numbers that come first, and what was compared.
fn key_figures(report: &Report) -> String {
    let actions = &report.diagnosis.actions;
    let error = format!(
        "rounding gives {}: {} that",
        number(actions.expected),
        times(if actions.relative_l2 == 0.0 { 0.0 } else { actions.relative_l2 / actions.expected })
    );
    let mut figures = vec![("Action error", number(actions.relative_l2), error)];
    if let (Some(a), Some(b)) = (actions.mse_a, actions.mse_b) {
        let change = match b / a - 1.0 {
            change if change.is_finite() => format!("{} against a", percent(change, true)),
            _ => "engine against recording".to_owned(),
        };
        figures.push(("MSE of a", number(a), "reference against recording".to_owned()));
        figures.push(("MSE of b", number(b), change));
    }
    let inferences = report.inferences.len().to_string();
    figures.push(("Inferences", inferences, episodes(&report.inferences)));
    let figures: String = figures
        .iter()
        .map(|(name, value, note)| {
            format!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"quiet\">{note}</dd></div>")
        })
        .collect();
    let facts = [
        ("a", "reference", &report.a),
        ("b", "engine", &report.b),
        ("", "checkpoint", &report.checkpoint),
        ("", "dataset", &report.dataset),
        ("", "embodiment", &report.embodiment_tag),
    ];
    let facts: String = facts
        .iter()
        .filter(|(_, _, value)| !value.is_empty())
        .map(|(mark, name, value)| {
            let mark =
                if mark.is_empty() { String::new() } else { format!(r#"<b class="{mark}">{mark}</b> "#) };
            format!("<div><dt>{mark}{name}</dt><dd><code>{}</code></dd></div>", escape(value))
        })
        .collect();
    format!("<dl class=\"figures\">{figures}</dl>\n<dl class=\"facts\">{facts}</dl>\n")
}

/// Which observations, in a few words.
fn episodes(inferences: &[Inference]) -> String {
    let mut episodes: Vec<usize> = inferences.iter().map(|inference| inference.episode).collect();
    episodes.sort_unstable();
    episodes.dedup();
    match episodes.as_slice() {
        [] => String::new(),
        [episode] => {
            let steps: Vec<String> = inferences.iter().take(4).map(|i| i.step.to_string()).collect();
            let more = if inferences.len() > 4 { ", …" } else { "" };
            format!("episode {episode}, step {}{more}", steps.join(", "))
        }
        many => format!("of {} episodes", many.len()),
    }
}

fn taps(diagnosis: &Diagnosis) -> String {
    let taps = &diagnosis.taps;
    if taps.is_empty() {
        return String::new();
    }
    let lead = format!(
        "{} Each cell is the worst local error of its taps: what an operation adds on the inputs that the \
         engine gave it. Inference {}.{}",
        heatmap::summary(taps),
        diagnosis.shown,
        match &diagnosis.verdict.place {
            Some(place) => format!(" The first wrong tensor, outlined: <code>{}</code>.", breakable(place)),
            None => String::new(),
        }
    );
    let map = format!("<figure>{}</figure>", heatmap::heat_map(taps, diagnosis.verdict.place.as_deref()));
    let depth = figure("Total error over depth, errors from before included", &charts::depth(taps));
    section("Where the error is made", &lead, &(map + &depth))
}

fn euler(split: &EulerSplit) -> String {
    let lead = format!(
        "Relative to the final actions. Errors of the backbone and the state features alone would put the final \
         actions {} off. {}",
        number(split.conditioning),
        match split.closure.is_finite() {
            true => format!(
                "The contributions add up to the final error but for {} of it.",
                percent(split.closure, false)
            ),
            false => "How much of the final error the contributions explain is undefined.".to_owned(),
        }
    );
    section("Euler steps", &lead, &format!("<figure>{}</figure>", charts::euler(split)))
}

fn swaps(swaps: &Swaps) -> String {
    let row = |swap: &SwapErrors| {
        let (class, mark) = match swaps.located.contains(&swap.component) {
            true => (" class=\"proven\"", r#"<span class="badge">● located</span>"#),
            false => ("", ""),
        };
        let cell = |error: f64| {
            let above = if error <= swaps.floor { "" } else { " ▲" };
            format!("<td class=\"number\">{}{above}</td>", number(error))
        };
        let (only, others) = (cell(swap.only_b), cell(swap.all_but_b));
        format!("<tr{class}><td>{}{mark}</td>{only}{others}</tr>", escape(&swap.component))
    };
    let rows: String = swaps.components.iter().map(row).collect();
    let table = format!(
        "<div class=\"scroll\"><table><thead><tr><th>Component</th><th class=\"number\">Only it is b’s</th>\
         <th class=\"number\">All but it is b’s</th></tr></thead><tbody>{rows}</tbody></table></div>"
    );
    let lead = format!(
        "Both engines ran side by side, each component computed by one of them. Error of the actions; ▲ is above what \
         rounding allows, {}. All of b: {}. In short: {}.",
        number(swaps.floor),
        number(swaps.all_b),
        escape(&swaps.conclusion)
    );
    section("Components exchanged", &lead, &table)
}

fn hypotheses(hypotheses: &[Hypothesis], considered: Considered) -> String {
    if hypotheses.is_empty() {
        return String::new();
    }
    let row = |hypothesis: &Hypothesis| {
        let (class, mark) = if hypothesis.proven {
            (" class=\"proven\"", r#"<span class="badge">✓ proven</span>"#)
        } else {
            ("", "")
        };
        format!(
            "<tr{class}><td>{}{mark}</td><td><code>{}</code></td><td class=\"number\">{}</td>\
             <td>{}</td><td>{}</td></tr>",
            escape(&hypothesis.kind),
            breakable(&hypothesis.place),
            match hypothesis.unit {
                Unit::OfRounding => format!("{} of rounding", times(hypothesis.residual)),
                Unit::RelativeL2 => number(hypothesis.residual),
            },
            escape(&hypothesis.description),
            escape(&hypothesis.fix)
        )
    };
    let rows: String = hypotheses.iter().take(MOST_HYPOTHESES).map(row).collect();
    let lead = match hypotheses.len().checked_sub(MOST_HYPOTHESES) {
        Some(more @ 1..) => format!("The best {MOST_HYPOTHESES}; {more} more are worse."),
        _ => "Best first.".to_owned(),
    };
    let table = format!(
        "<div class=\"scroll\"><table><thead><tr><th>Kind</th><th>Place</th><th class=\"number\">Error left</th>\
         <th>What would have happened</th><th>Fix</th></tr></thead><tbody>{rows}</tbody></table></div>"
    );
    let lead = format!(
        "{lead} “Error left” is what remains between the engines if the reference makes the same fault. {} were \
         considered, in {} replays.",
        considered.hypotheses, considered.replays
    );
    section("Hypotheses", &lead, &table)
}

/// A path that may be broken after its dots.
fn breakable(path: &str) -> String {
    escape(path).replace('.', ".<wbr>")
}

fn actions(actions: &ActionError) -> String {
    let mut figures = String::new();
    if !actions.groups.is_empty() {
        figures += &figure(
            "By joint group: mean absolute difference, physical units",
            &charts::groups(&actions.groups),
        );
    }
    if !actions.chunk_positions.is_empty() {
        figures += &figure("By position in the chunk: relative L2, normalized", &charts::positions(actions));
    }
    if figures.is_empty() {
        return String::new();
    }
    section(
        "Action error",
        "How far b lies from a, over all inferences.",
        &format!(r#"<div class="pair">{figures}</div>"#),
    )
}

fn trajectories(diagnosis: &Diagnosis) -> String {
    if diagnosis.trajectories.is_empty() {
        return String::new();
    }
    let lead = "The chunk of the first inference, in physical units.";
    section("Predicted trajectories", lead, &charts::trajectories(&diagnosis.trajectories))
}

/// What was checked before and beside the numbers.
fn conditions(diagnosis: &Diagnosis) -> String {
    let mut body = String::new();
    if !diagnosis.audit.is_empty() {
        let entries =
            diagnosis.audit.iter().take(MOST_AUDIT).map(|entry| format!("<li>{}</li>", escape(entry)));
        let more = match diagnosis.audit.len().checked_sub(MOST_AUDIT) {
            Some(more @ 1..) => format!("<li class=\"quiet\">and {more} more</li>"),
            _ => String::new(),
        };
        body += &format!("<div><h3>Audit</h3><ul>{}{more}</ul></div>", entries.collect::<String>());
    }
    if !diagnosis.determinism.is_empty() {
        body +=
            &format!("<div><h3>Determinism</h3><ul><li>{}</li></ul></div>", escape(&diagnosis.determinism));
    }
    match body.is_empty() {
        true => String::new(),
        false => format!("<section><h2>Conditions</h2><div class=\"pair lists\">{body}</div></section>\n"),
    }
}
