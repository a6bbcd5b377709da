//! Precision as a value: which number formats each site of the model uses.

mod calibration;
mod check;
mod file;
mod pattern;
mod preset;
mod weights;

pub use calibration::Calibration;
pub use pattern::Pattern;
pub use weights::{ActivationFormat, Extent, Sharing, WeightCode, WeightFormat};

use crate::ops::Site;
use crate::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use steadyhand_fidelity::Format;

/// The formats of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// What every tensor is stored in, results inside a composed operation included (`x * (1 + scale)`
    /// stores `1 + scale`, as PyTorch does).
    pub storage: Format,
    /// What the operands of a matrix product are rounded to, the probabilities of attention included.
    pub compute: Format,
    /// What softmax and the statistics of a norm are computed in. `fp16` also sums matrix products in fp16, as
    /// tensor cores can; with every other format they are summed in f32.
    pub accumulate: Format,
    /// How the operands of a linear layer are brought into the range of `compute`.
    pub scale: Scale,
    /// What the weights of a linear layer are stored in, where that is narrower than the checkpoint.
    pub weights: Option<WeightFormat>,
    /// What the activations of a linear layer are quantized to before they meet weights of whole numbers.
    pub activations: Option<ActivationFormat>,
}

/// How the operands of a linear layer are scaled before they are rounded to an 8-bit compute format.
///
/// With any scale but `None` the activations have one scale for the whole tensor of an observation: 448 (the
/// largest e4m3) over the largest magnitude, which a [`Calibration`] gives, or the tensor itself where the policy
/// has none. Conversion saturates, the product is rescaled in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Operands are rounded as they are; what overflows becomes an infinity, or NaN in e4m3.
    None,
    /// One scale for all weights of the layer.
    PerTensor,
    /// One scale for the weights of each output feature.
    PerChannel,
}

/// The formats of some sites; what is left out keeps what earlier rules gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The sites.
    pub pattern: Pattern,
    /// In place of [`Formats::storage`].
    pub storage: Option<Format>,
    /// In place of [`Formats::compute`].
    pub compute: Option<Format>,
    /// In place of [`Formats::accumulate`].
    pub accumulate: Option<Format>,
    /// In place of [`Formats::scale`].
    pub scale: Option<Scale>,
    /// In place of [`Formats::weights`].
    pub weights: Option<Option<WeightFormat>>,
    /// In place of [`Formats::activations`].
    pub activations: Option<Option<ActivationFormat>>,
}

/// Formats by site. A value like any other: an engine is given one and decides nothing itself.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionPolicy {
    name: String,
    /// The preset that it starts from.
    base: &'static str,
    formats: Formats,
    /// The preset's rules, then the policy's own.
    rules: Vec<Rule>,
    /// How many of the rules are the preset's.
    inherited: usize,
    calibration: Option<Arc<Calibration>>,
    /// The file it was read from.
    file: Option<PathBuf>,
    stochastic: Option<u64>,
}

/// Where the scale of a linear layer's activations comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationScale {
    /// From the largest magnitude of the tensor at hand, for each observation of a batch.
    Dynamic,
    /// From this largest magnitude, found by a calibration; larger values saturate.
    Calibrated(f32),
}

impl Formats {
    /// Formats without scales, weights as the checkpoint has them.
    pub const fn new(storage: Format, compute: Format, accumulate: Format) -> Self {
        Formats { storage, compute, accumulate, scale: Scale::None, weights: None, activations: None }
    }
}

impl Rule {
    /// The formats with those that the rule names in their place.
    fn apply(&self, formats: Formats) -> Formats {
        Formats {
            storage: self.storage.unwrap_or(formats.storage),
            compute: self.compute.unwrap_or(formats.compute),
            accumulate: self.accumulate.unwrap_or(formats.accumulate),
            scale: self.scale.unwrap_or(formats.scale),
            weights: self.weights.unwrap_or(formats.weights),
            activations: self.activations.unwrap_or(formats.activations),
        }
    }
}

impl PrecisionPolicy {
    /// The policy that a command line names: a preset, or a `.toml` file.
    ///
    /// # Errors
    /// An unknown preset; a file as [`PrecisionPolicy::from_toml_file`].
    pub fn load(name: &str) -> Result<Self> {
        if name.ends_with(".toml") { Self::from_toml_file(name) } else { Self::preset(name) }
    }

