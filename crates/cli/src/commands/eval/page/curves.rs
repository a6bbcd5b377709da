//! The joints of an episode as SVG, which the page's script zooms by its view box.

use crate::commands::eval::journal::{CurveLayout, Curves};
use crate::report::EpisodeReport;
use crate::report::html::axis::Axis;
use crate::report::html::plot;
use crate::report::html::text::{escape, number};
use crate::report::metrics;

/// Height of a plot's coordinates. A step is as wide as 1.
const HEIGHT: f64 = 100.0;

/// Names of the curves.
pub fn legend(with_state: bool) -> String {
    let mut entries = vec![("recorded", "recorded"), ("b", "predicted")];
    if with_state {
        entries.push(("state", "state"));
    }
    entries.push(("asked", "inference"));
    plot::legend(&entries)
        + "<p class=\"quiet hint\">Point at a plot to see its values and the camera; drag along it to zoom its joint \
           group, double-click to see all of it again.</p>"
}

/// Every joint group with its joints.
pub fn groups(report: &EpisodeReport, layout: &CurveLayout, curves: &Curves) -> String {
    let mut column = 0;
    let mut body = String::new();
    for (group, joints) in &layout.groups {
        let error = report.groups.iter().find(|error| error.name == *group).map_or(0.0, |error| error.mse);
        let mut panels = String::new();
        for joint in joints {
            panels += &panel(joint, column, layout, curves);
            column += 1;
        }
        body += &format!(
            "<div class=\"group\"><h3>{} <span class=\"quiet\">MSE {error:.6}</span> \
             <button type=\"button\" class=\"whole\" hidden>whole episode</button></h3>\
             <div class=\"joints\">{panels}</div></div>",
            escape(group)
        );
    }
    body
}

/// One joint over time.
fn panel(joint: &str, column: usize, layout: &CurveLayout, curves: &Curves) -> String {
    let wide =
        |values: &[f32]| -> Vec<f64> { curves.column(values, column).into_iter().map(f64::from).collect() };
    let (recorded, predicted) = (wide(&curves.recorded), wide(&curves.predicted));
    let state = curves.state.as_deref().map(wide).unwrap_or_default();
    let axis = Axis::around(recorded.iter().chain(&predicted).chain(&state).copied());
    let y = |value: f64| axis.fraction(value).map(|fraction| (1.0 - fraction) * HEIGHT);
    let path = |class: &str, values: &[f64]| {
        let points = values.iter().enumerate().filter_map(|(step, value)| Some((step, y(*value)?)));
        let points: Vec<String> = points.map(|(step, y)| format!("{step} {y:.1}")).collect();
        format!("<path class=\"line {class}\" d=\"M{}\"/>", points.join("L"))
    };
    let asked: String = layout.inference_points.iter().map(|step| format!("M{step} 0v{HEIGHT}")).collect();
    let mut lines = String::new();
    let mut labels = String::new();
    for (tick, label) in axis.ticks(3) {
        let Some(y) = y(tick) else { continue };
        lines += &format!("M0 {y:.1}h{}", recorded.len());
        labels += &format!("<span style=\"top:{y:.1}%\">{label}</span>");
    }
    let differences =
        recorded.iter().zip(&predicted).map(|(recorded, predicted)| (recorded - predicted).powi(2));
    let mse = metrics::mean(&differences.collect::<Vec<_>>()).unwrap_or_default();
    let states = if state.is_empty() { String::new() } else { path("state", &state) };
    let last = recorded.len().saturating_sub(1).max(1);
    // A value is read off the curve: where the axis ends is all that takes.
    let (low, high) = axis.ends();
    format!(
        "<figure class=\"joint\"><figcaption>{} <span class=\"quiet read\">MSE {}</span></figcaption>\
         <div class=\"plot\"><div class=\"values\">{labels}</div>\
         <svg viewBox=\"0 0 {last} {HEIGHT}\" preserveAspectRatio=\"none\" data-low=\"{low:e}\" data-high=\"{high:e}\" \
         role=\"img\" aria-label=\"{}\"><path class=\"grid\" d=\"{lines}\"/><path class=\"asked\" d=\"{asked}\"/>\
         {states}{}{}<path class=\"cursor\" d=\"\"/></svg><div class=\"steps\"><span>0</span><span>{last}</span></div>\
         </div></figure>",
        escape(joint),
        number(mse),
        escape(joint),
        path("recorded", &recorded),
        path("b", &predicted)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_is_drawn_with_its_name_escaped() {
        let layout =
            CurveLayout { groups: vec![("<arm>".into(), vec!["a&b".into()])], inference_points: vec![0, 2] };
        let curves = Curves {
            columns: 1,
            predicted: vec![0.0, 1.0, f32::NAN, 1.0],
            recorded: vec![0.0, 1.0, 0.0, 1.0],
            state: None,
        };
        let report = EpisodeReport {
            episode_index: 0,
            mse: 0.0,
            mae: 0.0,
            steps: 4,
            inferences: 2,
            instruction: String::new(),
            decoded_by: "native".to_owned(),
            plot: None,
            episode_load_seconds: 0.0,
            data_preparation_seconds: vec![],
            inference_seconds: vec![],
            groups: vec![],
            noise_confirmed: None,
        };
        let drawn = groups(&report, &layout, &curves);
        assert!(drawn.contains("&lt;arm&gt;") && drawn.contains("a&amp;b") && !drawn.contains("<arm>"));
        assert!(drawn.contains("M0 0v100M2 0v100"), "{drawn}");
        assert_eq!(drawn.matches("class=\"line").count(), 2);
        assert!(!drawn.contains("NaN"));
    }
}
