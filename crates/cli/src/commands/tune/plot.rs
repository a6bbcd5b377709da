//! The picture of a tuning: cost against error of every policy, and what single groups add to the error.

use crate::report::axis::Axis;
use crate::report::canvas::{Align, Area, Canvas, Color, TextStyle, Weight, fit_text, text_width};
use crate::report::output::write_file;
use anyhow::{Context, Result};
use std::path::Path;
use steadyhand_gr00t_lab::tuning::{BASELINE, MeasuredPolicy, Outcome, Unit};

const SIZE: (f32, f32) = (960.0, 760.0);
const SCALE: f32 = 2.0;
const INK: Color = [0x26, 0x2B, 0x33];
const MUTED: Color = [0x6B, 0x72, 0x80];
const GRID: Color = [0xE8, 0xEB, 0xEF];
const PRESET: Color = [0x26, 0x2B, 0x33];
const TUNED: Color = [0x1E, 0x88, 0xE5];
const CHOSEN: Color = [0xE0, 0x2D, 0x2D];
/// Vision, language, DiT, what lies between them.
const SECTIONS: [(&str, Color); 4] = [
    ("vision", [0xE6, 0x9F, 0x00]),
    ("language", [0x00, 0x9E, 0x73]),
    ("dit", [0x1E, 0x88, 0xE5]),
    ("other", [0x6B, 0x72, 0x80]),
];

/// A policy much more expensive than the baseline, as f32 is, would push all others together: it stands at the edge.
const WIDEST: f64 = 1.5;

/// Draws a tuning of the checkpoint `name` and writes it as PNG.
pub fn write_png(outcome: &Outcome, name: &str, path: &Path) -> Result<()> {
    let mut canvas = Canvas::new(SIZE.0, SIZE.1, SCALE);
    let of = &outcome.of;
    canvas.text(24.0, 34.0, "Precision policies: cost against error", &style(18.0, Weight::Medium, INK));
    let subtitle =
        format!("{name}, {} ({}), budget {}, {} frames", of.target, of.device, outcome.budget, of.frames);
    let quiet = style(13.0, Weight::Regular, MUTED);
    canvas.text(24.0, 56.0, &fit_text(&subtitle, SIZE.0 - 48.0, &quiet), &quiet);
    policies(&mut canvas, outcome, Area { x: 80.0, y: 92.0, width: 850.0, height: 360.0 });
    sensitivities(&mut canvas, outcome, Area { x: 80.0, y: 545.0, width: 850.0, height: 160.0 });
    let png = canvas.to_png().with_context(|| format!("drawing {}", path.display()))?;
    write_file(path, &png)
}

fn style(size: f32, weight: Weight, color: Color) -> TextStyle {
    TextStyle { size, weight, color, align: Align::Left }
}

/// A logarithmic axis of whole decades around positive values.
struct Decades {
    axis: Axis,
    low: i32,
    high: i32,
}

impl Decades {
    fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let logs = values.filter(|value| *value > 0.0 && value.is_finite()).map(f64::log10);
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return None;
        }
        let (low, high) = (low.floor() as i32, (high.ceil() as i32).max(low.floor() as i32 + 1));
        Some(Decades { axis: Axis::exactly(f64::from(low), f64::from(high), 6), low, high })
    }

    fn y(&self, area: Area, value: f64) -> f32 {
        area.bottom() - self.axis.fraction(value.log10()) * area.height
    }

    fn draw(&self, canvas: &mut Canvas, area: Area) {
        let tick = TextStyle { align: Align::Right, ..style(10.0, Weight::Regular, MUTED) };
        for decade in self.low..=self.high {
            let y = self.y(area, 10f64.powi(decade));
            canvas.fill(Area { y, height: 0.5, ..area }, GRID);
            canvas.text(area.x - 8.0, y + 3.5, &format!("1e{decade}"), &tick);
        }
    }
}

/// Where costs and errors lie in a panel.
struct Plane {
    area: Area,
    costs: Axis,
    errors: Decades,
    /// A unit of the axis in units of cost.
    unit: f64,
    /// The largest cost with a place of its own.
    widest: f64,
}

impl Plane {
    /// None where no policy has an error above zero.
    fn new(outcome: &Outcome, area: Area) -> Option<Self> {
        let errors = outcome.policies.iter().filter_map(|policy| policy.error);
        let errors = Decades::around(errors.chain([outcome.allowed_error]))?;
        let unit = if outcome.cost_unit == Unit::Bytes { 1e6 } else { 1.0 };
        let widest = outcome.of_preset(BASELINE).map_or(f64::INFINITY, |baseline| baseline.cost * WIDEST);
        let near = outcome.policies.iter().map(|policy| policy.cost).filter(|cost| *cost <= widest);
        let costs = Axis::around(near.map(|cost| (cost / unit) as f32), 8);
        Some(Plane { area, costs, errors, unit, widest })
    }

    /// An error of zero, that of f32, lies on the lower edge.
    fn place(&self, policy: &MeasuredPolicy) -> Option<(f32, f32)> {
        let error = policy.error?;
        let x = match policy.cost <= self.widest {
            true => self.area.x + self.costs.fraction(policy.cost / self.unit) * self.area.width,
            false => self.area.right(),
        };
        Some((x, if error > 0.0 { self.errors.y(self.area, error) } else { self.area.bottom() }))
    }