    /// This policy with other formats at the site `path` and everything below it, such as
    /// `dit.block.3` or `euler`. Later rules win.
    #[must_use]
    pub fn with(self, path: &str, formats: Formats) -> Self {
        self.with_rule(Rule {
            pattern: Pattern::path(path),
            storage: Some(formats.storage),
            compute: Some(formats.compute),
            accumulate: Some(formats.accumulate),
            scale: Some(formats.scale),
            weights: Some(formats.weights),
            activations: Some(formats.activations),
        })
    }

    /// This policy under another name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        PrecisionPolicy { name: name.to_owned(), ..self }
    }

    /// This policy with one more rule, which wins over all before it.
    #[must_use]
    pub fn with_rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// This policy with activation scales from a calibration in place of dynamic ones.
    #[must_use]
    pub fn with_calibration(self, calibration: Calibration) -> Self {
        PrecisionPolicy { calibration: Some(Arc::new(calibration)), ..self }
    }

    /// This policy with dynamic activation scales in place of calibrated ones.
    #[must_use]
    pub fn without_calibration(self) -> Self {
        PrecisionPolicy { calibration: None, ..self }
    }

    /// This policy with results rounded to one of their two neighbours at random, as often up as their place
    /// between the two asks for. Runs with several seeds show what rounding alone can do to an inference.
    #[must_use]
    pub fn stochastic(self, seed: u64) -> Self {
        PrecisionPolicy { stochastic: Some(seed), ..self }
    }

    /// The policy's name, such as `bf16`: the preset's, or that of the file without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells policies apart: a preset's name, the text of any other.
    pub fn identity(&self) -> String {
        match self.rules.len() == self.inherited && self.calibration.is_none() {
            true => self.base.to_owned(),
            false => self.to_toml(),
        }
    }

    /// The calibration that activation scales come from.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_deref()
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

    /// All formats that some site may have, whatever its path.
    pub fn all_formats(&self) -> impl Iterator<Item = Formats> {
        let mut all = vec![self.formats];
        for rule in &self.rules {
            for index in 0..all.len() {
                let formats = rule.apply(all[index]);
                if !all.contains(&formats) {
                    all.push(formats);
                }
            }
        }
        all.into_iter().map(scaled_where_narrow)
    }

    /// The formats at a site. A scale is given with an 8-bit compute format alone: others need none.
    pub fn formats(&self, site: &Site) -> Formats {
        self.formats_of(site.path())
    }

    /// The formats at a path, as [`PrecisionPolicy::formats`].
    pub fn formats_of(&self, path: &str) -> Formats {
        let covering = self.rules.iter().filter(|rule| rule.pattern.covers(path));
        scaled_where_narrow(covering.fold(self.formats, |formats, rule| rule.apply(formats)))
    }

    /// The scale of the activations at a site whose formats have one.
    ///
    /// # Errors
    /// A calibration that does not know the site.
    pub fn activation_scale(&self, path: &str) -> Result<ActivationScale> {
        let Some(calibration) = &self.calibration else { return Ok(ActivationScale::Dynamic) };
        Ok(ActivationScale::Calibrated(calibration.amax(path)?))
    }
}

fn scaled_where_narrow(formats: Formats) -> Formats {
    Formats { scale: if formats.compute.bits() == 8 { formats.scale } else { Scale::None }, ..formats }
}

impl fmt::Display for PrecisionPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl Scale {
    /// Every scale.
    pub const ALL: [Scale; 3] = [Scale::None, Scale::PerTensor, Scale::PerChannel];

    fn name(self) -> &'static str {
        match self {
            Scale::None => "none",
            Scale::PerTensor => "per_tensor",
            Scale::PerChannel => "per_channel",
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Scale::ALL.into_iter().find(|scale| scale.name() == name).ok_or_else(|| {
            let what = format!("expected none, per_tensor or per_channel, found `{name}`");
            Error::input("scale", what)
        })
    }
}

/// SplitMix64's finalizer: every bit of the result depends on every bit of the input.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
