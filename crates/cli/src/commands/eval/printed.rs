//! What an evaluation says on the terminal.

use super::evaluation::{Row, Spread};
use super::plan::Run;
use crate::output::say;
use crate::report::table::Table;
use crate::report::{EpisodeReport, Report};
use std::io::{self, Write};

/// Rows of a table of episodes; where there are more, those with the largest errors are shown.
const MOST_ROWS: usize = 20;
/// Joint groups that fit beside each other.
const MOST_GROUPS: usize = 5;

/// Which episode of which run.
pub fn place(run: &Run, episode: usize) -> String {
    match &run.label {
        Some(label) => format!("{label}, episode {episode}"),
        None => format!("episode {episode}"),
    }
}

/// Says what an episode gave.
///
/// # Errors
/// The reader went away.
pub fn episode(run: &Run, report: &EpisodeReport) -> anyhow::Result<()> {
    let place = place(run, report.episode_index);
    say!("{place}: MSE {:.6}, MAE {:.6}", report.mse, report.mae)
}

/// The errors of a run by episode and joint group, and the episodes that were skipped.
///
/// # Errors
/// The reader went away.
pub fn run(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let groups = &report.groups[..report.groups.len().min(MOST_GROUPS)];
    let mut header = vec!["episode", "MSE"];
    header.extend(groups.iter().map(|group| group.name.as_str()));
    let mut table = Table::new(&header);
    let mut worst: Vec<&EpisodeReport> = report.episodes.iter().collect();
    if worst.len() > MOST_ROWS {
        worst.sort_by(|a, b| b.mse.total_cmp(&a.mse));
        worst.truncate(MOST_ROWS);
    }
    for episode in &worst {
        let of_group = |name: &str| {
            let group = episode.groups.iter().find(|group| group.name == name);
            group.map_or_else(|| "-".to_owned(), |group| format!("{:.6}", group.mse))
        };
        let cells = [episode.episode_index.to_string(), format!("{:.6}", episode.mse)];
        table.row(cells.into_iter().chain(groups.iter().map(|group| of_group(&group.name))));
    }
    if let (Some(mse), true) = (report.mse, report.episodes.len() > 1) {
        let cells = ["mean".to_owned(), format!("{mse:.6}")];
        table.row(cells.into_iter().chain(groups.iter().map(|group| format!("{:.6}", group.mse))));
    }
    if !report.episodes.is_empty() {
        writeln!(out, "\nMSE by episode and joint group:\n{table}")?;
    }
    if report.episodes.len() > MOST_ROWS {
        let (shown, all) = (worst.len(), report.episodes.len());
        writeln!(out, "The {shown} largest of {all} episodes; the mean is of all. The JSON has every one.")?;
    }
    if report.groups.len() > MOST_GROUPS {
        writeln!(out, "{} more joint groups are in the JSON.", report.groups.len() - MOST_GROUPS)?;
    }
    if !report.failures.is_empty() {
        writeln!(out, "Skipped, {} of {} episodes:", report.failures.len(), report.episodes_asked)?;
        for failed in &report.failures {
            writeln!(out, "  episode {}: {}", failed.episode_index, failed.reason)?;
        }
    }
    noise(report, out)
}

/// Whether a server took the noise that it was asked to; nothing of a policy that runs here.
fn noise(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let said: Vec<bool> = report.episodes.iter().filter_map(|episode| episode.noise_confirmed).collect();
    let own = said.iter().filter(|confirmed| !**confirmed).count();
    match (said.len(), own) {
        (0, _) => Ok(()),
        (_, 0) => writeln!(
            out,
            "Noise: the server said of every inference that it took that of seed {}.",
            report.seed
        ),
        (all, own) => writeln!(
            out,
            "Noise: in {own} of {all} episodes the server did not say that it took that of seed {}. Its noise is its own \
             there, so these numbers differ from those of another run by noise.",
            report.seed
        ),
    }
}

/// Runs side by side.
///
/// # Errors
/// The reader went away.
pub fn runs(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    let seeds = rows.iter().map(|row| row.seeds.len()).max().unwrap_or(0);
    let mut header = vec!["checkpoint", "dataset", "episodes", "MSE", "MAE"];
    if seeds > 1 {
        header.extend(["MSE from", "to"]);
    }
    let mut table = Table::new(&header);
    let shown = |spread: Option<Spread>| match spread {
        None => "-".to_owned(),
        Some(Spread { mean, .. }) if seeds < 2 => format!("{mean:.6}"),
        Some(Spread { mean, standard_deviation, .. }) => format!("{mean:.6} ± {standard_deviation:.6}"),
    };
    for row in rows {
        let mut cells = vec![row.checkpoint.clone(), row.dataset.clone(), row.episodes.to_string()];
        cells.extend([shown(row.mse), shown(row.mae)]);
        if seeds > 1 {
            let end = |value: fn(Spread) -> f64| {
                row.mse.map_or_else(|| "-".to_owned(), |mse| format!("{:.6}", value(mse)))
            };
            cells.extend([end(|mse| mse.min), end(|mse| mse.max)]);
        }
        table.row(cells);
    }
    writeln!(out, "\n{table}")?;
    if seeds > 1 {
        writeln!(out, "Mean ± standard deviation of {seeds} seeds; every seed runs the same episodes.")?;
    }
    Ok(())
}
