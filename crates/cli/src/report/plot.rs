//! One picture of an episode: a grid with one panel an action dimension, predicted against true.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::axis::Axis;
use super::canvas::{Align, Area, Canvas, Color, TextStyle, Weight, fit_text, text_width};
use super::grid::{Grid, MARGIN};

/// What is drawn of one episode.
pub struct EpisodePlot<'a> {
    pub episode_index: usize,
    pub instruction: &'a str,
    pub engine: &'a str,
    pub precision: &'a str,
    pub mse: f64,
    pub mae: f64,
    /// One an action dimension.
    pub panels: Vec<Panel<'a>>,
    /// Steps at which the policy was asked for a new chunk.
    pub inference_points: &'a [usize],
}

/// One action dimension over time.
pub struct Panel<'a> {
    /// The action group it belongs to. Neighbours of one group are kept in one row where they fit.
    pub group: &'a str,
    /// The joint's name, or its group and index.
    pub title: String,
    /// The measured state over the same steps, where the dimension is a joint whose state is known.
    pub state: Option<&'a [f32]>,
    pub ground_truth: &'a [f32],
    pub prediction: &'a [f32],
    pub mse: f64,
}

/// Device pixels a logical pixel: sharp when zoomed, and on dense screens.
const SCALE: f32 = 2.0;
/// Room for a panel's title, above its plot.
const TITLE: f32 = 18.0;
/// Room for the value labels, left of a panel's plot.
const LABELS: f32 = 34.0;

// Distinct in lightness as well as in hue, so that the curves stay apart for any kind of colour vision and in
// grey: near-black, strong blue, pale sand. The ground truth is wider and below, so that it stays visible as an
// outline where the prediction is right.
const GROUND_TRUTH: Line = Line { color: [0x26, 0x2B, 0x33], width: 2.3 };
const PREDICTION: Line = Line { color: [0x1F, 0x8F, 0xFF], width: 1.25 };
const STATE: Line = Line { color: [0xF2, 0xD1, 0x8B], width: 1.5 };
const INFERENCE_POINT: Color = [0xE0, 0x2D, 0x2D];
const DOT_RADIUS: f32 = 2.1;

