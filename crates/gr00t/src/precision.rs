//! Precision as a value: which number formats each site of the model uses.

use crate::ops::Site;
use crate::{Error, Result};
use std::fmt;
use steadyhand_fidelity::Format;

/// The formats of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// What every tensor is stored in, results inside a composed operation included (`x * (1 + scale)`
    /// stores `1 + scale`, as PyTorch does).
    pub storage: Format,
    /// What the operands of a matrix product are rounded to, the probabilities of attention included.
    pub compute: Format,
    /// What softmax and the statistics of a norm are computed in. The CPU engine always sums products in f32.
    pub accumulate: Format,
}

/// Formats by site. A value like any other: an engine is given one and decides nothing itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrecisionPolicy {
    name: String,
    formats: Formats,
    overrides: Vec<(String, Formats)>,
    stochastic: Option<u64>,
}

impl PrecisionPolicy {
    /// The names that [`PrecisionPolicy::preset`] knows.
    pub const PRESETS: [&str; 4] = ["f32", "bf16", "fp16", "mixed"];

    /// The preset of this name:
    ///
    /// | name | what it means |
    /// |---|---|
    /// | `f32` | every value and every operation in IEEE f32: the reference |
    /// | `bf16` | rounds where PyTorch's `model.to(torch.bfloat16)` rounds: the official behaviour |
    /// | `fp16` | the same places, rounded to fp16 |
    /// | `mixed` | bf16 operands of matrix products; f32 residual stream, norms, softmax and Euler state |
    ///
    /// # Errors
    /// An unknown name; the known ones are listed.
    pub fn preset(name: &str) -> Result<Self> {
        let (storage, compute) = match name {
            "f32" => (Format::F32, Format::F32),
            "bf16" => (Format::Bf16, Format::Bf16),
            "fp16" => (Format::Fp16, Format::Fp16),
            "mixed" => (Format::F32, Format::Bf16),
            _ => {
                let known = Self::PRESETS.join(", ");
                return Err(Error::input("precision", format!("expected one of {known}, found `{name}`")));
            }
        };
        let formats = Formats { storage, compute, accumulate: Format::F32 };
        Ok(PrecisionPolicy { name: name.to_owned(), formats, overrides: Vec::new(), stochastic: None })
    }

    /// This policy with other formats at the site `path` and everything below it, such as
    /// `dit.block.3` or `euler`. Later overrides win.
    #[must_use]
    pub fn with(mut self, path: &str, formats: Formats) -> Self {
        self.overrides.push((path.to_owned(), formats));
        self
    }

    /// This policy with results rounded to one of their two neighbours at random, as often up as their place
    /// between the two asks for. Runs with several seeds show what rounding alone can do to an inference.
    #[must_use]
    pub fn stochastic(self, seed: u64) -> Self {
        PrecisionPolicy { stochastic: Some(seed), ..self }
    }

    /// The policy's name, such as `bf16`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rounds the result of a site to its storage format.
    pub fn round_stored(&self, values: &mut [f32], site: &Site) {
        let storage = self.formats(site).storage;
        match self.stochastic {
            None => storage.round_slice(values),
            Some(seed) => {
                let key = site.to_string().bytes().fold(seed, |key, byte| mix(key ^ u64::from(byte)));
                for (index, value) in values.iter_mut().enumerate() {
                    *value = storage.round_stochastic(*value, mix(key ^ index as u64) as u32);
                }
            }
        }
    }

    /// Whether results are rounded at random.
    pub fn is_stochastic(&self) -> bool {
        self.stochastic.is_some()
    }

    /// All formats that some site may have.
    pub fn all_formats(&self) -> impl Iterator<Item = Formats> {
        std::iter::once(self.formats).chain(self.overrides.iter().map(|(_, formats)| *formats))
    }

    /// The formats at a site.
    pub fn formats(&self, site: &Site) -> Formats {
        let found = self.overrides.iter().rev().find(|(path, _)| site.is_within(path));
        found.map_or(self.formats, |(_, formats)| *formats)
    }
}

impl fmt::Display for PrecisionPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// SplitMix64's finalizer: every bit of the result depends on every bit of the input.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
