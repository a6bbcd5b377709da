//! Where the error is made: the worst local error of every part of the model in every Euler step.

use std::collections::{BTreeMap, HashSet};

use crate::report::html::text::{count, escape, number, times};
use steadyhand_gr00t_lab::diagnosis::TapError;

/// Rows that the layers of one part take at most; more layers share rows.
const MOST_LAYER_ROWS: usize = 12;
/// Columns that the Euler steps take at most; more steps share columns.
const MOST_STEP_COLUMNS: usize = 24;

const WIDTH: f64 = 1040.0;
const LABELS: f64 = 150.0;
/// Room for the names of what exceeds rounding, right of the cells.
const NOTES: f64 = 270.0;
const HEADER: f64 = 22.0;
const ROW: f64 = 19.0;
const GAP: f64 = 2.0;
/// Sets the column of what happens once apart from the steps.
const ONCE_GAP: f64 = 8.0;
const WIDEST_COLUMN: f64 = 180.0;

/// Upper bounds of the colours; 1 is where rounding ends.
const BOUNDS: [(f64, &str); 7] =
    [(0.1, "0.1"), (0.2, "0.2"), (0.5, "0.5"), (1.0, "1"), (10.0, "10"), (100.0, "100"), (1000.0, "1000")];
/// The colour of what cannot be compared: another shape, or values that are not finite.
const NOT_COMPARABLE: usize = BOUNDS.len() + 1;

/// What cells that cannot be compared are filled with.
const HATCH: &str = r#"<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"
patternTransform="rotate(45)"><rect class="h8" width="6" height="6"/><rect class="hatch" width="2" height="6"/>
</pattern></defs>"#;

/// The tap's name without its step.
pub fn path(tap: &TapError) -> &str {
    let step = tap.step.map(|step| format!("step.{step}."));
    step.and_then(|step| tap.name.strip_prefix(step.as_str())).unwrap_or(&tap.name)
}

/// Local error relative to what a healthy engine may show. Infinite where it has no size.
pub fn severity(tap: &TapError) -> f64 {
    match tap.local / tap.local_expected {
        _ if tap.local == 0.0 => 0.0,
        ratio if ratio >= 0.0 => ratio,
        _ => f64::INFINITY,
    }
}

/// A part of the model, or some of its layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Before,
    /// The prefix of the layers, such as `dit.block`, and which of the rows they share.
    Layers(String, usize),
    After,
}

/// One row.
#[derive(Debug)]
struct Row<'a> {
    label: String,
    /// Position of its first tap. Keys and values of cross-attention are computed once, long before their
    /// block is: a tap inside a step counts before those that are not.
    rank: (bool, usize),
    cells: Vec<Option<Cell<'a>>>,
}

/// One part in one step, or several.
#[derive(Debug)]
struct Cell<'a> {
    worst: &'a TapError,
    taps: Vec<&'a TapError>,
}

impl Row<'_> {
    fn worst(&self) -> Option<&TapError> {
        let taps = self.cells.iter().flatten().map(|cell| cell.worst);
        // The first of equals: an error is made where it is seen first.
        taps.reduce(|worst, tap| if severity(tap) > severity(worst) { tap } else { worst })
    }
}

/// How many neighbours share a place, for `count` to take `most` places.
fn share(count: usize, most: usize) -> usize {
    count.div_ceil(most).max(1)
}

/// The prefix and the index of a layer, where the path lies in one.
fn layer(path: &str) -> Option<(&str, usize)> {
    let (end, index) = path.match_indices('.').find_map(|(dot, _)| {
        let rest = path[dot + 1..].split('.').next()?;
        Some((dot, rest.parse().ok()?))
    })?;
    Some((&path[..end], index))
}

/// Layers by their prefix: how many there are.
fn layers(taps: &[TapError]) -> BTreeMap<&str, usize> {
    let mut layers = BTreeMap::new();
    for (prefix, index) in taps.iter().filter_map(|tap| layer(path(tap))) {
        let count = layers.entry(prefix).or_insert(0);
        *count = (index + 1).max(*count);
    }
    layers
}

/// Rows in the order of execution. `column` tells where a step goes.
fn rows<'a>(taps: &'a [TapError], columns: usize, column: impl Fn(Option<usize>) -> usize) -> Vec<Row<'a>> {
    let layers = layers(taps);
    let layered: HashSet<&str> =
        taps.iter().filter(|tap| layer(path(tap)).is_some()).map(|tap| tap.part.as_str()).collect();
    let mut inside = HashSet::new();
    let mut rows: BTreeMap<(&str, Place), Row> = BTreeMap::new();
    for (position, tap) in taps.iter().enumerate() {
        let (path, part) = (path(tap), tap.part.as_str());
        let (place, label) = match layer(path) {
            Some((prefix, index)) => {
                inside.insert((part, tap.step));
                let (count, size) = (layers[prefix], share(layers[prefix], MOST_LAYER_ROWS));
                let (first, last) = (index / size * size, (index / size * size + size).min(count) - 1);
                let label = if first == last {
                    format!("{prefix}.{first}")
                } else {
                    format!("{prefix}.{first}–{last}")
                };
                (Place::Layers(prefix.to_owned(), index / size), label)
            }
            None if inside.contains(&(part, tap.step)) => (Place::After, format!("{part} output")),
            None if layered.contains(part) => (Place::Before, format!("{part} input")),
            None => (Place::Before, part.to_owned()),
        };
        let row = rows.entry((part, place)).or_insert_with(|| Row {
            label,
            rank: (true, usize::MAX),
            cells: (0..columns).map(|_| None).collect(),
        });
        row.rank = row.rank.min((tap.step.is_none(), position));
        let cell = row.cells[column(tap.step)].get_or_insert(Cell { worst: tap, taps: Vec::new() });
        cell.taps.push(tap);
        if severity(tap) > severity(cell.worst) {
            cell.worst = tap;
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| row.rank.1);
    rows
}

