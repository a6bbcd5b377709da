//! `steady precision show`: the formats of every site.

use super::Listed;
use super::args::ShowArgs;
use super::listing::{Group, Used, amax, groups};
use crate::output::say;
use crate::report::table::Table;
use anyhow::{Context, Result};
use serde::Serialize;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::session::dataset_hash;

/// A policy on a model, as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    policy: &'a str,
    checkpoint: String,
    /// Where activation scales come from: `dynamic`, or the calibration's file.
    activation_scales: Option<String>,
    sites: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    site: &'a ModelSite,
    #[serde(flatten)]
    formats: Used,
    /// The calibrated largest magnitude of a scaled site's activations.
    amax: Option<f32>,
}

pub(super) fn run(args: &ShowArgs) -> Result<()> {
    let listed = Listed::load(&args.listing)?;
    let policy = listed.precision(&args.precision)?;
    if let Some(dataset) = &args.dataset_path {
        let calibration =
            policy.calibration().context("--dataset-path: the number formats have no calibration")?;
        calibration.expect_dataset(&dataset_hash(dataset)?)?;
    }
    let row = |site| {
        let formats = Used::at(&policy, site);
        Ok(Row { site, formats, amax: amax(&policy, site, &formats)? })
    };
    let sites = listed.sites.iter().map(row).collect::<Result<Vec<_>>>()?;
    let scaled = sites.iter().any(|row| row.formats.scale.is_some());
    let file = policy.calibration().and_then(|calibration| calibration.file());
    let source = file.map_or("dynamic".to_owned(), |file| file.display().to_string());
    let shown = Shown {
        policy: policy.name(),
        checkpoint: listed.checkpoint.display().to_string(),
        activation_scales: scaled.then_some(source),
        sites,
    };
    if args.listing.json {
        say!("{}", serde_json::to_string_pretty(&shown)?)?;
        return Ok(());
    }
    say!("{}", table(&listed.sites, &shown.sites, args.listing.all))?;
    say!("{}: {} sites of {}", shown.policy, shown.sites.len(), shown.checkpoint)?;
    match policy.calibration() {
        Some(calibration) if scaled => say!(
            "activation scales: {}, {} frames of dataset {}, {} Euler steps, {} % of the values",
            shown.activation_scales.unwrap_or_default(),
            calibration.frames,
            calibration.dataset,
            calibration.denoising_steps,
            calibration.percentile
        )?,
        None if scaled => {
            say!("activation scales: dynamic, of each observation's tensor at hand")?;
        }
        _ => {}
    }
    Ok(())
}

fn table(sites: &[ModelSite], rows: &[Row], all: bool) -> Table {
    let mut table = Table::new(&["site", "operation", "storage", "compute", "accumulate", "weights", "amax"]);
    let alike = |a: usize, b: usize| !all && rows[a].formats == rows[b].formats;
    for Group { pattern, operation, members } in groups(sites, alike) {
        let formats = rows[members[0]].formats;
        let known: Vec<f32> = members.iter().filter_map(|member| rows[*member].amax).collect();
        let cells = [pattern, operation.to_string()].into_iter().chain(formats.cells());
        table.row(cells.chain([bounds(&known, formats.scale.is_some())]));
    }
    table
}

/// The range of the calibrated magnitudes.
fn bounds(known: &[f32], scaled: bool) -> String {
    let smallest = known.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = known.iter().copied().fold(0.0, f32::max);
    match known {
        [] if scaled => "dynamic".to_owned(),
        [] => "-".to_owned(),
        _ if smallest == largest => format!("{largest:.3}"),
        _ => format!("{smallest:.3} to {largest:.3}"),
    }
}
