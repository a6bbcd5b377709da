//! What error a tuned policy may have.

use std::fmt;
use std::str::FromStr;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// `error<=Kx PRESET`: at most K times the error that the preset has on the same frames and target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// K.
    pub factor: f64,
    /// The preset's name.
    pub preset: &'static str,
}

impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let presets = PrecisionPolicy::PRESETS.iter().filter(|name| **name != "f32").copied();
            let presets = presets.collect::<Vec<_>>().join(", ");
            let what = format!(
                "expected `error<=Kx PRESET`, such as `error<=1.0x bf16`, with K a number above 0 and PRESET one of \
                 {presets}, found `{text}`"
            );
            Error::input("budget", what)
        };
        let rest = text.trim().strip_prefix("error").map(str::trim_start).and_then(|r| r.strip_prefix("<="));
        let (factor, preset) = rest.and_then(|rest| rest.trim().split_once('x')).ok_or_else(refuse)?;
        // The error of f32 is measured against itself: zero, which no other policy reaches.
        let known =
            PrecisionPolicy::PRESETS.into_iter().find(|name| *name == preset.trim() && *name != "f32");
        let spaced = preset.starts_with(char::is_whitespace);
        match (factor.trim().parse::<f64>(), known) {
            (Ok(factor), Some(preset)) if factor.is_finite() && factor > 0.0 && spaced => {
                Ok(Budget { factor, preset })
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "error<={:?}x {}", self.factor, self.preset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_its_documentation() {
        let parsed = |text: &str| text.parse::<Budget>().expect(text);
        assert_eq!(parsed("error<=1.0x bf16"), Budget { factor: 1.0, preset: "bf16" });
        assert_eq!(parsed(" error <= 2x mixed-fp16 "), Budget { factor: 2.0, preset: "mixed-fp16" });
        assert_eq!(parsed("error<=0.5x bf16").to_string(), "error<=0.5x bf16");
        for text in [
            "",
            "error",
            "error<1x bf16",
            "error<=x bf16",
            "error<=0x bf16",
            "error<=-1x bf16",
            "error<=infx bf16",
            "error<=1 bf16",
            "error<=1x",
            "error<=1xbf16",
            "error<=1x f32",
            "error<=1x fp4",
            "latency<=8ms",
            "error<=1x bf16 fp16",
            "error<=NaNx bf16",
        ] {
            let error = text.parse::<Budget>().expect_err(text).to_string();
            assert!(
                error.contains("error<=1.0x bf16") && error.contains(&format!("found `{text}`")),
                "{error}"
            );
        }
    }
}