/// The colour of a tap.
fn class(tap: &TapError) -> usize {
    let severity = severity(tap);
    match tap.local.is_finite() {
        true => BOUNDS.iter().position(|&(bound, _)| severity < bound).unwrap_or(BOUNDS.len()),
        false => NOT_COMPARABLE,
    }
}

/// What the map shows, in one sentence.
pub fn summary(taps: &[TapError]) -> String {
    let faults: Vec<&TapError> = taps.iter().filter(|tap| severity(tap) >= 1.0).collect();
    match faults.first() {
        None => format!("All {} lie below what a healthy engine may show.", count(taps.len(), "tap")),
        Some(first) => format!(
            "{} of {} exceed what a healthy engine may show; the first is <code>{}</code>.",
            faults.len(),
            count(taps.len(), "tap"),
            escape(&first.name)
        ),
    }
}

/// The map, with the cells outlined in which the tensor at `place` is beyond what a healthy engine may show.
pub fn heat_map(taps: &[TapError], place: Option<&str>) -> String {
    let steps = taps.iter().filter_map(|tap| tap.step).max().map_or(0, |last| last + 1);
    let size = share(steps, MOST_STEP_COLUMNS);
    let columns = 1 + steps.div_ceil(size);
    let rows = rows(taps, columns, |step| step.map_or(0, |step| 1 + step / size));
    let notes = rows.iter().any(|row| row.worst().is_some_and(|tap| severity(tap) >= 1.0));
    let room = WIDTH - LABELS - ONCE_GAP - if notes { NOTES } else { 0.0 };
    let width = (room / columns as f64).min(WIDEST_COLUMN);
    let left = |column: usize| LABELS + column as f64 * width + if column > 0 { ONCE_GAP } else { 0.0 };

    let mut body = String::new();
    for column in 0..columns {
        let name = match column {
            0 => "once".to_owned(),
            _ if width < 44.0 => ((column - 1) * size).to_string(),
            _ if size > 1 => format!("{}–{}", (column - 1) * size, (column * size).min(steps) - 1),
            _ => format!("step {}", column - 1),
        };
        let x = left(column) + (width - GAP) / 2.0;
        body += &format!(r#"<text class="tick mid" x="{x:.1}" y="{:.1}">{name}</text>"#, HEADER - 8.0);
    }
    for (index, row) in rows.iter().enumerate() {
        let top = HEADER + index as f64 * ROW;
        let baseline = top + ROW - 6.0;
        body += &format!(
            r#"<text class="site end" x="{:.1}" y="{baseline:.1}">{}</text>"#,
            LABELS - 10.0,
            escape(&row.label)
        );
        for (column, cell) in row.cells.iter().enumerate() {
            body += &match cell {
                Some(cell) => draw(cell, place, left(column), top, width - GAP),
                None => nothing(left(column), top, width - GAP),
            };
        }
        if let Some(tap) = row.worst().filter(|tap| severity(tap) >= 1.0) {
            body += &format!(
                r#"<text class="note" x="{:.1}" y="{baseline:.1}">{}<tspan class="quiet"> {}</tspan></text>"#,
                left(columns) + 10.0,
                escape(path(tap)),
                if tap.local.is_finite() { times(severity(tap)) } else { "not comparable".to_owned() }
            );
        }
    }
    let height = HEADER + rows.len() as f64 * ROW + 10.0;
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Local error by part and Euler step">
{HATCH}{body}</svg>{}"#,
        legend()
    )
}

/// One cell, with the size of its error where rounding does not explain it.
fn draw(cell: &Cell, place: Option<&str>, x: f64, y: f64, width: f64) -> String {
    let (tap, class) = (cell.worst, class(cell.worst));
    let title = format!(
        "{}: local error {}, healthy up to {} ({})\nworst of {}",
        escape(&tap.name),
        number(tap.local),
        number(tap.local_expected),
        times(severity(tap)),
        count(cell.taps.len(), "tap")
    );
    let text = match severity(tap) >= 1.0 && width >= 40.0 {
        true => format!(
            r#"<text class="mid in{class}" x="{:.1}" y="{:.1}">{}</text>"#,
            x + width / 2.0,
            y + ROW - 6.5,
            times(severity(tap))
        ),
        false => String::new(),
    };
    let wrong = |tap: &&TapError| Some(path(tap)) == place && severity(tap) >= 1.0;
    let outlined = if cell.taps.iter().any(wrong) { " place" } else { "" };
    format!(
        r#"<g><title>{title}</title>
<rect class="h{class}{outlined}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}" rx="2"/>{text}</g>"#,
        ROW - GAP
    )
}