    fn draw(&self, canvas: &mut Canvas, outcome: &Outcome) {
        let area = self.area;
        self.errors.draw(canvas, area);
        let tick = TextStyle { align: Align::Centre, ..style(10.0, Weight::Regular, MUTED) };
        for &value in &self.costs.ticks {
            let x = area.x + self.costs.fraction(value) * area.width;
            canvas.fill(Area { x, width: 0.5, ..area }, GRID);
            canvas.text(x, area.bottom() + 15.0, &self.costs.label(value), &tick);
        }
        let million = if outcome.cost_unit == Unit::Bytes { ", millions" } else { "" };
        let end = TextStyle { align: Align::Right, ..style(11.0, Weight::Regular, MUTED) };
        let unit = format!("{}{million}", outcome.cost_unit.label());
        canvas.text(area.right(), area.bottom() + 32.0, &unit, &end);
        let y = self.errors.y(area, outcome.allowed_error);
        canvas.stroke(&[(area.x, y), (area.right(), y)], 1.0, CHOSEN, area);
        canvas.text(area.right(), y - 4.0, &outcome.budget, &TextStyle { color: CHOSEN, ..end });
    }
}

/// Cost to the right, error upwards.
fn policies(canvas: &mut Canvas, outcome: &Outcome, area: Area) {
    let cost = match outcome.cost_unit {
        Unit::Milliseconds => "milliseconds per inference",
        Unit::Bytes => "bytes per inference (counted; no time of any device)",
    };
    let of = outcome.preset;
    let heading =
        format!("error of the physical actions, times {of}'s in the worst joint group, against {cost}");
    canvas.text(area.x, area.y - 12.0, &heading, &style(12.0, Weight::Medium, INK));
    let Some(plane) = Plane::new(outcome, area) else { return };
    plane.draw(canvas, outcome);
    let front = outcome.pareto.iter().map(|index| &outcome.policies[*index]);
    let near =
        front.filter(|policy| policy.cost <= plane.widest && policy.error.is_some_and(|error| error > 0.0));
    let front: Vec<(f32, f32)> = near.filter_map(|policy| plane.place(policy)).collect();
    canvas.stroke(&front, 1.2, TUNED, area);
    let mut labels = Vec::new();
    for (index, policy) in outcome.policies.iter().enumerate() {
        let Some(place) = plane.place(policy) else { continue };
        let preset = policy.base.is_none();
        let (color, radius) = match (index == outcome.chosen, preset) {
            (true, _) => (CHOSEN, 5.0),
            (false, true) => (PRESET, 3.6),
            _ => (TUNED, 2.6),
        };
        canvas.dot(place, radius, color);
        if preset || index == outcome.chosen {
            let far = match policy.cost > plane.widest {
                true => format!(": {:.1}, off the axis", policy.cost / plane.unit),
                false => String::new(),
            };
            label(canvas, area, place, &format!("{}{far}", policy.name), color, &mut labels);
        }
    }
}

/// A name beside its dot, on the side where there is room, clear of the names before it.
fn label(
    canvas: &mut Canvas,
    area: Area,
    (x, y): (f32, f32),
    name: &str,
    color: Color,
    others: &mut Vec<Area>,
) {
    let style = style(11.0, Weight::Medium, color);
    let width = text_width(name, &style);
    let left = if x + 8.0 + width > area.right() { x - 8.0 - width } else { x + 8.0 };
    let at = |offset: f32| Area { x: left, y: y + offset, width, height: 12.0 };
    let apart =
        |a: &Area, b: &Area| a.right() <= b.x || b.right() <= a.x || a.bottom() <= b.y || b.bottom() <= a.y;
    let free =
        [-5.0, -17.0, 14.0].map(at).into_iter().find(|place| others.iter().all(|other| apart(place, other)));
    let place = free.unwrap_or(at(-5.0));
    canvas.text(place.x, place.y, name, &style);
    others.push(place);
}

/// What each group that was measured by itself adds to the error, in the order of the model.
fn sensitivities(canvas: &mut Canvas, outcome: &Outcome, area: Area) {
    let title = style(12.0, Weight::Medium, INK);
    canvas.text(
        area.x,
        area.y - 26.0,
        "error that a format adds in a single group of sites, by layer within each kind",
        &title,
    );
    let best = outcome.of_preset(outcome.best_base).and_then(|policy| policy.error).unwrap_or(0.0);
    let added = |error: f64| (error.powi(2) - best.powi(2)).max(0.0).sqrt();
    let values: Vec<(usize, f64, &str)> = outcome
        .groups
        .iter()
        .filter_map(|effect| {
            let section = SECTIONS.iter().position(|(name, _)| effect.group.starts_with(name)).unwrap_or(3);
            Some((section, effect.error.map(added).filter(|added| *added > 0.0)?, &*effect.kind))
        })
        .collect();
    let Some(errors) = Decades::around(values.iter().map(|(_, value, _)| *value)) else {
        let none = style(11.0, Weight::Regular, MUTED);
        let why = match outcome.cut_short {
            true => "time was up before single groups were measured",
            false => "no format saves anything on this target",
        };
        canvas.text(area.x, area.y + 20.0, why, &none);
        return;
    };
    errors.draw(canvas, area);
    let step = area.width / values.len().max(1) as f32;
    for (index, (section, value, kind)) in values.iter().enumerate() {
        if index > 0 && values[index - 1].2 != *kind {
            canvas.fill(Area { x: area.x + index as f32 * step, width: 0.5, ..area }, GRID);
        }
        let centre = (area.x + (index as f32 + 0.5) * step, errors.y(area, *value));
        canvas.dot(centre, 1.8, SECTIONS[*section].1);
    }
    let mut x = area.x;
    for (name, color) in SECTIONS {
        let style = style(11.0, Weight::Medium, color);
        canvas.text(x, area.bottom() + 16.0, name, &style);
        x += text_width(name, &style) + 18.0;
    }
}