const INK: Color = [0x1B, 0x1F, 0x24];
const MUTED: Color = [0x6B, 0x74, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const FRAME: Color = [0xC9, 0xCE, 0xD6];
const WHITE: Color = [0xFF; 3];

const HEADING: TextStyle = TextStyle { size: 18.0, weight: Weight::Medium, color: INK, align: Align::Left };
const SUBHEADING: TextStyle =
    TextStyle { size: 13.0, weight: Weight::Regular, color: MUTED, align: Align::Left };
const METRIC: TextStyle = TextStyle { size: 13.0, weight: Weight::Medium, color: INK, align: Align::Left };
const LEGEND: TextStyle = TextStyle { size: 13.0, weight: Weight::Regular, color: INK, align: Align::Left };
const PANEL_TITLE: TextStyle =
    TextStyle { size: 11.5, weight: Weight::Medium, color: INK, align: Align::Left };
const PANEL_ERROR: TextStyle =
    TextStyle { size: 9.5, weight: Weight::Regular, color: MUTED, align: Align::Right };
const TICK: TextStyle = TextStyle { size: 9.5, weight: Weight::Regular, color: MUTED, align: Align::Right };

/// Colour and width of a curve.
struct Line {
    color: Color,
    width: f32,
}

/// Draws an episode and writes it as PNG, making the folder where it is missing.
pub fn write_png(plot: &EpisodePlot, path: &Path) -> Result<()> {
    let png = render(plot).and_then(|canvas| canvas.to_png());
    super::output::write_file(path, &png.with_context(|| format!("drawing {}", path.display()))?)
}

fn render(plot: &EpisodePlot) -> Result<Canvas> {
    ensure!(!plot.panels.is_empty(), "episode {} has no action dimension to plot", plot.episode_index);
    let groups: Vec<&str> = plot.panels.iter().map(|panel| panel.group).collect();
    let grid = Grid::of(&groups);
    let mut canvas = Canvas::new(grid.width, grid.height, SCALE);
    header(&mut canvas, plot, grid.width);

    let longest = plot.panels.iter().map(|panel| panel.ground_truth.len().max(panel.prediction.len())).max();
    let last_step = longest.unwrap_or(0).saturating_sub(1).max(1) as f64;
    for (index, panel) in plot.panels.iter().enumerate() {
        let cell = grid.cell(index);
        let area = Area {
            x: cell.x + LABELS,
            y: cell.y + TITLE,
            width: cell.width - LABELS,
            height: cell.height - TITLE,
        };
        let time = Axis::exactly(0.0, last_step, (area.width / 30.0).clamp(2.0, 10.0) as usize);
        draw_panel(&mut canvas, panel, plot.inference_points, area, &time);
        if grid.is_lowest(index) {
            time_labels(&mut canvas, area, &time);
        }
    }
    Ok(canvas)
}

/// What the picture shows, and its legend.
fn header(canvas: &mut Canvas, plot: &EpisodePlot, width: f32) {
    let (first, second) = (MARGIN + 14.0, MARGIN + 36.0);
    let right = width - MARGIN;

    // An instruction may hold line breaks; the header has one line for it.
    let instruction = plot.instruction.split_whitespace().collect::<Vec<_>>().join(" ");
    let heading = format!("Episode {}", plot.episode_index);
    canvas.text(MARGIN, first, &heading, &HEADING);
    let after = MARGIN + text_width(&heading, &HEADING) + 12.0;
    let quiet = TextStyle { weight: Weight::Regular, color: MUTED, ..HEADING };
    canvas.text(after, first, &fit_text(&instruction, right - after, &quiet), &quiet);

    let metrics = format!("MSE {:.6}    MAE {:.6}", plot.mse, plot.mae);
    canvas.text(MARGIN, second, &metrics, &METRIC);
    let after = MARGIN + text_width(&metrics, &METRIC) + 18.0;
    let legend = legend(canvas, plot, right, second);
    let engine = format!("{}  ·  {}", plot.engine, plot.precision);
    canvas.text(after, second, &fit_text(&engine, legend - after - 18.0, &SUBHEADING), &SUBHEADING);
}

/// Draws the legend ending at `right`; returns where it begins.
fn legend(canvas: &mut Canvas, plot: &EpisodePlot, right: f32, baseline: f32) -> f32 {
    const SAMPLE: f32 = 22.0;
    let middle = baseline - 4.5;
    let mut x = right;
    let mut entry = |canvas: &mut Canvas, label: &str, sample: f32| {
        x -= text_width(label, &LEGEND);
        canvas.text(x, baseline, label, &LEGEND);
        x -= sample + 6.0;
        let begin = x;
        x -= 20.0;
        begin
    };
    // Placed from the right, so the last entry comes first.
    let dot = entry(canvas, "inference point", 2.0 * DOT_RADIUS);
    inference_point(canvas, (dot + DOT_RADIUS, middle), DOT_RADIUS + 0.6);
    let mut lines = vec![("prediction", PREDICTION), ("ground truth", GROUND_TRUTH)];
    if plot.panels.iter().any(|panel| panel.state.is_some()) {
        lines.push(("state", STATE));
    }
    for (label, line) in lines {
        let begin = entry(canvas, label, SAMPLE);
        let around = Area { x: begin - 4.0, y: middle - 4.0, width: SAMPLE + 8.0, height: 8.0 };
        let ends = [(begin, middle), (begin + SAMPLE, middle)];
        canvas.stroke(&ends, line.width + 0.4, line.color, around);
    }
    x + 20.0
}

fn draw_panel(canvas: &mut Canvas, panel: &Panel, inference_points: &[usize], area: Area, time: &Axis) {
    let every = panel.ground_truth.iter().chain(panel.prediction).chain(panel.state.unwrap_or_default());
    let value = Axis::around(every.copied(), (area.height / 38.0).clamp(2.0, 8.0) as usize);
    let place = |step: usize, y: f32| {
        let x = area.x + time.fraction(step as f64) * area.width;
        (x, area.bottom() - value.fraction(f64::from(y)) * area.height)
    };

    for &tick in &value.ticks {
        let y = area.bottom() - value.fraction(tick) * area.height;
        canvas.fill(Area { x: area.x, y, width: area.width, height: 0.5 }, GRID);
        canvas.text(area.x - 5.0, y + 3.4, &value.label(tick), &TICK);
    }
    for &tick in &time.ticks {
        let x = area.x + time.fraction(tick) * area.width;
        canvas.fill(Area { x, y: area.y, width: 0.5, height: area.height }, GRID);
    }
    canvas.fill(Area { height: 0.5, y: area.bottom(), ..area }, FRAME);
    canvas.fill(Area { width: 0.5, ..area }, FRAME);

    panel_title(canvas, panel, area);
    let series = [
        (panel.state.unwrap_or_default(), STATE),
        (panel.ground_truth, GROUND_TRUTH),
        (panel.prediction, PREDICTION),
    ];
    for (values, line) in series {
        for run in finite_runs(values) {
            let points: Vec<(f32, f32)> = run.map(|step| place(step, values[step])).collect();
            canvas.stroke(&points, line.width, line.color, area);
        }
    }
    for &step in inference_points {
        if let Some(&y) = panel.ground_truth.get(step).filter(|y| y.is_finite()) {
            inference_point(canvas, place(step, y), DOT_RADIUS);
        }
    }
}

/// The title, and where it fits the panel's own error, or how many predictions are no numbers.
fn panel_title(canvas: &mut Canvas, panel: &Panel, area: Area) {
    let baseline = area.y - 6.0;
    let title = fit_text(&panel.title, area.width, &PANEL_TITLE);
    canvas.text(area.x, baseline, &title, &PANEL_TITLE);
    let missing = panel.prediction.iter().filter(|value| !value.is_finite()).count();
    let (note, style) = match missing {
        0 => (format!("MSE {}", short_number(panel.mse)), PANEL_ERROR),
        _ => (format!("{missing} not finite"), TextStyle { color: INFERENCE_POINT, ..PANEL_ERROR }),
    };
    let used = text_width(&title, &PANEL_TITLE) + 6.0 + text_width(&note, &style);
    if used <= area.width {
        canvas.text(area.right(), baseline, &note, &style);
    }
}

fn time_labels(canvas: &mut Canvas, area: Area, time: &Axis) {
    let baseline = area.bottom() + 13.0;
    for &tick in &time.ticks {
        let label = time.label(tick);
        let centred = TextStyle { align: Align::Centre, ..TICK };
        let x = area.x + time.fraction(tick) * area.width;
        canvas.text(x, baseline, &label, &centred);
    }
    canvas.text(area.x - 8.0, baseline, "step", &TICK);
}

/// A red dot with a white rim, so that it stands off the curves.
fn inference_point(canvas: &mut Canvas, centre: (f32, f32), radius: f32) {
    canvas.dot(centre, radius + 0.7, WHITE);
    canvas.dot(centre, radius, INFERENCE_POINT);
}

/// The stretches of finite values: a curve has a gap where a value is missing.
fn finite_runs(values: &[f32]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut step = 0;
    std::iter::from_fn(move || {
        let begin = step + values[step..].iter().position(|value| value.is_finite())?;
        let length = values[begin..].iter().take_while(|value| value.is_finite()).count();
        step = begin + length;
        Some(begin..step)
    })
}

/// A few digits, in powers of ten where plain decimals would be mostly zeros.
fn short_number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.001..1.0).contains(&size) => format!("{value:.4}"),
        size if (1.0..10_000.0).contains(&size) => format!("{value:.1}"),
        _ => format!("{value:.1e}"),
    }
}
