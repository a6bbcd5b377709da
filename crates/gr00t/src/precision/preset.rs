//! The policies that have a name.

use super::{Formats, Pattern, PrecisionPolicy, Rule, Scale};
use crate::{Error, Result};
use steadyhand_fidelity::Format;

/// The linear layers that `fp8` multiplies in e4m3: those of the repeated layers, which hold almost all of the
/// model's work. Left out are the patch embedding, the connector, the time embedding with its modulations and the
/// output projection: one product each, whose error every later value carries.
const FP8_LINEAR: [&str; 3] = [
    "vision.layer.*.{query,key,value,output,fc1,fc2}",
    "language.layer.*.{query,key,value,output,gate,up,down}",
    "dit.block.*.{query,key,value,attention_output,fc1,fc2}",
];

impl PrecisionPolicy {
    /// The names that [`PrecisionPolicy::preset`] knows.
    pub const PRESETS: [&str; 6] = ["f32", "bf16", "fp16", "mixed", "mixed-fp16", "fp8"];

    /// The preset of this name:
    ///
    /// | name | what it means |
    /// |---|---|
    /// | `f32` | every value and every operation in IEEE f32: the reference |
    /// | `bf16` | rounds where PyTorch's `model.to(torch.bfloat16)` rounds: the official behaviour |
    /// | `fp16` | the same places, rounded to fp16 |
    /// | `mixed` | bf16 operands of matrix products; f32 residual stream, norms, softmax and Euler state |
    /// | `mixed-fp16` | the same with fp16 operands |
    /// | `fp8` | `mixed`, but e4m3 operands in the linear layers of vision, language and DiT; weights scaled by output channel, activations by tensor |
    ///
    /// # Errors
    /// An unknown name; the known ones are listed.
    pub fn preset(name: &str) -> Result<Self> {
        let Some(base) = Self::PRESETS.into_iter().find(|known| *known == name) else {
            let known = Self::PRESETS.join(", ");
            let what = format!("expected one of {known} or the path of a .toml file, found `{name}`");
            return Err(Error::input("precision", what));
        };
        let (storage, compute) = match base {
            "bf16" => (Format::Bf16, Format::Bf16),
            "fp16" => (Format::Fp16, Format::Fp16),
            "mixed" | "fp8" => (Format::F32, Format::Bf16),
            "mixed-fp16" => (Format::F32, Format::Fp16),
            _ => (Format::F32, Format::F32),
        };
        let rules = match base {
            "fp8" => FP8_LINEAR.map(fp8).into_iter().collect::<Result<Vec<_>>>()?,
            _ => Vec::new(),
        };
        Ok(PrecisionPolicy {
            name: base.to_owned(),
            base,
            formats: Formats::new(storage, compute, Format::F32),
            inherited: rules.len(),
            rules,
            calibration: None,
            file: None,
            stochastic: None,
        })
    }
}

fn fp8(pattern: &str) -> Result<Rule> {
    Ok(Rule {
        pattern: Pattern::parse(pattern)?,
        storage: None,
        compute: Some(Format::Fp8E4m3),
        accumulate: None,
        scale: Some(Scale::PerChannel),
        weights: None,
        activations: None,
    })
}
