//! The page of an evaluation: one HTML file that needs nothing else. Its plots stand in it as SVG; a short script moves
//! the cursor and zooms.

mod curves;
mod frames;

use super::args::EvalArgs;
use super::evaluation::{Data, Evaluation, Finished, Loaded, Row, Spread};
use super::plan::Run;
use crate::progress::Progress;
use crate::report::html::STYLE;
use crate::report::html::text::escape;
use crate::report::output::{WRITTEN_BY, write_file};
use crate::report::{EpisodeReport, Report, Status};
use anyhow::Result;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use steadyhand_gr00t::processor::EmbodimentModalities;

/// What this page has beyond the style that pages share.
const OWN_STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Rows of the table of episodes.
const MOST_ROWS: usize = 500;

/// Writes the page of what was evaluated.
///
/// # Errors
/// Actions that were kept cannot be read; the page cannot be written.
pub fn write(path: &Path, args: &EvalArgs, loaded: &Loaded, evaluation: &Evaluation) -> Result<()> {
    let runs: Vec<&Finished> =
        evaluation.finished().filter(|finished| !finished.report.episodes.is_empty()).collect();
    let drawn_of_each = (args.html_episodes / runs.len().max(1)).max(1);
    let count: usize = runs.iter().map(|finished| finished.report.episodes.len().min(drawn_of_each)).sum();
    let progress = Progress::new("drawing the page", "episodes", count as u64);
    let mut body = header(&runs);
    if runs.len() > 1 {
        body += &comparison(&evaluation.rows());
    }
    for finished in runs {
        let worst = worst(&finished.report, drawn_of_each);
        body += &overview(finished, &worst);
        let modalities = loaded.subjects[finished.run.checkpoint].modalities();
        for place in worst {
            body += &episode(finished, place, modalities, &loaded.datasets[finished.run.dataset])?;
            progress.inc();
        }
    }
    write_file(path, whole(&body).as_bytes())
}

/// The document around its body.
fn whole(body: &str) -> String {
    // Names come from datasets. They are escaped; on top of that the page runs no script but its own.
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let nonce = format!("{:016x}", hasher.finish());
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="written by {WRITTEN_BY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}'">
<meta name="color-scheme" content="light dark">
<title>Evaluation – steady eval</title>
<style>{STYLE}{OWN_STYLE}</style>
</head>
<body>
<main>
{body}</main>
<script nonce="{nonce}">{SCRIPT}</script>
</body>
</html>
"#
    )
}

fn header(runs: &[&Finished]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let failures: usize = runs.iter().map(|finished| finished.report.failures.len()).sum();
    let episodes: usize = runs.iter().map(|finished| finished.report.episodes.len()).sum();
    let complete = runs.iter().all(|finished| finished.report.status == Status::Complete);
    let (class, mark, word) = match (complete, failures) {
        (true, _) => ("fine", "✓", "Complete".to_owned()),
        (false, 0) => ("ranked", "◐", "Interrupted".to_owned()),
        (false, _) => ("cause", "●", format!("Partial: {failures} skipped")),
    };
    let report = &first.report;
    let title = match (runs.len(), report.mse) {
        (1, Some(mse)) => format!("MSE {mse:.6} over {}", counted(episodes, "episode")),
        _ => format!("{} of {}", counted(runs.len(), "evaluation"), counted(episodes, "episode")),
    };
    let facts = [
        ("checkpoint", &report.checkpoint),
        ("dataset", &report.dataset),
        ("embodiment", &report.embodiment_tag),
        ("engine", &format!("{}, {}", report.engine, report.precision)),
        ("noise", &report.noise.clone().unwrap_or_else(|| format!("seed {}", report.seed))),
        (
            "Euler steps",
            &report.denoising_steps.map_or_else(|| "the server's".to_owned(), |steps| steps.to_string()),
        ),
        ("action horizon", &report.action_horizon.to_string()),
    ];
    let facts: String = facts
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd><code>{}</code></dd></div>", escape(value)))
        .collect();
    format!(
        "<header class=\"{class}\"><p class=\"status\"><span>{mark}</span> {word}</p><h1>{}</h1>\
         <p>Open loop: the policy sees the recorded observations; its actions are compared with the recorded \
         ones.</p></header>\n<dl class=\"facts\">{facts}</dl>\n",
        escape(&title)
    )
}

fn counted(number: usize, singular: &str) -> String {
    crate::report::html::text::count(number, singular)
}

/// Runs side by side.
fn comparison(rows: &[Row]) -> String {
    let shown = |spread: Option<Spread>| match spread {
        None => "–".to_owned(),
        Some(Spread { mean, standard_deviation: 0.0, .. }) => format!("{mean:.6}"),
        Some(Spread { mean, standard_deviation, .. }) => format!("{mean:.6} ± {standard_deviation:.6}"),
    };
    let row = |row: &Row| {
        format!(
            "<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            escape(&row.checkpoint),
            escape(&row.dataset),
            row.seeds.len(),
            row.episodes,
            shown(row.mse),
            shown(row.mae)
        )
    };
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<section><h2>Side by side</h2><p class=\"lead\">Mean, and standard deviation over seeds.</p>\
         <div class=\"scroll\"><table><thead><tr><th>Checkpoint</th><th>Dataset</th><th class=\"number\">Seeds</th>\
         <th class=\"number\">Episodes</th><th class=\"number\">MSE</th><th class=\"number\">MAE</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></section>\n"
    )
}

