//! The picture of the table: each policy's error on a logarithmic axis, emulated and on the GPU.

use super::accuracy::Accuracy;
use super::report::{PolicyTable, Row, Tried, counted};
use crate::report::axis::Axis;
use crate::report::canvas::{Align, Area, Canvas, Color, TextStyle, Weight, fit_text};
use crate::report::output::write_file;
use anyhow::{Context, Result};
use std::path::Path;

const WIDTH: f32 = 900.0;
const SCALE: f32 = 2.0;
/// Height of a policy's line.
const LINE: f32 = 34.0;
const TOP: f32 = 96.0;
const BOTTOM: f32 = 44.0;
/// Where the errors are drawn; names stand left of it, numbers right.
const LEFT: f32 = 150.0;
const RIGHT: f32 = 620.0;
const INK: Color = [0x26, 0x2B, 0x33];
const MUTED: Color = [0x6B, 0x72, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const EMULATED: Color = [0x8A, 0x93, 0xA0];
const CUDA: Color = [0x1E, 0x88, 0xE5];

/// Draws the table and writes it as PNG.
///
/// # Errors
/// The file cannot be written.
pub fn write_png(table: &PolicyTable, path: &Path) -> Result<()> {
    let height = LINE * table.policies.len() as f32;
    let mut canvas = Canvas::new(WIDTH, TOP + height + BOTTOM, SCALE);
    let text = |size, weight, color, align| TextStyle { size, weight, color, align };
    let title = text(18.0, Weight::Medium, INK, Align::Left);
    canvas.text(24.0, 34.0, "What a precision policy costs", &title);
    let muted = text(13.0, Weight::Regular, MUTED, Align::Left);
    let shown = match &table.device {
        Some(device) => format!("grey: emulated on the CPU, blue: on {}", device.name),
        None => "emulated on the CPU".to_owned(),
    };
    let subtitle =
        format!("relative L2 of actions from the f32 reference over {}; {shown}", counted(table.inferences));
    canvas.text(24.0, 56.0, &fit_text(&subtitle, WIDTH - 48.0, &muted), &muted);
    let area = Area { x: LEFT, y: TOP, width: RIGHT - LEFT, height };
    let axis = draw_axis(&mut canvas, area, &table.policies);
    for (index, row) in table.policies.iter().enumerate() {
        let middle = TOP + LINE * (index as f32 + 0.5);
        let name = text(13.0, Weight::Medium, INK, Align::Right);
        canvas.text(LEFT - 16.0, middle + 4.5, &fit_text(&row.policy, LEFT - 32.0, &name), &name);
        if let Some(axis) = &axis {
            let at = |error: f64| area.x + axis.fraction(error.log10()) * area.width;
            for (tried, color) in [(Some(&row.emulated), EMULATED), (row.cuda.as_ref(), CUDA)] {
                tried.and_then(drawn).into_iter().for_each(|e| canvas.dot((at(e), middle), 5.0, color));
            }
        }
        if row.emulated.done().is_some_and(|accuracy| accuracy.relative_l2 == 0.0) {
            canvas.text(LEFT + 8.0, middle + 4.5, "the reference", &muted);
        }
        let plain = text(12.0, Weight::Regular, INK, Align::Left);
        canvas.text(
            RIGHT + 20.0,
            middle + 4.5,
            &fit_text(&numbers(row), WIDTH - RIGHT - 30.0, &plain),
            &plain,
        );
    }
    let png = canvas.to_png().with_context(|| format!("drawing {}", path.display()))?;
    write_file(path, &png)
}

/// An error that has a place on a logarithmic axis.
fn drawn(tried: &Tried<Accuracy>) -> Option<f64> {
    tried.done().map(|accuracy| accuracy.relative_l2).filter(|error| error.is_finite() && *error > 0.0)
}

/// Whole decades around all errors; none where nothing can be drawn.
fn draw_axis(canvas: &mut Canvas, area: Area, rows: &[Row]) -> Option<Axis> {
    let errors =
        rows.iter().flat_map(|row| [Some(&row.emulated), row.cuda.as_ref()]).flatten().filter_map(drawn);
    let decades: Vec<f64> = errors.map(f64::log10).collect();
    let low = decades.iter().copied().reduce(f64::min)?.floor();
    let high = decades.iter().copied().reduce(f64::max)?.ceil().max(low + 1.0);
    let axis = Axis::exactly(low, high, 10);
    let label = TextStyle { size: 11.0, weight: Weight::Regular, color: MUTED, align: Align::Centre };
    for decade in low as i32..=high as i32 {
        let x = area.x + axis.fraction(f64::from(decade)) * area.width;
        canvas.stroke(
            &[(x, area.y), (x, area.bottom())],
            1.0,
            GRID,
            Area { width: area.width + 2.0, ..area },
        );
        canvas.text(x, area.bottom() + 20.0, &format!("1e{decade}"), &label);
    }
    Some(axis)
}

/// MSE, and medians where they were measured.
fn numbers(row: &Row) -> String {
    let mse = match &row.emulated {
        Tried::Done(accuracy) => format!("MSE {:.6}", accuracy.mse),
        Tried::Refused { .. } => "refused".to_owned(),
        Tried::Failed { .. } => "failed".to_owned(),
    };
    let measured = row.latency.iter().filter_map(|latency| {
        let milliseconds = latency.milliseconds.done()?;
        Some(format!(", {} {:.2} ms", latency.workload, milliseconds.p50))
    });
    [mse].into_iter().chain(measured).collect()
}
