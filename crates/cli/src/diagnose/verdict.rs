//! The answer in words.

use super::actions::MARGIN;
use super::types::{ActionError, Diagnosis, EulerSplit, Hypothesis, Status, Verdict};
use crate::report::table::Table;
use std::io::{self, Write};
use steadyhand_fidelity::Match;
use steadyhand_gr00t_lab::diagnosis::Finding;

/// Hypotheses that are kept for the report.
const KEPT: usize = 20;
/// Hypotheses and taps that the terminal shows.
const SHOWN: usize = 5;

/// Judges by what was found. `claimed` is the precision that the engine says it runs at.
pub fn judge(
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
            headline: format!("the engine {}", fault.describe()),
            paragraph: format!(
                "The engine {}. {cost} Proof: the reference with the same fault leaves {residual:.2e} of the error \
                 unexplained, no more than a healthy engine shows. Fix: {}.",
                fault.describe(),
                fault.fix()
            ),
        },
        None => unexplained(&cost, findings.first(), findings.len()),
    }
}

/// The verdict where nothing is proven.
fn unexplained(cost: &str, nearest: Option<&Finding>, tried: usize) -> Verdict {
    let (headline, next) = match nearest {
        Some(Finding { fault, residual, .. }) if *residual <= 1.0 => (
            format!("the engine {}", fault.describe()),
            format!(
                "The engine {}: nothing behind that place errs. What it computes there instead cannot be told from \
                 outside. Next: {}.",
                fault.describe(),
                fault.fix()
            ),
        ),
        Some(Finding { fault, residual, .. }) => (
            "something is wrong, and no single known fault explains all of it".to_owned(),
            format!(
                "Rounding cannot give that. The nearest of {tried} hypotheses is that the engine {}, which leaves \
                 {residual:.2e} unexplained. Next: record more of the engine's tensors under the names that steady \
                 record uses, and diagnose again.",
                fault.describe()
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
pub fn hypotheses(findings: &[Finding], matches: &Option<(String, Vec<Match>)>) -> Vec<Hypothesis> {
    let plain = |finding: &Finding| Hypothesis {
        kind: finding.fault.kind().to_owned(),
        place: finding.fault.place().to_owned(),
        description: finding.fault.describe(),
        fix: finding.fault.fix(),
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

/// Prints the verdict and the evidence in short.
///
/// # Errors
/// The output cannot be written.
pub fn print(diagnosis: &Diagnosis, out: &mut impl Write) -> io::Result<()> {
    let status = match diagnosis.verdict.status {
        Status::NoFault => "NO FAULT",
        Status::Cause => "CAUSE FOUND",
        Status::Ranked => "NOT PROVEN",
    };
    writeln!(out, "{status}: {}\n\n{}\n", diagnosis.verdict.headline, diagnosis.verdict.paragraph)?;
    writeln!(out, "Determinism: {}.", diagnosis.determinism)?;
    for line in &diagnosis.audit {
        writeln!(out, "Audit: {line}.")?;
    }
    let faulty: Vec<_> = diagnosis.taps.iter().filter(|tap| tap.local > tap.local_expected).collect();
    if !faulty.is_empty() {
        let mut table = Table::new(&["error made at", "local", "healthy", "total", "rounding"]);
        for tap in faulty.iter().take(SHOWN) {
            let numbers =
                [tap.local, tap.local_expected, tap.total, tap.expected].map(|x| format!("{x:.2e}"));
            table.row([tap.name.clone()].into_iter().chain(numbers));
        }
        writeln!(
            out,
            "\n{} of {} taps err more than rounding can:\n\n{table}",
            faulty.len(),
            diagnosis.taps.len()
        )?;
    }
    if diagnosis.verdict.status != Status::NoFault && !diagnosis.hypotheses.is_empty() {
        let mut table = Table::new(&["hypothesis: the engine ...", "left", "proven"]);
        for hypothesis in diagnosis.hypotheses.iter().take(SHOWN) {
            let proven = if hypothesis.proven { "yes" } else { "no" };
            table.row([
                hypothesis.description.clone(),
                format!("{:.2e}", hypothesis.residual),
                proven.to_owned(),
            ]);
        }
        writeln!(out, "{table}")?;
    }
    if let Some(swaps) = &diagnosis.swaps {
        let mut table = Table::new(&["component", "only it is b's", "all but it is b's"]);
        for swap in &swaps.components {
            let numbers = [swap.only_b, swap.all_but_b].map(|x| format!("{x:.2e}"));
            table.row([swap.component.clone()].into_iter().chain(numbers));
        }
        writeln!(
            out,
            "{table}\nComponents exchanged, errors of the actions: all of b errs by {:.2e}, rounding allows {:.2e}: {}.\n",
            swaps.all_b, swaps.floor, swaps.conclusion
        )?;
    }
    if let Some(split) = &diagnosis.euler {
        let mut table = Table::new(&["Euler step", "injected", "propagated", "total", "in the final error"]);
        for step in &split.steps {
            let numbers =
                [step.injected, step.propagated, step.total, step.contribution].map(|x| format!("{x:.2e}"));
            table.row([step.step.to_string()].into_iter().chain(numbers));
        }
        writeln!(
            out,
            "{table}\nBackbone and state contribute {:.2e}; all contributions together leave {:.1} % of the final \
             error unexplained.",
            split.conditioning,
            split.closure * 100.0
        )?;
    }
    Ok(())
}
