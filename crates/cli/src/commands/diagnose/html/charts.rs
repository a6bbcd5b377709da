//! The charts: error over depth, the Euler steps, the actions, the trajectories.

use crate::report::html::axis::Axis;
use crate::report::html::plot::{Plot, legend, svg};
use crate::report::html::text::{escape, number};
use steadyhand_gr00t_lab::diagnosis::{ActionError, EulerSplit, TapError, Trajectory};

/// Points of the curve over depth: more taps share points.
const MOST_POINTS: usize = 400;
/// Panels of trajectories.
const MOST_PANELS: usize = 32;

/// Total error against what rounding gives, tap by tap in the order of execution.
pub fn depth(taps: &[TapError]) -> String {
    let points: Vec<&[TapError]> = taps.chunks(taps.len().div_ceil(MOST_POINTS).max(1)).collect();
    let worst = |value: fn(&TapError) -> f64| -> Vec<f64> {
        // NaN counts as the worst: f64::max would drop it.
        let larger = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
        points.iter().map(|taps| taps.iter().map(value).fold(0.0, larger)).collect()
    };
    let (total, expected) = (worst(|tap| tap.total), worst(|tap| tap.expected));
    let axis = Axis::logarithmic(total.iter().chain(&expected).copied());
    let plot = Plot { left: 56.0, top: 26.0, width: 976.0, height: 200.0, axis };
    let hovers = points.iter().enumerate().map(|(index, taps)| {
        let tap = taps.iter().reduce(|a, b| if b.total > a.total { b } else { a }).unwrap_or(&taps[0]);
        let title =
            format!("{}: total {}, rounding {}", escape(&tap.name), number(tap.total), number(tap.expected));
        plot.hover(index, points.len(), &title)
    });
    let body = [
        regions(&plot, &points),
        plot.grid(6),
        plot.curve("b", &total),
        plot.curve("expected", &expected),
        hovers.collect(),
    ];
    svg(1040.0, 234.0, "Total error over depth", &body.concat())
        + &legend(&[("b", "total error"), ("expected", "what rounding gives")])
}

/// Names of the parts and steps along the top, with lines between them.
fn regions(plot: &Plot, points: &[&[TapError]]) -> String {
    let name = |taps: &[TapError]| match taps[0].step {
        Some(step) => format!("step {step}"),
        None => taps[0].part.clone(),
    };
    let width = plot.width / points.len().max(1) as f64;
    let (mut start, mut body) = (0, String::new());
    for region in points.chunk_by(|a, b| name(a) == name(b)) {
        let (x, span) = (plot.left + start as f64 * width, region.len() as f64 * width);
        if start > 0 {
            body +=
                &format!(r#"<path class="part" d="M{x:.1} {:.1}V{:.1}"/>"#, plot.top - 16.0, plot.bottom());
        }
        let name = name(region[0]);
        if span > 7.0 * name.chars().count() as f64 + 6.0 {
            body += &format!(
                r#"<text class="tick" x="{:.1}" y="{:.1}">{}</text>"#,
                x + 5.0,
                plot.top - 7.0,
                escape(&name)
            );
        }
        start += region.len();
    }
    body
}

/// What each Euler step adds, hands on, and leaves in the final actions.
pub fn euler(split: &EulerSplit) -> String {
    let values = split.steps.iter().flat_map(|step| [step.injected, step.propagated, step.contribution]);
    let plot = Plot { left: 56.0, top: 12.0, width: 976.0, height: 170.0, axis: Axis::from_zero(values) };
    let count = split.steps.len();
    let room = plot.width / count.max(1) as f64;
    let bar = (room * 0.24).min(42.0);
    let mut body = plot.grid(4);
    for (index, step) in split.steps.iter().enumerate() {
        let bars = [
            ("b", "injected", step.injected),
            ("a", "propagated", step.propagated),
            ("third", "contribution", step.contribution),
        ];
        for (offset, (class, name, value)) in bars.into_iter().enumerate() {
            let x = plot.x(index, count) + (offset as f64 - 1.5) * bar;
            // What has no height is drawn as high as the plot, hatched.
            let (y, class) = plot.y(value).map_or((plot.top, "h8"), |y| (y, class));
            body += &format!(
                r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}">
<title>step {}: {name} {}</title></rect>"#,
                (bar - 1.0).max(0.5),
                plot.bottom() - y,
                step.step,
                number(value)
            );
        }
    }
    body += &plot.columns(count, "step ");
    svg(1040.0, 206.0, "Error by Euler step", &body)
        + &legend(&[
            ("b", "injected: what the step itself adds"),
            ("a", "propagated: what it makes of the error it was handed"),
            ("third", "contribution: the injected error after the remaining steps"),
        ])
}

