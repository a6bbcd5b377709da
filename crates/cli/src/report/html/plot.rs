//! A plot's frame: where values lie on it, its grid lines and its curves.

use super::axis::Axis;

/// The area that values are drawn in, and what its height means.
#[derive(Debug)]
pub struct Plot {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub axis: Axis,
}

impl Plot {
    pub fn right(&self) -> f64 {
        self.left + self.width
    }

    pub fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// The height of a value; none where it is not finite.
    pub fn y(&self, value: f64) -> Option<f64> {
        self.axis.fraction(value).map(|fraction| self.bottom() - fraction * self.height)
    }

    /// The middle of one of `count` equal columns.
    pub fn x(&self, index: usize, count: usize) -> f64 {
        self.left + (index as f64 + 0.5) * self.width / count.max(1) as f64
    }

    /// Horizontal lines at about `most` ticks, with their labels.
    pub fn grid(&self, most: usize) -> String {
        let lines = self.axis.ticks(most).into_iter().filter_map(|(tick, label)| {
            let y = self.y(tick)?;
            Some(format!(
                r#"<path class="grid" d="M{:.1} {y:.1}H{:.1}"/>
<text class="tick end" x="{:.1}" y="{:.1}">{label}</text>"#,
                self.left,
                self.right(),
                self.left - 6.0,
                y + 3.5
            ))
        });
        lines.collect()
    }

    /// Numbers below `count` columns, every so many that they stay apart.
    pub fn columns(&self, count: usize, name: &str) -> String {
        let room = 34.0 + 6.0 * name.len() as f64;
        let every = (count as f64 * room / self.width).ceil().max(1.0) as usize;
        let text = |index: usize| {
            let (x, y) = (self.x(index, count), self.bottom() + 16.0);
            format!(r#"<text class="tick mid" x="{x:.1}" y="{y:.1}">{name}{index}</text>"#)
        };
        (0..count).step_by(every).map(text).collect()
    }

    /// A curve through one value a column. Where a value is not finite the curve is interrupted, and a mark at
    /// the top says so.
    pub fn curve(&self, class: &str, values: &[f64]) -> String {
        let (mut path, mut marks, mut pen_down) = (String::new(), String::new(), false);
        for (index, &value) in values.iter().enumerate() {
            let x = self.x(index, values.len());
            match self.y(value) {
                // A line of no length, so that a point between two gaps is seen.
                Some(y) if !pen_down => path += &format!("M{x:.1} {y:.1}h0"),
                Some(y) => path += &format!("L{x:.1} {y:.1}"),
                None => marks += &format!("M{:.1} {:.1}l3 5h-6z", x, self.top),
            }
            pen_down = self.y(value).is_some();
        }
        let marks = match marks.is_empty() {
            true => String::new(),
            false => format!(r#"<path class="gap" d="{marks}"><title>not finite</title></path>"#),
        };
        format!(r#"<path class="line {class}" d="{path}"/>{marks}"#)
    }

    /// An invisible column that says its values when pointed at.
    pub fn hover(&self, index: usize, count: usize, title: &str) -> String {
        let width = self.width / count.max(1) as f64;
        format!(
            r#"<rect class="hover" x="{:.1}" y="{:.1}" width="{width:.1}" height="{:.1}">
<title>{title}</title></rect>"#,
            self.left + index as f64 * width,
            self.top,
            self.height
        )
    }
}

/// Names of curves or bars, each with its colour.
pub fn legend(entries: &[(&str, &str)]) -> String {
    let entries = entries.iter().map(|(class, name)| format!(r#"<li><i class="{class}"></i>{name}</li>"#));
    format!(r#"<ul class="legend">{}</ul>"#, entries.collect::<String>())
}

/// An SVG of this size.
pub fn svg(width: f64, height: f64, label: &str, body: &str) -> String {
    format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_interrupted_where_values_are_not_finite() {
        let axis = Axis::from_zero([1.0].into_iter());
        let plot = Plot { left: 0.0, top: 0.0, width: 40.0, height: 10.0, axis };
        let curve = plot.curve("b", &[0.0, f64::NAN, 0.0, f64::INFINITY]);
        assert!(curve.contains(r#"d="M5.0 10.0h0M25.0 10.0h0""#), "{curve}");
        assert!(curve.contains(r#"d="M15.0 0.0l3 5h-6zM35.0 0.0l3 5h-6z""#), "{curve}");
    }
}