/// A place that is not visited in this step.
fn nothing(x: f64, y: f64, width: f64) -> String {
    format!(
        r#"<circle class="nothing" cx="{:.1}" cy="{:.1}" r="1"/>"#,
        x + width / 2.0,
        y + (ROW - GAP) / 2.0
    )
}

/// The colours, with 1 between the two kinds.
fn legend() -> String {
    const SWATCH: f64 = 46.0;
    let mut body = String::new();
    for class in 0..=BOUNDS.len() {
        let x = LABELS + class as f64 * SWATCH;
        body += &format!(r#"<rect class="h{class}" x="{x}" y="2" width="{SWATCH}" height="10"/>"#);
    }
    for (index, (bound, label)) in BOUNDS.iter().enumerate() {
        let x = LABELS + (index + 1) as f64 * SWATCH;
        let class = if *bound == 1.0 { "one" } else { "tick" };
        body += &format!(r#"<text class="{class} mid" x="{x}" y="25">{label}</text>"#);
    }
    let x = LABELS + NOT_COMPARABLE as f64 * SWATCH + 34.0;
    body += &format!(
        r#"<rect class="h{NOT_COMPARABLE}" x="{x}" y="2" width="{SWATCH}" height="10"/>
<text class="tick" x="{:.1}" y="11">not comparable: another shape, or not finite</text>
<text class="tick end" x="{:.1}" y="11">local / healthy</text>"#,
        x + SWATCH + 8.0,
        LABELS - 10.0
    );
    format!(r#"<svg viewBox="0 0 {WIDTH} 30" role="img" aria-label="Legend">{body}</svg>"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::diagnose::html::tests::tap;

    #[test]
    fn rows_follow_the_execution_of_the_steps() {
        let names = [
            ("vision.patches", None),
            ("vision.layer.0.fc1", None),
            ("vision.post_layernorm", None),
            ("dit.block.0.key", None),
            ("step.0.actions_in", Some(0)),
            ("step.0.timestep_embedding", Some(0)),
            ("step.0.dit.block.0", Some(0)),
            ("step.0.dit.block.1", Some(0)),
            ("step.0.dit.output", Some(0)),
            ("action_pred", None),
        ];
        let taps: Vec<TapError> = names.map(|(name, step)| tap(name, step, 0.0)).into();
        let rows = rows(&taps, 2, |step| step.map_or(0, |step| 1 + step));
        let labels: Vec<&str> = rows.iter().map(|row| row.label.as_str()).collect();
        let expected = [
            "vision input",
            "vision.layer.0",
            "vision output",
            "noise",
            "dit input",
            "dit.block.0",
            "dit.block.1",
            "dit output",
            "euler",
        ];
        assert_eq!(labels, expected);
        assert!(rows[5].cells[0].is_some() && rows[6].cells[0].is_none());
    }

    #[test]
    fn many_layers_share_rows_and_the_worst_is_kept() {
        let mut taps: Vec<TapError> =
            (0..32).map(|i| tap(&format!("dit.block.{i}.fc1"), Some(0), 1e-3)).collect();
        taps[31].local = f64::INFINITY;
        let rows = rows(&taps, 2, |step| step.map_or(0, |step| 1 + step));
        assert_eq!(rows.len(), 11);
        assert_eq!(rows[10].label, "dit.block.30–31");
        assert_eq!(rows[10].worst().unwrap().name, "dit.block.31.fc1");
    }

    #[test]
    fn the_place_is_outlined_where_it_is_wrong() {
        let mut taps = Vec::new();
        for step in 0..3 {
            let local = if step == 0 { 1e-4 } else { 1.0 };
            taps.extend(
                ["dit.block.0", "dit.block.1.fc1"]
                    .map(|path| tap(&format!("step.{step}.{path}"), Some(step), local)),
            );
        }
        let outlined = |place| heat_map(&taps, place).matches(" place\"").count();
        assert_eq!(
            [outlined(None), outlined(Some("dit.block.1.fc1")), outlined(Some("dit.block.1"))],
            [0, 2, 0]
        );
    }

    #[test]
    fn every_error_has_a_colour() {
        let of = |local| class(&tap("x", None, local));
        assert_eq!(
            [0.0, 0.7e-3, 1e-3, 1.0, f64::NAN, f64::INFINITY].map(of),
            [0, 3, 4, 7, NOT_COMPARABLE, NOT_COMPARABLE]
        );
        let without_expectation = TapError { local_expected: 0.0, ..tap("x", None, 1e-3) };
        assert_eq!(class(&without_expectation), BOUNDS.len());
    }
}
