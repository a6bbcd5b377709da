//! The text block at the end of an evaluation.
//!
//! Labels, widths and decimals are those of the official evaluation script: people grep them.

use std::io::{self, Write};

use super::{Report, Total};

/// Prints metrics, timings and the plots' paths.
pub fn write_summary(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let timings = &report.timings;
    let inference = &timings.inference;

    heading(out, "EVALUATION SUMMARY")?;
    writeln!(out, "\nMetrics:")?;
    let error = |error: Option<f64>| error.map_or_else(|| "n/a".to_owned(), |error| format!("{error:.6}"));
    writeln!(out, "  Average MSE across all trajs: {}", error(report.mse))?;
    writeln!(out, "  Average MAE across all trajs: {}", error(report.mae))?;

    heading(out, "DETAILED TIMING SUMMARY")?;
    writeln!(out, "\nInitialization:")?;
    line(out, "Model loading time:", &seconds(timings.model_loading_seconds))?;
    line(out, "Dataset loader creation:", &seconds(timings.dataset_loader_seconds))?;

    writeln!(out, "\nPer-Trajectory Timings ({} trajectories):", report.episodes.len())?;
    line(out, "Total episode loading:", &total(&timings.episode_loading, ""))?;
    line(out, "Total data preparation:", &total(&timings.data_preparation, " per step"))?;
    let inference_total = Total { total: inference.total, average: inference.average };
    line(out, "Total inference:", &total(&inference_total, " per step"))?;

    writeln!(out, "\nInference Statistics:")?;
    line(out, "Total inference steps:", &inference.steps.to_string())?;
    line(out, "Avg inference time per step:", &statistic(inference.average))?;
    line(out, "Min inference time:", &statistic(inference.min))?;
    line(out, "Max inference time:", &statistic(inference.max))?;
    line(out, "P90 inference time:", &statistic(inference.p90))?;

    let mut plots = report.episodes.iter().filter_map(|episode| episode.plot.as_deref()).peekable();
    if plots.peek().is_some() {
        writeln!(out, "\nPlots:")?;
    }
    for plot in plots {
        writeln!(out, "  {plot}")?;
    }
    writeln!(out, "{}", rule())
}

fn heading(out: &mut impl Write, title: &str) -> io::Result<()> {
    writeln!(out, "\n{0}\n=== {title} ===\n{0}", rule())
}

fn line(out: &mut impl Write, label: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {label:<28} {value}")
}

fn rule() -> String {
    "=".repeat(80)
}

fn total(total: &Total, per: &str) -> String {
    match total.average {
        Some(average) => format!("{}  (avg: {}{per})", seconds(total.total), seconds(average)),
        None => format!("{}  (avg: n/a)", seconds(total.total)),
    }
}

fn statistic(value: Option<f64>) -> String {
    value.map_or_else(|| "n/a".into(), seconds)
}

fn seconds(value: f64) -> String {
    format!("{value:.4}s")
}
