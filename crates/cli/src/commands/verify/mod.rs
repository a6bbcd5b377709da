//! `steady verify`: this build against results of the official code.
//!
//! A fixture folder is recognised by its files. Its rows are compared in relative L2, each with a limit
//! of its own, and the worst of them are shown.

mod demo_expected;
mod golden_input;
mod model_golden;
mod processor_golden;
mod report;

use crate::options::EngineArgs;
use crate::outcome::Outcome;
use crate::output::{note, say};
use crate::progress::Progress;
use crate::report::output::{claim, write_json};
use crate::report::table::Table;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use report::{Fixture, Report};
use serde::Serialize;
use std::path::{Path, PathBuf};
use steadyhand_gr00t::model::Model;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Fixture folders: model goldens, processor goldens or expected results of the demo.
    #[arg(required = true, value_name = "DIR")]
    pub fixtures: Vec<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Fail above this distance, in place of the limits that the fixtures come with.
    #[arg(long, value_name = "LIMIT")]
    pub max_relative_l2: Option<f64>,
    /// The tokenizer that processor goldens were made with, where it is not beside them.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Checkpoint of expected demo results; beside them, or the embedded one, otherwise.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Dataset of expected demo results; beside them, or the embedded one, otherwise.
    #[arg(long, visible_alias = "dataset", value_name = "DIR")]
    pub dataset_path: Option<PathBuf>,
    /// How many of the worst rows to show.
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
    /// Where all comparisons go as JSON, with the worst of each tap and the checkpoints' hashes.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// One comparison.
#[derive(Debug, Clone)]
struct Row {
    /// Name of the fixture.
    fixture: String,
    /// The tensor, or what else is compared.
    name: String,
    /// The distance, relative L2 unless `what` says otherwise.
    found: f64,
    /// What `found` must not exceed.
    limit: f64,
    /// Whether `found` is a relative L2 distance, or what else it is.
    what: Measure,
    /// The official code's own distance, where it is known.
    note: String,
}

/// What a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Measure {
    RelativeL2,
    /// Largest difference of pixel values, in levels of 255.
    MaxLevel,
    /// Mean difference of pixel values, in levels of 255.
    MeanLevel,
    /// Relative difference of the mean squared error.
    MseChange,
    /// Values that differ.
    Differences,
}

impl Measure {
    fn label(self) -> &'static str {
        match self {
            Measure::RelativeL2 => "relative L2",
            Measure::MaxLevel => "max level",
            Measure::MeanLevel => "mean level",
            Measure::MseChange => "MSE change",
            Measure::Differences => "differences",
        }
    }
}

impl Row {
    fn holds(&self) -> bool {
        self.found <= self.limit
    }

    /// As it is told to people.
    fn label(&self) -> String {
        format!("{} {}", self.fixture, self.name)
    }

    /// Sorts by how much of the limit is used up.
    fn strain(&self) -> f64 {
        match (self.found == 0.0, self.limit == 0.0) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => self.found / self.limit,
        }
    }
}

/// What a fixture was compared with.
struct Ran {
    /// [`Parts::fingerprint`](steadyhand_gr00t::policy::Parts::fingerprint) of the weights, where the report needs it:
    /// they are read whole for it.
    checkpoint: Option<String>,
    /// The engine that ran.
    engine: String,
    /// Its number formats.
    precision: String,
}

impl VerifyArgs {
    /// What tells the weights from others, where the report needs it.
    fn fingerprint(&self, model: &Model) -> Option<String> {
        self.json.as_ref().and_then(|_| Some(model.checkpoint()?.fingerprint()))
    }
}

