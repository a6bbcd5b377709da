//! Flags of the builder, by version, and those that are refused.

use super::ffi::{Product, Version};
use super::target::Target;
use std::fmt;
use std::str::FromStr;
use steadyhand_gr00t::{Error, Result};

/// Numbers of `BuilderFlag`: in TensorRT 8.5 and 8.6, in TensorRT 10, in TensorRT 11 and TensorRT-RTX; none where a version has
/// none.
struct Flag {
    name: &'static str,
    numbers: [Option<i32>; 3],
}

/// Flags that may be set.
static KNOWN: [Flag; 7] = [
    Flag { name: TF32, numbers: [Some(7), Some(6), Some(6)] },
    Flag { name: "refit", numbers: [Some(5), Some(4), Some(4)] },
    Flag { name: "strict-nans", numbers: [None, Some(24), Some(23)] },
    Flag { name: "distributive-independence", numbers: [None, Some(28), Some(27)] },
    Flag { name: FP16, numbers: [Some(0), None, None] },
    Flag { name: OBEY, numbers: [Some(10), None, None] },
    Flag { name: PREFER, numbers: [Some(11), None, None] },
];

const FP16: &str = "fp16";
const OBEY: &str = "obey-precision-constraints";
const PREFER: &str = "prefer-precision-constraints";

/// Allows products of f32 values to round them to 10 bits: on unless it is cleared.
const TF32: &str = "tf32";

/// Flags of TensorRT that choose precisions.
const PRECISION: [&str; 8] = [FP16, "bf16", "int8", "fp8", "int4", PREFER, OBEY, "precision-constraints"];

/// A flag of the builder, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuilderFlag {
    name: &'static str,
}

impl BuilderFlag {
    /// Lets the builder choose fp16 where networks are weakly typed.
    pub const FP16: BuilderFlag = BuilderFlag { name: FP16 };
    /// Fails where no implementation has the precision that a layer is held to.
    pub const OBEY: BuilderFlag = BuilderFlag { name: OBEY };

    /// Whether it holds layers to the graph's types.
    pub(super) fn holds_layers(self) -> bool {
        [OBEY, PREFER].contains(&self.name)
    }

    /// The flag's number in a version.
    ///
    /// # Errors
    /// The version has none, or it would change what a strongly typed graph says of precision.
    pub(super) fn number(self, product: Product, version: Version) -> Result<i32> {
        self.number_in(column(product, version.major), &format!("{product} {version}"))
    }

    /// Refuses a flag that no version of the target has, before any library is looked for.
    ///
    /// # Errors
    /// As of a version; nothing is said of a target whose versions differ.
    pub fn check(self, target: Target) -> Result<()> {
        match target.major() {
            Some(major) => {
                self.number_in(column(target.product, major), &format!("{} {major}", target.product))
            }
            None if target.product == Product::TensorRtRtx => self.number_in(STRONG, "TensorRT-RTX"),
            None => return Ok(()),
        }
        .map(|_| ())
    }

    fn number_in(self, column: usize, version: &str) -> Result<i32> {
        let weak = column == WEAK;
        let flag = KNOWN.iter().find(|flag| flag.name == self.name);
        let number = flag.and_then(|flag| flag.numbers[column]);
        if let Some(number) = number.filter(|_| weak || !self.is_tf32()) {
            return Ok(number);
        }
        let what = match self.name {
            TF32 => "expected none: products that the graph has in f32 would be rounded to TF32; the flag is cleared"
                .to_owned(),
            name if !weak && PRECISION.contains(&name) => format!(
                "{version} has none: its networks are strongly typed. An engine has the precision of its graph, \
                 which is exported with --precision"
            ),
            "int8" => {
                format!("{version} would need a calibrator, or ranges of every tensor, which are not handed over")
            }
            // 8.6 has the flag; no graph for it has such a type.
            "fp8" => format!("{version} has no graph here with such a type"),
            _ => format!("{version} has none"),
        };
        Err(Error::input(format!("builder flag {self}"), what))
    }

