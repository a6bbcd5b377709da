//! The answer in words.

use super::baseline::MARGIN;
use super::replay::Finding;
use super::report::{ActionError, EulerSplit, Hypothesis, Status, Verdict};
use steadyhand_fidelity::Match;

/// Hypotheses that are kept for the report.
const KEPT: usize = 20;

/// Judges by what was found. `claimed` is the precision that the engine says it runs at.
pub(super) fn judge(
    actions: &ActionError,
    faulty: bool,
    findings: &[Finding],
    euler: &Option<EulerSplit>,
    claimed: &str,
) -> Verdict {
    let within = actions.relative_l2 <= actions.expected * MARGIN;
    let recorded = match (actions.mse_a, actions.mse_b) {
        (Some(a), Some(b)) => {
            format!("; the mean squared error against the recording is {b:.6} instead of {a:.6}")
        }
        _ => String::new(),
    };
    let cost = format!(
        "Its actions lie {:.2e} (relative L2) from the reference's, where rounding at {claimed} gives \
         {:.2e}{recorded}.",
        actions.relative_l2, actions.expected
    );
    if !faulty && within {
        let split = euler.as_ref().map(|split| {
            format!(
                " Of this, {:.2e} comes from the backbone and the state, the rest from the Euler steps.",
                split.conditioning
            )
        });
        return Verdict {
            status: Status::NoFault,
            headline: format!("rounding at {claimed} explains the engine"),
            paragraph: format!("{cost}{}", split.unwrap_or_default()),
        };
    }
    match findings.first().filter(|finding| finding.proven) {
        Some(Finding { fault, residual, .. }) => Verdict {
            status: Status::Cause,
            headline: format!("the engine {}", fault.description),
            paragraph: format!(
                "The engine {}. {cost} Proof: the reference with the same fault leaves {residual:.2e} of the error \
                 unexplained, no more than a healthy engine shows. Fix: {}.",
                fault.description, fault.fix
            ),
        },
        None => unexplained(&cost, findings.first(), findings.len()),
    }
}

/// The verdict where nothing is proven.
fn unexplained(cost: &str, nearest: Option<&Finding>, tried: usize) -> Verdict {
    let (headline, next) = match nearest {
        Some(Finding { fault, residual, .. }) if *residual <= 1.0 => (
            format!("the engine {}", fault.description),
            format!(
                "The engine {}: nothing behind that place errs. What it computes there instead cannot be told from \
                 outside. Next: {}.",
                fault.description, fault.fix
            ),
        ),
        Some(Finding { fault, residual, .. }) => (
            "something is wrong, and no single known fault explains all of it".to_owned(),
            format!(
                "Rounding cannot give that. The nearest of {tried} hypotheses is that the engine {}, which leaves \
                 {residual:.2e} unexplained. Next: record more of the engine's tensors under the names that steady \
                 record uses, and diagnose again.",
                fault.description
            ),
        ),
        None => (
            "the actions differ by more than rounding gives, but no tensor that was shown does".to_owned(),
            "Next: record the tensors between those that were shown.".to_owned(),
        ),
    };
    Verdict { status: Status::Ranked, headline, paragraph: format!("{cost} {next}") }
}

/// The findings as plain data; where none is proven, what the tensor at the first bad place looks like comes
/// before them.
pub(super) fn hypotheses(findings: &[Finding], matches: &Option<(String, Vec<Match>)>) -> Vec<Hypothesis> {
    let plain = |finding: &Finding| Hypothesis {
        kind: finding.fault.kind.to_owned(),
        place: finding.fault.place.clone(),
        description: finding.fault.description.clone(),
        fix: finding.fault.fix.clone(),
        residual: finding.residual,
        proven: finding.proven,
    };
    let mut hypotheses: Vec<Hypothesis> = findings.iter().map(plain).collect();
    let proven = hypotheses.iter().filter(|hypothesis| hypothesis.proven).count();
    if let Some((place, matches)) = matches {
        let looks = matches.iter().map(|found| Hypothesis {
            kind: "looks-like".to_owned(),
            place: place.clone(),
            description: format!("gives `{place}` so that {}", found.description),
            fix: found.fix.clone(),
            residual: found.residual,
            proven: false,
        });
        hypotheses.splice(proven..proven, looks);
    }
    hypotheses.truncate(KEPT);
    hypotheses
}
