//! What `steady verify --json` leaves.

use super::{Kind, Measure, Ran, Row};
use crate::report::output::WRITTEN_BY;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A verification as JSON.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    written_by: &'static str,
    verdict: Verdict,
    /// Largest relative L2 of all comparisons.
    worst: Compared<'a>,
    fixtures: Vec<Fixture>,
    /// Of each tap the comparison, of all fixtures, that uses up most of its limit; by name.
    taps: Vec<Compared<'a>>,
    /// All of them, those that use up most of their limit first.
    comparisons: Vec<Compared<'a>>,
}

/// Whether every comparison is within its limit.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Holds,
    Fails,
}

/// A fixture and what was compared with it.
#[derive(Serialize)]
pub(super) struct Fixture {
    name: String,
    path: String,
    kind: Kind,
    /// Hash of the weights; a processor golden has none, nor an engine.
    checkpoint: Option<String>,
    engine: Option<String>,
    precision: Option<String>,
    comparisons: usize,
    holding: usize,
}

impl Fixture {
    pub(super) fn new(
        name: String,
        folder: &Path,
        kind: Kind,
        ran: Option<Ran>,
        comparisons: usize,
        holding: usize,
    ) -> Self {
        let path = folder.display().to_string();
        let (checkpoint, engine, precision) = match ran {
            Some(Ran { checkpoint, engine, precision }) => (checkpoint, Some(engine), Some(precision)),
            None => (None, None, None),
        };
        Fixture { name, path, kind, checkpoint, engine, precision, comparisons, holding }
    }
}

/// One comparison. Numbers that are not finite are null.
#[derive(Serialize)]
struct Compared<'a> {
    fixture: &'a str,
    tap: &'a str,
    measure: Measure,
    found: f64,
    limit: f64,
    holds: bool,
    /// The official code's own distance, in words; empty where it is not known.
    official: &'a str,
}

impl<'a> Compared<'a> {
    fn of(row: &'a Row) -> Self {
        Compared {
            fixture: &row.fixture,
            tap: &row.name,
            measure: row.what,
            found: row.found,
            limit: row.limit,
            holds: row.holds(),
            official: &row.note,
        }
    }
}

impl<'a> Report<'a> {
    /// Of rows, those that use up most of their limit first; `worst` is the largest relative L2 among them.
    pub(super) fn new(fixtures: Vec<Fixture>, worst: &'a Row, rows: &'a [Row]) -> Self {
        let mut taps: BTreeMap<(&str, &str), &Row> = BTreeMap::new();
        for row in rows {
            taps.entry((&row.name, row.what.label())).or_insert(row);
        }
        Report {
            written_by: WRITTEN_BY,
            verdict: if rows.iter().all(Row::holds) { Verdict::Holds } else { Verdict::Fails },
            worst: Compared::of(worst),
            fixtures,
            taps: taps.into_values().map(Compared::of).collect(),
            comparisons: rows.iter().map(Compared::of).collect(),
        }
    }
}