/// Physical error by joint group.
pub fn groups(groups: &[(String, f64)]) -> String {
    const ROW: f64 = 24.0;
    const LABELS: f64 = 130.0;
    let axis = Axis::from_zero(groups.iter().map(|(_, error)| *error));
    let mut body = String::new();
    for (index, (name, error)) in groups.iter().enumerate() {
        let y = index as f64 * ROW + 4.0;
        let (length, class) = axis.fraction(*error).map_or((300.0, "h8"), |f| (300.0 * f, "b"));
        body += &format!(
            r#"<text class="site end" x="{:.1}" y="{:.1}">{}</text>
<rect class="{class}" x="{LABELS}" y="{y:.1}" width="{:.1}" height="14" rx="2"/>
<text class="value" x="{:.1}" y="{:.1}">{}</text>"#,
            LABELS - 8.0,
            y + 11.0,
            escape(name),
            length.max(1.0),
            LABELS + length + 7.0,
            y + 11.0,
            number(*error)
        );
    }
    svg(500.0, groups.len() as f64 * ROW + 6.0, "Action error by joint group", &body)
}

/// Relative error by position in the chunk, over what rounding gives for all of them.
pub fn positions(actions: &ActionError) -> String {
    let errors = &actions.chunk_positions;
    let axis = Axis::from_zero(errors.iter().copied().chain([actions.expected]));
    let plot = Plot { left: 50.0, top: 8.0, width: 440.0, height: 150.0, axis };
    let hover = |(index, error): (usize, &f64)| {
        plot.hover(index, errors.len(), &format!("position {index}: {}", number(*error)))
    };
    let body = [
        plot.grid(4),
        plot.columns(errors.len(), ""),
        plot.curve("expected", &vec![actions.expected; errors.len()]),
        plot.curve("b", errors),
        errors.iter().enumerate().map(hover).collect(),
    ];
    svg(500.0, 182.0, "Action error by position in the chunk", &body.concat())
        + &legend(&[("b", "action error"), ("expected", "what rounding gives over all positions")])
}

/// Panels of the dimensions that differ most, in their own order.
pub fn trajectories(trajectories: &[Trajectory]) -> String {
    let mut shown: Vec<(f64, usize, &Trajectory)> =
        trajectories.iter().enumerate().map(|(index, panel)| (difference(panel), index, panel)).collect();
    shown.sort_by(|a, b| b.0.total_cmp(&a.0));
    shown.truncate(MOST_PANELS);
    shown.sort_by_key(|&(_, index, _)| index);
    let panels: String = shown.iter().map(|(_, _, trajectory)| panel(trajectory)).collect();
    let left_out = match trajectories.len() - shown.len() {
        0 => String::new(),
        more => format!(r#"<p class="quiet">The {more} dimensions that differ least are not shown.</p>"#),
    };
    legend(&[("recorded", "recorded"), ("a", "a, the reference"), ("b", "b, the engine")])
        + &format!(r#"<div class="panels">{panels}</div>{left_out}"#)
}

/// The largest distance of b from a, relative to the span of what is recorded and of a.
fn difference(panel: &Trajectory) -> f64 {
    let distance = panel.a.iter().zip(&panel.b).map(|(a, b)| f64::from(*a) - f64::from(*b));
    // Not finite is further than anything finite.
    let distance = distance.map(|d| if d.is_finite() { d.abs() } else { f64::INFINITY }).fold(0.0, f64::max);
    let values = panel.recorded.iter().chain(&panel.a).map(|&value| f64::from(value));
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    distance / (high - low).max(1e-6)
}

/// One dimension.
fn panel(trajectory: &Trajectory) -> String {
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&value| f64::from(value)).collect() };
    let [recorded, a, b] = [&trajectory.recorded, &trajectory.a, &trajectory.b].map(|values| wide(values));
    let axis = Axis::around(recorded.iter().chain(&a).chain(&b).copied());
    let plot = Plot { left: 36.0, top: 27.0, width: 210.0, height: 84.0, axis };
    let body = [
        format!(r#"<text class="name" x="2" y="13">{}</text>"#, escape(&trajectory.name)),
        plot.grid(3),
        plot.curve("recorded", &recorded),
        plot.curve("a", &a),
        plot.curve("b", &b),
    ];
    svg(250.0, 117.0, &escape(&trajectory.name), &body.concat())
}
