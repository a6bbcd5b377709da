//! The verdict and the evidence on the terminal.

use crate::report::table::Table;
use std::io::{self, Write};
use steadyhand_gr00t_lab::diagnosis::{Diagnosis, Status, Unit};

/// Hypotheses and taps that the terminal shows.
const SHOWN: usize = 5;

/// Prints the verdict and the evidence in short.
///
/// # Errors
/// The output cannot be written.
pub fn print(diagnosis: &Diagnosis, out: &mut impl Write) -> io::Result<()> {
    let status = match diagnosis.verdict.status {
        Status::NoFault => "NO FAULT",
        Status::Cause => "CAUSE FOUND",
        Status::Place => "PLACE FOUND",
        Status::Unexplained => "NOT EXPLAINED",
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
                match hypothesis.unit {
                    Unit::OfRounding => format!("{:.2} x rounding", hypothesis.residual),
                    Unit::RelativeL2 => format!("{:.2e}", hypothesis.residual),
                },
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
