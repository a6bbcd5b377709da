//! Whether a policy fits a model: patterns that match something, formats that exist together.

use super::{ActivationFormat, Formats, Pattern, PrecisionPolicy, Rule, Scale, WeightCode};
use crate::ops::{ModelSite, Operation};
use crate::{Error, Result};
use steadyhand_fidelity::Format;

/// How many sites an error suggests.
const SUGGESTED: usize = 3;

impl PrecisionPolicy {
    /// Whether every rule of the policy reaches a site of the model ([`crate::model::Model::sites`]), and the formats
    /// of every site can be computed in. What an operation does not use is not judged.
    ///
    /// # Errors
    /// A pattern, or an alternative in its braces, that matches no site: named with the nearest sites. A site whose
    /// formats do not go together. A scale that reaches no product in an 8-bit format, a calibration that does not
    /// know a site.
    pub fn check(&self, sites: &[ModelSite]) -> Result<()> {
        for rule in &self.rules[self.inherited..] {
            for pattern in rule.pattern.alternatives() {
                if !sites.iter().any(|site| pattern.covers(&site.path)) {
                    return Err(self.fails(unmatched(&rule.pattern, &pattern, sites)));
                }
            }
            let scaled = rule.scale.filter(|scale| *scale != Scale::None);
            if let Some(scale) = scaled {
                let reaches = |site: &ModelSite| {
                    rule.pattern.covers(&site.path)
                        && site.operation.multiplies()
                        && self.formats_of(&site.path).scale == scale
                };
                if !sites.iter().any(reaches) {
                    let pattern = &rule.pattern;
                    let what =
                        format!("`{pattern}`: scale {scale} reaches no product of an fp8 compute format");
                    return Err(self.fails(what));
                }
            }
            if let Some(Some(weights)) = rule.weights {
                self.reaches_linear(rule, sites, &format!("weights {weights} reach"))?;
            }
            if let Some(Some(activations)) = rule.activations {
                self.reaches_linear(rule, sites, &format!("activations {activations} reach"))?;
            }
        }
        sites.iter().try_for_each(|site| self.check_site(site))
    }

    /// Whether a rule of linear layers covers one.
    fn reaches_linear(&self, rule: &Rule, sites: &[ModelSite], what: &str) -> Result<()> {
        let reaches =
            |site: &ModelSite| rule.pattern.covers(&site.path) && site.operation == Operation::Linear;
        match sites.iter().any(reaches) {
            true => Ok(()),
            false => Err(self.fails(format!("`{}`: {what} no linear layer", rule.pattern))),
        }
    }

    fn check_site(&self, site: &ModelSite) -> Result<()> {
        let ModelSite { path, operation } = site;
        let formats = self.formats_of(path);
        let (compute, accumulate) = (formats.compute, formats.accumulate);
        let fail = |what: String| Err(self.fails(format!("site `{path}` ({operation}): {what}")));
        if operation.accumulates() {
            let known: &[Format] = match operation {
                Operation::Linear | Operation::CategoryLinear => &[Format::F32, Format::Fp16],
                _ => &[Format::F32, Format::Fp16, Format::Bf16],
            };
            if !known.contains(&accumulate) {
                let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                return fail(format!("accumulate: expected one of {}, found {accumulate}", known.join(", ")));
            }
        }
        if operation.multiplies() && !accumulate.contains(compute) {
            return fail(format!(
                "accumulate: expected a format that holds every {compute} of the operands, found {accumulate}"
            ));
        }
        if operation.multiplies() && formats.scale != Scale::None {
            if *operation != Operation::Linear {
                let what =
                    format!("scale: expected for linear alone, found {}; give this site", formats.scale);
                return fail(format!("{what} scale = \"none\" or a wider compute format"));
            }
            if let Err(error) = self.activation_scale(path) {
                return fail(error.to_string());
            }
        }
        if let (Operation::Linear, Some(weights)) = (operation, formats.weights)
            && compute.bits() == 8
        {
            return fail(format!(
                "weights: expected none with compute = \"{compute}\", which rounds the weights too, found {weights}"
            ));
        }
        if let (Operation::Linear, Some(activations)) = (operation, formats.activations) {
            return self.check_activations(path, formats, activations).or_else(fail);
        }
        Ok(())
    }

    /// Whether activations of whole numbers have weights to meet, and scales.
    fn check_activations(
        &self,
        path: &str,
        formats: Formats,
        activations: ActivationFormat,
    ) -> Result<(), String> {
        if formats.weights.is_none_or(|weights| weights.code == WeightCode::Fp8E4m3) {
            let found = formats.weights.map_or("none".to_owned(), |weights| weights.to_string());
            return Err(format!(
                "activations {activations}: expected weights of int8, int4, uint8 or uint4, found {found}"
            ));
        }
        if activations.per_token || self.calibration().is_none() {
            return Ok(());
        }
        if activations.zero_point {
            return Err(format!(
                "activations: expected int8_per_tensor with a calibration, which has magnitudes and no zero points, found \
                 {activations}"
            ));
        }
        self.activation_scale(path).map(|_| ()).map_err(|error| error.to_string())
    }

    /// An error about this policy: about its file where it has one.
    fn fails(&self, what: String) -> Error {
        match &self.file {
            Some(file) => Error::file(file, what),
            None => Error::input(format!("precision {}", self.name), what),
        }
    }
}

/// What to say of a pattern of which `part`, itself or one alternative, matches nothing.
fn unmatched(pattern: &Pattern, part: &Pattern, sites: &[ModelSite]) -> String {
    let mut near: Vec<(usize, usize, String)> = Vec::new();
    for (order, site) in sites.iter().enumerate() {
        let path = part.prefix_of(&site.path);
        if !near.iter().any(|(_, _, known)| *known == path) {
            near.push((part.distance(&path), order, path));
        }
    }
    near.sort();
    let near: Vec<String> =
        near.into_iter().take(SUGGESTED).map(|(_, _, path)| format!("`{path}`")).collect();
    let part = if part == pattern { String::new() } else { format!(" with `{part}`") };
    format!("`{pattern}`: matches no site of the model{part}; nearest are {}", near.join(", "))
}
