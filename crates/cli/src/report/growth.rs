//! The picture of a comparison: error over the depth of the model, and over the action chunk.

use super::axis::Axis;
use super::canvas::{Align, Area, Canvas, Color, TextStyle, Weight, fit_text};
use anyhow::{Context, Result};
use std::path::Path;

/// What is drawn.
pub struct Growth<'a> {
    pub title: String,
    pub subtitle: String,
    /// Tap, distance and what rounding gives, in the order of execution; may be empty.
    pub depth: Vec<(&'a str, f64, f64)>,
    /// Distance by position in the chunk.
    pub chunk: &'a [f64],
}

const SIZE: (f32, f32) = (900.0, 620.0);
const SCALE: f32 = 2.0;
const INK: Color = [0x26, 0x2B, 0x33];
const MUTED: Color = [0x6B, 0x72, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const DISTANCE: Color = [0x1E, 0x88, 0xE5];
const ROUNDING: Color = [0xB8, 0xBF, 0xC8];

/// Draws the comparison and writes it as PNG.
pub fn write_png(growth: &Growth, path: &Path) -> Result<()> {
    let mut canvas = Canvas::new(SIZE.0, SIZE.1, SCALE);
    let style = |size, weight, color| TextStyle { size, weight, color, align: Align::Left };
    canvas.text(24.0, 34.0, &growth.title, &style(18.0, Weight::Medium, INK));
    canvas.text(24.0, 56.0, &growth.subtitle, &style(13.0, Weight::Regular, MUTED));
    let (upper, lower) = (
        Area { x: 70.0, y: 100.0, width: 800.0, height: 270.0 },
        Area { x: 70.0, y: 450.0, width: 800.0, height: 120.0 },
    );
    let title = style(12.0, Weight::Medium, INK);
    canvas.text(
        upper.x,
        upper.y - 12.0,
        "error over depth: distance (blue), what rounding gives (grey)",
        &title,
    );
    canvas.text(lower.x, lower.y - 12.0, "error by position in the action chunk", &title);
    let chunk: Vec<f64> = growth.chunk.to_vec();
    let pick = |index: usize| -> Vec<f64> {
        growth.depth.iter().map(|tap| if index == 0 { tap.1 } else { tap.2 }).collect()
    };
    let (distance, rounding) = (pick(0), pick(1));
    panel(&mut canvas, upper, &[(&rounding, ROUNDING), (&distance, DISTANCE)]);
    panel(&mut canvas, lower, &[(&chunk, DISTANCE)]);
    sections(&mut canvas, upper, &growth.depth);
    let png = canvas.to_png().with_context(|| format!("drawing {}", path.display()))?;
    super::output::write_file(path, &png)
}

/// Curves over their index, on a shared logarithmic axis.
fn panel(canvas: &mut Canvas, area: Area, curves: &[(&[f64], Color)]) {
    let drawn = curves.iter().flat_map(|(values, _)| *values).filter(|value| is_drawn(value));
    let (low, high) = drawn
        .map(|value| value.log10())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return;
    }
    let axis = Axis::exactly(low.floor(), high.ceil().max(low.floor() + 1.0), 6);
    let y = |value: f64| area.bottom() - axis.fraction(value) * area.height;
    let tick = TextStyle { size: 10.0, weight: Weight::Regular, color: MUTED, align: Align::Right };
    for decade in (low.floor() as i32)..=(high.ceil() as i32).max(low.floor() as i32 + 1) {
        let line = y(f64::from(decade));
        canvas.stroke(&[(area.x, line), (area.right(), line)], 1.0, GRID, area);
        canvas.text(area.x - 8.0, line + 3.5, &format!("1e{decade}"), &tick);
    }
    for (values, color) in curves {
        let step = area.width / (values.len().saturating_sub(1).max(1)) as f32;
        // An exact or an infinite value has no place on the axis: it ends a curve, the next one begins another.
        for (start, run) in runs(values) {
            let points: Vec<(f32, f32)> = run
                .iter()
                .enumerate()
                .map(|(index, value)| (area.x + (start + index) as f32 * step, y(value.log10())))
                .collect();
            canvas.stroke(&points, 1.8, *color, area);
        }
    }
}

fn is_drawn(value: &f64) -> bool {
    value.is_finite() && *value > 0.0
}

/// Runs of values that can be drawn, with the index of their first.
fn runs(values: &[f64]) -> Vec<(usize, &[f64])> {
    let mut first = 0;
    let mut runs = Vec::new();
    for run in values.split(|value| !is_drawn(value)) {
        if !run.is_empty() {
            runs.push((first, run));
        }
        first += run.len() + 1;
    }
    runs
}

/// Names the parts of the model and the Euler steps below the axis.
fn sections(canvas: &mut Canvas, area: Area, depth: &[(&str, f64, f64)]) {
    let style = TextStyle { size: 10.0, weight: Weight::Regular, color: MUTED, align: Align::Left };
    let step = area.width / (depth.len().saturating_sub(1).max(1)) as f32;
    let section = |name: &str| -> String {
        let parts = if name.starts_with("step.") { 2 } else { 1 };
        name.split('.').take(parts).collect::<Vec<_>>().join(" ")
    };
    let mut starts: Vec<(usize, String)> = Vec::new();
    for (index, (name, _, _)) in depth.iter().enumerate() {
        if starts.last().is_none_or(|(_, last)| *last != section(name)) {
            starts.push((index, section(name)));
        }
    }
    for (at, (index, name)) in starts.iter().enumerate() {
        let end = starts.get(at + 1).map_or(depth.len(), |(next, _)| *next);
        let width = (end - index) as f32 * step;
        if width > 30.0 {
            canvas.text(
                area.x + *index as f32 * step,
                area.bottom() + 16.0,
                &fit_text(name, width, &style),
                &style,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_cut_where_it_cannot_be_drawn() {
        let values = [1.0, f64::NAN, 2.0, 3.0, f64::INFINITY, 0.0, 4.0];
        assert_eq!(runs(&values), [(0, &values[..1]), (2, &values[2..4]), (6, &values[6..])]);
    }

    #[test]
    fn odd_comparisons_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        for (depth, chunk) in [(vec![], vec![]), (vec![("a", 0.0, f64::NAN)], vec![f64::INFINITY, 1e-3])] {
            let growth = Growth { title: "t".into(), subtitle: String::new(), depth, chunk: &chunk };
            let path = folder.path().join("plot.png");
            write_png(&growth, &path).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() > 1000);
        }
    }
}
