//! Text of the page: escaping, and numbers written the same way everywhere.

/// Text as it may stand in HTML, in an attribute too.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// An error: two digits in scientific notation. The minus is ASCII, so that the number can be copied.
pub fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "undefined".to_owned(),
        _ if value.is_infinite() => "∞".to_owned(),
        0.0 => "0".to_owned(),
        _ => format!("{value:.1e}"),
    }
}

/// How many times larger one value is than another.
pub fn times(ratio: f64) -> String {
    match ratio {
        _ if !ratio.is_finite() => number(ratio),
        0.0 => "0×".to_owned(),
        _ if (9.95..9_999.5).contains(&ratio) => format!("{ratio:.0}×"),
        _ if (0.095..9.95).contains(&ratio) => format!("{ratio:.1}×"),
        _ => format!("{ratio:.0e}×"),
    }
}

/// A share, or a change where `sign` is set.
pub fn percent(fraction: f64, sign: bool) -> String {
    let value = fraction * 100.0;
    match value {
        _ if !value.is_finite() => number(value),
        0.0 => "0 %".to_owned(),
        _ if !(0.01..100_000.0).contains(&value.abs()) => format!("{value:.0e} %"),
        _ => {
            let decimals = if value.abs() < 0.1 { 2 } else { usize::from(value.abs() < 100.0) };
            if sign { format!("{value:+.decimals$} %") } else { format!("{value:.decimals$} %") }
        }
    }
}

/// A count with its noun.
pub fn count(number: usize, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {singular}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.00316, 1.0, -12.5].map(number), ["0", "3.2e-3", "1.0e0", "-1.2e1"]);
        assert_eq!([f64::NAN, f64::INFINITY].map(number), ["undefined", "∞"]);
        assert_eq!([0.0, 0.004, 0.97, 12.4, 5e6].map(times), ["0×", "4e-3×", "1.0×", "12×", "5e6×"]);
        assert_eq!(percent(0.0312, false), "3.1 %");
        assert_eq!(percent(0.0312, true), "+3.1 %");
        assert_eq!(percent(-2e-7, true), "-2e-5 %");
        assert_eq!([count(1, "tap"), count(0, "tap")], ["1 tap", "0 taps"]);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape(r#"<a b="c">&'"#), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
    }
}