/// Places in the report of the episodes with the largest errors, in the order of their numbers.
fn worst(report: &Report, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..report.episodes.len()).collect();
    places.sort_by(|a, b| report.episodes[*b].mse.total_cmp(&report.episodes[*a].mse));
    places.truncate(count);
    places.sort_unstable();
    places
}

/// The name of an episode's section.
fn anchor(run: &Run, episode: usize) -> String {
    format!("{}-{}-{}-{episode}", run.checkpoint, run.dataset, run.seed)
}

/// The errors of a run by episode and joint group.
fn overview(finished: &Finished, drawn: &[usize]) -> String {
    let report = &finished.report;
    let cell = |value: f64, largest: f64| {
        let share = if largest > 0.0 { (value / largest * 100.0).clamp(0.0, 100.0) } else { 0.0 };
        format!("<td class=\"number bar\" style=\"--share:{share:.0}%\">{value:.6}</td>")
    };
    let largest = |of: &dyn Fn(&EpisodeReport) -> f64| report.episodes.iter().map(of).fold(0.0, f64::max);
    let of_group = |episode: &EpisodeReport, name: &str| {
        episode.groups.iter().find(|group| group.name == name).map_or(0.0, |group| group.mse)
    };
    let largest_mse = largest(&|episode| episode.mse);
    let largest_of: Vec<f64> = report
        .groups
        .iter()
        .map(|group| largest(&|episode: &EpisodeReport| of_group(episode, &group.name)))
        .collect();
    let mut rows = String::new();
    for (place, episode) in report.episodes.iter().enumerate().take(MOST_ROWS) {
        let index = episode.episode_index;
        let name = match drawn.contains(&place) {
            true => format!("<a href=\"#e{}\">{index}</a>", anchor(&finished.run, index)),
            false => index.to_string(),
        };
        rows += &format!("<tr><td class=\"number\">{name}</td>{}", cell(episode.mse, largest_mse));
        for (group, largest) in report.groups.iter().zip(&largest_of) {
            rows += &cell(of_group(episode, &group.name), *largest);
        }
        rows += &format!("<td>{}</td></tr>", escape(&episode.instruction));
    }
    let heads: String = report
        .groups
        .iter()
        .map(|group| format!("<th class=\"number\">{}</th>", escape(&group.name)))
        .collect();
    let skipped: String = report
        .failures
        .iter()
        .map(|failed| format!("<li>episode {}: {}</li>", failed.episode_index, escape(&failed.reason)))
        .collect();
    let skipped = match skipped.is_empty() {
        true => String::new(),
        false => format!("<h3>Skipped</h3><ul>{skipped}</ul>"),
    };
    let title = match &finished.run.label {
        Some(label) => format!("Episodes of {}", escape(label)),
        None => "Episodes".to_owned(),
    };
    let more = report.episodes.len().saturating_sub(MOST_ROWS);
    let more =
        if more > 0 { format!("<p class=\"quiet\">{more} more are in the JSON.</p>") } else { String::new() };
    format!(
        "<section><h2>{title}</h2><p class=\"lead\">MSE of each, and by joint group. {} drawn below, those with the \
         largest errors.</p><div class=\"scroll\"><table class=\"errors\"><thead><tr><th class=\"number\">Episode</th>\
         <th class=\"number\">MSE</th>{heads}<th>Instruction</th></tr></thead><tbody>{rows}</tbody></table></div>\
         {more}{skipped}</section>\n",
        if drawn.len() == 1 { "1 is".to_owned() } else { format!("{} are", drawn.len()) },
    )
}

/// One episode: its camera beside its joints, group by group.
fn episode(
    finished: &Finished,
    place: usize,
    modalities: &EmbodimentModalities,
    data: &Data,
) -> Result<String> {
    let (report, layout) = (&finished.report.episodes[place], &finished.layouts[place]);
    let curves = finished.journal.curves(report.episode_index)?;
    let view = frames::cameras(&data.dataset, modalities, report.episode_index, report.steps);
    let points: Vec<String> = layout.inference_points.iter().map(usize::to_string).collect();
    Ok(format!(
        "<section class=\"episode\" id=\"e{}\" data-steps=\"{}\" data-fps=\"{}\" data-points=\"{}\">\
         <h2>Episode {}</h2><p class=\"lead\">{} · MSE {:.6} · MAE {:.6}</p>\
         <div class=\"side\"><div class=\"camera\">{view}<p class=\"time\">step 0</p></div><div class=\"groups\">{}{}\
         </div></div></section>\n",
        anchor(&finished.run, report.episode_index),
        report.steps,
        data.dataset.fps(),
        points.join(" "),
        report.episode_index,
        escape(&report.instruction),
        report.mse,
        report.mae,
        curves::legend(curves.state.is_some()),
        curves::groups(report, layout, &curves)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is loaded from anywhere, and no script runs but the page's own.
    #[test]
    fn the_page_needs_nothing_and_runs_nothing_foreign() {
        let page = whole("<p>body</p>");
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.replace("url(#", "").contains(foreign), "{foreign}");
        }
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("default-src 'none'"));
        assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("innerHTML"));
    }
}
