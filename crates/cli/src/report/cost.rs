//! The picture of what an inference costs, over each dimension of the workload that was changed.

use super::axis::Axis;
use super::canvas::{Align, Area, Canvas, Color, TextStyle, Weight};
use anyhow::{Context, Result};
use std::path::Path;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Of the dimension.
    pub value: u16,
    /// Milliseconds of the median inference.
    pub median: f64,
    /// The least milliseconds that the device's measured rates allow.
    pub floor: Option<f64>,
}

const SCALE: f32 = 2.0;
const COLUMNS: usize = 2;
const PANEL: (f32, f32) = (400.0, 230.0);
const LEFT: f32 = 60.0;
const TOP: f32 = 110.0;
/// From one panel's left or top edge to the next one's.
const STRIDE: (f32, f32) = (490.0, 310.0);
const INK: Color = [0x26, 0x2B, 0x33];
const MUTED: Color = [0x6B, 0x72, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const MEDIAN: Color = [0x1E, 0x88, 0xE5];
const FLOOR: Color = [0x9A, 0xA3, 0xAF];

/// Draws a panel for each dimension, by name, and writes the picture as PNG.
///
/// # Errors
/// The file cannot be written.
pub fn write_png(title: &str, subtitle: &str, panels: &[(&str, Vec<Point>)], path: &Path) -> Result<()> {
    let (columns, rows) = (panels.len().clamp(1, COLUMNS), panels.len().div_ceil(COLUMNS).max(1));
    let width = LEFT + STRIDE.0 * columns as f32 - 40.0;
    let height = TOP + STRIDE.1 * rows as f32 - 30.0;
    let mut canvas = Canvas::new(width, height, SCALE);
    canvas.text(24.0, 34.0, title, &style(18.0, Weight::Medium, INK, Align::Left));
    canvas.text(24.0, 56.0, subtitle, &style(13.0, Weight::Regular, MUTED, Align::Left));
    for (index, (name, points)) in panels.iter().enumerate() {
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        let (x, y) = (LEFT + STRIDE.0 * column as f32, TOP + STRIDE.1 * row as f32);
        panel(&mut canvas, Area { x, y, width: PANEL.0, height: PANEL.1 }, name, points);
    }
    let png = canvas.to_png().with_context(|| format!("drawing {}", path.display()))?;
    super::output::write_file(path, &png)
}

/// Medians and floors from zero up, so that twice the height is twice the time.
fn panel(canvas: &mut Canvas, area: Area, name: &str, points: &[Point]) {
    let known = points.iter().any(|point| point.floor.is_some());
    let beside = if known { ", floor (grey)" } else { "" };
    let heading = format!("ms by {name}: median (blue){beside}");
    canvas.text(area.x, area.y - 12.0, &heading, &style(12.0, Weight::Medium, INK, Align::Left));
    let highest = points.iter().flat_map(|point| [Some(point.median), point.floor]).flatten();
    let up = Axis::exactly(0.0, 1.08 * highest.fold(1e-3, f64::max), 5);
    let along = Axis::exactly(0.0, points.iter().map(|point| f64::from(point.value)).fold(1.0, f64::max), 8);
    let place = |value: u16, milliseconds: f64| {
        let x = area.x + along.fraction(f64::from(value)) * area.width;
        (x, area.bottom() - up.fraction(milliseconds) * area.height)
    };
    for tick in &up.ticks {
        let y = area.bottom() - up.fraction(*tick) * area.height;
        canvas.stroke(&[(area.x, y), (area.right(), y)], 1.0, GRID, area);
        let label = style(10.0, Weight::Regular, MUTED, Align::Right);
        canvas.text(area.x - 8.0, y + 3.5, &up.label(*tick), &label);
    }
    for tick in &along.ticks {
        let x = area.x + along.fraction(*tick) * area.width;
        let label = style(10.0, Weight::Regular, MUTED, Align::Centre);
        canvas.text(x, area.bottom() + 16.0, &along.label(*tick), &label);
    }
    let mut sorted = points.to_vec();
    sorted.sort_by_key(|point| point.value);
    let floors = sorted.iter().filter_map(|point| Some(place(point.value, point.floor?))).collect::<Vec<_>>();
    let medians = sorted.iter().map(|point| place(point.value, point.median)).collect::<Vec<_>>();
    for (line, color) in [(floors, FLOOR), (medians, MEDIAN)] {
        if !line.is_empty() {
            canvas.stroke(&line, 1.8, color, area);
        }
        line.iter().for_each(|point| canvas.dot(*point, 3.0, color));
    }
}

fn style(size: f32, weight: Weight, color: Color, align: Align) -> TextStyle {
    TextStyle { size, weight, color, align }
}
