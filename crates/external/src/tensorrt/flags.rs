//! Flags of the builder, and those that are refused.

use std::fmt;
use std::str::FromStr;
use steadyhand_gr00t::{Error, Result};

/// Allows products of f32 values to round them to 10 bits: on unless it is cleared.
pub(super) const TF32: i32 = 6;

/// Flags that may be set: name and `BuilderFlag`.
const KNOWN: [(&str, i32); 3] = [("refit", 4), ("strict-nans", 23), ("distributive-independence", 27)];

/// Flags of TensorRT that chose precisions.
const PRECISION: [&str; 8] = [
    "fp16",
    "bf16",
    "int8",
    "fp8",
    "int4",
    "prefer-precision-constraints",
    "obey-precision-constraints",
    "precision-constraints",
];

/// A flag of the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuilderFlag {
    name: &'static str,
    pub(super) number: i32,
}

impl fmt::Display for BuilderFlag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl FromStr for BuilderFlag {
    type Err = Error;

    /// Reads a name as `trtexec` has it, in small letters.
    ///
    /// # Errors
    /// A flag that would change what the graph says of precision, or an unknown one.
    fn from_str(text: &str) -> Result<Self> {
        if let Some((name, number)) = KNOWN.iter().find(|(name, _)| *name == text) {
            return Ok(BuilderFlag { name, number: *number });
        }
        let field = format!("builder flag {text}");
        if PRECISION.contains(&text) {
            let what = "TensorRT-RTX has none: its networks are strongly typed. An engine has the precision of its \
                        graph, which is exported with --precision";
            return Err(Error::input(field, what));
        }
        if text == "tf32" {
            let what = "expected none: products that the graph has in f32 would be rounded to TF32; the flag is cleared";
            return Err(Error::input(field, what));
        }
        let known = KNOWN.map(|(name, _)| name).join(", ");
        Err(Error::input(field, format!("expected one of {known}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_choose_a_precision_are_refused_by_name() {
        let refusal = |name: &str| name.parse::<BuilderFlag>().expect_err("a refusal").to_string();
        for name in PRECISION {
            let refused = refusal(name);
            assert!(refused.starts_with(&format!("builder flag {name}: TensorRT-RTX has none")), "{refused}");
        }
        assert!(refusal("tf32").contains("would be rounded to TF32"));
        assert!(refusal("fast").ends_with("expected one of refit, strict-nans, distributive-independence"));
        assert_eq!("strict-nans".parse::<BuilderFlag>().expect("known").to_string(), "strict-nans");
    }
}
