//! Whose engines are built, and for which version.

use super::ffi::{Product, Version};
use std::fmt;
use std::str::FromStr;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::export::DEFAULT_OPSET;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::ops::onnx::OPSETS;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// What an engine is built for: `rtx`, `tensorrt`, `tensorrt:10` or `tensorrt:8.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Whose library.
    pub product: Product,
    /// Its major and minor version, as far as they were asked for.
    version: [Option<u32>; 2],
}

impl Target {
    /// Any version of a product.
    pub fn any(product: Product) -> Self {
        Target { product, version: [None; 2] }
    }

    /// The target of what built an engine, from its record: `TensorRT 8.5.3`.
    pub fn of_builder(builder: &str) -> Option<Self> {
        let (name, _) = builder.split_once(' ')?;
        let product = [Product::TensorRt, Product::TensorRtRtx].into_iter();
        product.map(Target::any).find(|target| target.product.name() == name)
    }

    /// The major version that was asked for.
    pub(super) fn major(self) -> Option<u32> {
        self.version[0]
    }

    /// Whether graphs for it are those of TensorRT 8: no bf16, no int64, no LayerNormalization.
    pub fn is_tensorrt_8(self) -> bool {
        (self.product, self.major()) == (Product::TensorRt, Some(8))
    }

    /// The opset that its parsers read and that has its operators: for TensorRT 8 the first one.
    pub fn opset(self) -> i64 {
        if self.is_tensorrt_8() { *OPSETS.start() } else { DEFAULT_OPSET }
    }

    /// Refuses a policy with formats that the version has no type for.
    ///
    /// # Errors
    /// The first site with bf16, for TensorRT 8.
    pub fn check(self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        let has_bf16 = |site: &&ModelSite| {
            let formats = policy.formats_of(&site.path);
            let compute = site.operation.multiplies().then_some(formats.compute);
            [Some(formats.storage), compute].contains(&Some(Format::Bf16))
        };
        match sites.iter().find(has_bf16).filter(|_| self.is_tensorrt_8()) {
            Some(site) => {
                let what = format!(
                    "site `{}`: bf16: TensorRT 8 has no such type; f32, fp16 and mixed-fp16 have none of it",
                    site.path
                );
                Err(Error::input(format!("precision {}", policy.name()), what))
            }
            None => Ok(()),
        }
    }

    /// Refuses an optimization level, before any library is looked for, for a version that has none.
    ///
    /// # Errors
    /// TensorRT 8.5.
    pub fn check_optimization_level(self) -> Result<()> {
        if (self.product, self.version) != (Product::TensorRt, [Some(8), Some(5)]) {
            return Ok(());
        }
        let what = "TensorRT 8.5 has none: 8.6 and later versions have";
        Err(Error::input("optimization level", what))
    }

    /// Whether this version is asked for.
    pub(super) fn takes(&self, version: Version) -> bool {
        let found = [version.major, version.minor];
        self.version.iter().zip(found).all(|(asked, found)| asked.is_none_or(|asked| asked == found))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.product {
            Product::TensorRt => "tensorrt",
            Product::TensorRtRtx => "rtx",
        })?;
        match self.version {
            [Some(major), Some(minor)] => write!(formatter, ":{major}.{minor}"),
            [Some(major), None] => write!(formatter, ":{major}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    /// # Errors
    /// Another form.
    fn from_str(text: &str) -> Result<Self> {
        let (name, version) =
            text.split_once(':').map_or((text, None), |(name, version)| (name, Some(version)));
        let product = match name {
            "tensorrt" => Some(Product::TensorRt),
            "rtx" => Some(Product::TensorRtRtx),
            _ => None,
        };
        let numbers: Option<Vec<u32>> = version
            .map_or(Some(Vec::new()), |version| version.split('.').map(|part| part.parse().ok()).collect());
        match (product, numbers.as_deref()) {
            (Some(product), Some(numbers)) if numbers.len() <= 2 => {
                Ok(Target { product, version: [numbers.first().copied(), numbers.get(1).copied()] })
            }
            _ => {
                let what = format!(
                    "expected rtx, tensorrt or tensorrt:VERSION, such as tensorrt:8.5, found `{text}`"
                );
                Err(Error::input("target", what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_take_their_versions() {
        let target = |text: &str| text.parse::<Target>().expect("a target");
        let version = |major, minor| Version { major, minor, patch: 3 };
        for text in ["rtx", "tensorrt", "tensorrt:10", "tensorrt:8.5"] {
            assert_eq!(target(text).to_string(), text);
        }
        assert!(target("tensorrt:8.5").takes(version(8, 5)) && !target("tensorrt:8.5").takes(version(8, 6)));
        assert!(target("tensorrt:10").takes(version(10, 9)) && !target("tensorrt:10").takes(version(11, 9)));
        for text in ["", "trt", "tensorrt:", "tensorrt:8.5.3", "tensorrt:x"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        for (text, has_levels) in
            [("tensorrt:8.5", false), ("tensorrt:8.6", true), ("tensorrt:10", true), ("rtx", true)]
        {
            assert_eq!(target(text).check_optimization_level().is_ok(), has_levels, "{text}");
        }
        assert_eq!(Target::of_builder("TensorRT 8.5.3"), Some(target("tensorrt")));
        assert_eq!(Target::of_builder("TensorRT-RTX 1.7.1"), Some(target("rtx")));
        assert_eq!(Target::of_builder("x"), None);
    }
}