    /// The flag that lets products round f32 to TF32.
    pub(super) const ALLOW_TF32: BuilderFlag = BuilderFlag { name: TF32 };

    /// The number of [`BuilderFlag::ALLOW_TF32`] in a version, to clear it: builders begin with it set.
    pub(super) fn tf32_number(product: Product, version: Version) -> Option<i32> {
        let flag = KNOWN.iter().find(|flag| flag.name == TF32)?;
        flag.numbers[column(product, version.major)]
    }

    /// Whether it allows TF32.
    pub(super) fn is_tf32(self) -> bool {
        self == BuilderFlag::ALLOW_TF32
    }
}

/// Column of the versions whose networks are weakly typed.
const WEAK: usize = 0;
/// Column of TensorRT-RTX.
const STRONG: usize = 2;

fn column(product: Product, major: u32) -> usize {
    match (product, major) {
        (Product::TensorRt, 8) => WEAK,
        (Product::TensorRt, 10) => 1,
        _ => STRONG,
    }
}

impl fmt::Display for BuilderFlag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl FromStr for BuilderFlag {
    type Err = Error;

    /// Reads a name as `trtexec` has it, in small letters, of any version: [`BuilderFlag::check`] and a build refuse
    /// what a version has not.
    ///
    /// # Errors
    /// A name that no version has.
    fn from_str(text: &str) -> Result<Self> {
        let mut names = KNOWN.iter().map(|flag| flag.name).chain(PRECISION);
        let found = names.find(|name| *name == text);
        found.map(|name| BuilderFlag { name }).ok_or_else(|| {
            let known: Vec<&str> = KNOWN.iter().map(|flag| flag.name).collect();
            Error::input(format!("builder flag {text}"), format!("expected one of {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str) -> BuilderFlag {
        name.parse().expect("a flag")
    }

    fn of(name: &str, product: Product, major: u32) -> Result<i32> {
        flag(name).number(product, Version { major, minor: 5, patch: 1 })
    }

    #[test]
    fn flags_that_choose_a_precision_are_refused_where_networks_are_strongly_typed() {
        let rtx = "rtx".parse().expect("a target");
        for name in PRECISION {
            let refused = flag(name).check(rtx).expect_err("a refusal").to_string();
            assert!(refused.starts_with(&format!("builder flag {name}: TensorRT-RTX has none")), "{refused}");
            let refused = of(name, Product::TensorRt, 10).expect_err("a refusal").to_string();
            assert!(
                refused.contains("TensorRT 10.5.1 has none: its networks are strongly typed"),
                "{refused}"
            );
        }
        let refused = flag("tf32").check(rtx).expect_err("a refusal").to_string();
        assert!(refused.contains("would be rounded to TF32"), "{refused}");
    }

    #[test]
    fn flags_have_the_numbers_of_their_version() {
        let numbers = |name: &str| {
            let versions = [(Product::TensorRt, 8), (Product::TensorRt, 10), (Product::TensorRtRtx, 1)];
            versions.map(|(product, major)| of(name, product, major).ok())
        };
        assert_eq!(numbers("fp16"), [Some(0), None, None]);
        assert_eq!(numbers("tf32"), [Some(7), None, None]);
        assert_eq!(numbers("strict-nans"), [None, Some(24), Some(23)]);
        let refused = of("bf16", Product::TensorRt, 8).expect_err("a refusal").to_string();
        assert_eq!(refused, "builder flag bf16: TensorRT 8.5.1 has none");
        assert!(
            of("fp8", Product::TensorRt, 8).expect_err("a refusal").to_string().contains("no graph here")
        );
        assert!(of("int8", Product::TensorRt, 8).expect_err("a refusal").to_string().contains("calibrator"));
        let unknown = "fast".parse::<BuilderFlag>().expect_err("a refusal").to_string();
        assert!(unknown.starts_with("builder flag fast: expected one of tf32, refit, "), "{unknown}");
    }
}
