//! The executed trajectory with and without real-time chunking, of the joints that jump most without.

use super::course::Course;
use crate::report::axis::Axis;
use crate::report::canvas::{Align, Area, Canvas, Color, TextStyle, Weight, fit_text, text_width};
use crate::report::output::write_file;
use anyhow::Result;
use std::path::Path;

/// Joints that are drawn.
const PANELS: usize = 4;
const COLUMNS: usize = 2;
const WIDTH: f32 = 960.0;
const HEIGHT: f32 = 560.0;
/// Device pixels a logical one: a page shows the picture at about this width.
const SCALE: f32 = 1.25;
const MARGIN: f32 = 18.0;
const HEADER: f32 = 52.0;
/// Between panels, with room for their titles and the numbers left of them.
const GAP: [f32; 2] = [52.0, 44.0];

const NAIVE: Color = [0xD9, 0x5F, 0x02];
const CHUNKED: Color = [0x1F, 0x6F, 0xD0];
const INK: Color = [0x1B, 0x1F, 0x24];
const MUTED: Color = [0x6B, 0x74, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const SWITCH: Color = [0xB8, 0xBF, 0xC8];

const HEADING: TextStyle = TextStyle { size: 18.0, weight: Weight::Medium, color: INK, align: Align::Left };
const QUIET: TextStyle = TextStyle { size: 12.0, weight: Weight::Regular, color: MUTED, align: Align::Left };
const TITLE: TextStyle = TextStyle { size: 12.0, weight: Weight::Medium, color: INK, align: Align::Left };
const TICK: TextStyle = TextStyle { size: 9.5, weight: Weight::Regular, color: MUTED, align: Align::Right };

/// Draws both courses. `names` are those of the joints.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, names: &[String], naive: &Course, chunked: &Course, fps: f64) -> Result<()> {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, SCALE);
    canvas.text(MARGIN, MARGIN + 14.0, "Executed actions, chunk after chunk", &HEADING);
    let mut x = MARGIN;
    for (label, color, course) in [("naive", NAIVE, naive), ("real-time chunking", CHUNKED, chunked)] {
        let text = format!("{label}: mean jump {:.3} at {} switches", course.jump(), course.switches.len());
        canvas.fill(Area { x, y: MARGIN + 29.0, width: 18.0, height: 2.5 }, color);
        canvas.text(x + 24.0, MARGIN + 34.0, &text, &QUIET);
        x += 24.0 + text_width(&text, &QUIET) + 26.0;
    }
    canvas.text(x, MARGIN + 34.0, "grey: a new chunk takes over (naive)", &QUIET);
    let joints = jumpiest(naive);
    let rows = joints.len().div_ceil(COLUMNS).max(1);
    let width = (WIDTH - 2.0 * MARGIN) / COLUMNS as f32 - GAP[0];
    let height = (HEIGHT - 2.0 * MARGIN - HEADER) / rows as f32 - GAP[1];
    for (place, joint) in joints.into_iter().enumerate() {
        let (row, column) = (place / COLUMNS, place % COLUMNS);
        let area = Area {
            x: MARGIN + 40.0 + column as f32 * (width + GAP[0]),
            y: MARGIN + HEADER + 20.0 + row as f32 * (height + GAP[1]),
            width,
            height,
        };
        let name = names.get(joint).cloned().unwrap_or_else(|| format!("joint {joint}"));
        canvas.text(area.x, area.y - 6.0, &fit_text(&name, width, &TITLE), &TITLE);
        panel(&mut canvas, area, joint, [naive, chunked], fps);
    }
    write_file(path, &canvas.to_png()?)
}

/// The joints whose jumps are largest.
fn jumpiest(course: &Course) -> Vec<usize> {
    let joints = course.executed.first().map_or(0, Vec::len);
    let jump =
        |joint: usize, step: usize| (course.executed[step][joint] - course.executed[step - 1][joint]).abs();
    let of = |joint: usize| course.switches.iter().map(|switch| jump(joint, switch.step)).sum::<f32>();
    let mut order: Vec<usize> = (0..joints).collect();
    order.sort_by(|a, b| of(*b).total_cmp(&of(*a)));
    order.truncate(PANELS);
    order.sort_unstable();
    order
}

fn panel(canvas: &mut Canvas, area: Area, joint: usize, courses: [&Course; 2], fps: f64) {
    let values = |course: &Course| -> Vec<f32> { course.executed.iter().map(|row| row[joint]).collect() };
    let [naive, chunked] = courses.map(values);
    let value = Axis::around(naive.iter().chain(&chunked).copied(), 5);
    let seconds = naive.len().saturating_sub(1).max(1) as f64 / fps;
    let time = Axis::exactly(0.0, seconds, 8);
    for &tick in &value.ticks {
        let y = area.bottom() - value.fraction(tick) * area.height;
        canvas.fill(Area { x: area.x, y, width: area.width, height: 0.7 }, GRID);
        canvas.text(area.x - 5.0, y + 3.4, &value.label(tick), &TICK);
    }
    let at = |step: usize| area.x + time.fraction(step as f64 / fps) * area.width;
    for switch in &courses[0].switches {
        canvas.fill(Area { x: at(switch.step), y: area.y, width: 0.7, height: area.height }, SWITCH);
    }
    for &tick in &time.ticks {
        let x = area.x + time.fraction(tick) * area.width;
        let centred = TextStyle { align: Align::Left, ..TICK };
        let label = format!("{} s", time.label(tick));
        canvas.text(x - text_width(&label, &centred) / 2.0, area.bottom() + 13.0, &label, &centred);
    }
    for (values, color) in [(naive, NAIVE), (chunked, CHUNKED)] {
        let place = |(step, y): (usize, &f32)| {
            (at(step), area.bottom() - value.fraction(f64::from(*y)) * area.height)
        };
        let points: Vec<(f32, f32)> = values.iter().enumerate().map(place).collect();
        canvas.stroke(&points, 1.5, color, area);
    }
}