/// Compares every fixture and tells whether all limits hold.
pub fn run(args: &VerifyArgs) -> Result<Outcome> {
    if let Some(path) = &args.json {
        claim(path)?;
    }
    let (mut rows, mut fixtures) = (Vec::new(), Vec::new());
    let folders = expand(&args.fixtures)?;
    refuse_unused(args, &folders)?;
    let progress = Progress::new("verifying", "fixtures", folders.len() as u64);
    for folder in folders {
        let label = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = rows.len();
        let kind = Kind::of(&folder).with_context(|| format!("{}: {}", folder.display(), Kind::EXPECTED))?;
        let ran = match kind {
            Kind::Model => Some(model_golden::verify(&folder, &label, args, &mut rows)?),
            Kind::Demo => Some(demo_expected::verify(&folder, &label, args, &mut rows)?),
            Kind::Processor => {
                processor_golden::verify(&folder, &label, args, &mut rows)?;
                None
            }
        };
        let held = rows[before..].iter().filter(|row| row.holds()).count();
        let all = rows.len() - before;
        progress.suspend(|| say!("{label}: {held} of {all} comparisons hold"))?;
        progress.inc();
        fixtures.push(Fixture::new(label, &folder, kind, ran, all, held));
    }
    drop(progress);
    rows.sort_by(|a, b| b.strain().total_cmp(&a.strain()));
    say!("\n{}", table(&rows, args.rows))?;
    let worst = rows.iter().filter(|row| row.what == Measure::RelativeL2);
    let worst = worst.max_by(|a, b| a.found.total_cmp(&b.found)).context("nothing was compared")?;
    say!("worst relative L2 {:.3e} ({})", worst.found, worst.label())?;
    if let Some(path) = &args.json {
        write_json(path, &Report::new(fixtures, worst, &rows))?;
        say!("JSON: {}", path.display())?;
    }
    let failed = rows.iter().filter(|row| !row.holds()).count();
    if failed > 0 {
        note!("{failed} of {} comparisons are above their limit", rows.len());
        return Ok(Outcome::Failure);
    }
    Ok(Outcome::Success)
}

fn table(rows: &[Row], count: usize) -> Table {
    let mut table = Table::new(&["comparison", "measure", "found", "limit", "", "official"]);
    for row in rows.iter().take(count) {
        let verdict = if row.holds() { "ok" } else { "FAILED" };
        table.row([
            row.label(),
            row.what.label().to_owned(),
            format!("{:.3e}", row.found),
            format!("{:.3e}", row.limit),
            verdict.to_owned(),
            row.note.clone(),
        ]);
    }
    table
}

/// Fails where an option was given that none of the fixtures asks for.
fn refuse_unused(args: &VerifyArgs, folders: &[PathBuf]) -> Result<()> {
    let some = |kinds: &[Kind]| {
        folders.iter().filter_map(|folder| Kind::of(folder)).any(|kind| kinds.contains(&kind))
    };
    let run = some(&[Kind::Model, Kind::Demo]);
    let engine = args.engine.engine.name() != "cpu" || args.engine.engine.argument().is_some();
    for (option, given, used, by) in [
        ("--engine", engine, run, "model goldens or demo results"),
        ("--precision", args.engine.precision.is_some(), run, "model goldens or demo results"),
        ("--tokenizer", args.tokenizer.is_some(), some(&[Kind::Processor]), "processor goldens"),
        ("--checkpoint", args.checkpoint.is_some(), some(&[Kind::Demo]), "demo results"),
        ("--dataset-path", args.dataset_path.is_some(), some(&[Kind::Demo]), "demo results"),
    ] {
        ensure!(!given || used, "{option}: expected with {by}, found none among the fixtures");
    }
    Ok(())
}

/// The kinds of fixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Model,
    Processor,
    Demo,
}

impl Kind {
    const EXPECTED: &str = "expected a fixture folder (inputs.safetensors and expected_f32.safetensors; \
                            case.safetensors; or summary.json and episode_NNNNNN.safetensors), found none";

    fn of(folder: &Path) -> Option<Self> {
        let has = |name: &str| folder.join(name).is_file();
        if has("inputs.safetensors") && has("expected_f32.safetensors") {
            Some(Kind::Model)
        } else if has("case.safetensors") {
            Some(Kind::Processor)
        } else if has("summary.json") {
            Some(Kind::Demo)
        } else {
            None
        }
    }
}

/// The fixtures named, and for a folder that is none itself, those directly below it.
fn expand(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut fixtures = Vec::new();
    for folder in folders {
        if Kind::of(folder).is_some() {
            fixtures.push(folder.clone());
            continue;
        }
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut below: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        below.retain(|path| Kind::of(path).is_some());
        below.sort();
        if below.is_empty() {
            bail!("{}: {}", folder.display(), Kind::EXPECTED);
        }
        fixtures.extend(below);
    }
    Ok(fixtures)
}
