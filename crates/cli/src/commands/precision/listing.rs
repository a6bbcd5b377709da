//! Sites with their formats, and layers that are alike put on one line.

use serde::Serialize;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::{ModelSite, Operation};
use steadyhand_gr00t::precision::{
    ActivationFormat, ActivationScale, Pattern, PrecisionPolicy, Scale, WeightFormat,
};

/// The formats that count at a site: what its operation does not use is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Used {
    pub storage: Format,
    /// Of operations that multiply matrices.
    pub compute: Option<Format>,
    /// Of operations that sum.
    pub accumulate: Option<Format>,
    /// Of linear layers in an 8-bit format: how weights are scaled.
    pub scale: Option<Scale>,
    /// Of linear layers: what weights are stored in, where that is narrower than the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// Of linear layers: what activations are quantized to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationFormat>,
}

impl Used {
    /// What `policy` gives a site.
    pub fn at(policy: &PrecisionPolicy, site: &ModelSite) -> Self {
        let formats = policy.formats_of(&site.path);
        Used {
            storage: formats.storage,
            compute: site.operation.multiplies().then_some(formats.compute),
            accumulate: site.operation.accumulates().then_some(formats.accumulate),
            scale: Some(formats.scale).filter(|scale| site.operation.multiplies() && *scale != Scale::None),
            weights: formats.weights.filter(|_| site.operation == Operation::Linear),
            activations: formats.activations.filter(|_| site.operation == Operation::Linear),
        }
    }

    /// Storage, compute, accumulation and what becomes of weights (their scale, or their format and, where they are
    /// quantized, that of the activations) as cells of a table.
    pub fn cells(&self) -> [String; 4] {
        let cell = |format: Option<Format>| format.map_or("-".to_owned(), |format| format.to_string());
        let scale = self.scale.map(|scale| scale.to_string());
        let of_activations = self.activations.map_or(String::new(), |format| format!(" by {format}"));
        let weights = self.weights.map(|weights| format!("{weights}{of_activations}"));
        let weights = weights.or(scale).unwrap_or("-".to_owned());
        [self.storage.to_string(), cell(self.compute), cell(self.accumulate), weights]
    }
}

/// The largest magnitude that a calibration gives the activations of a scaled site; none where it is dynamic.
pub fn amax(policy: &PrecisionPolicy, site: &ModelSite, used: &Used) -> anyhow::Result<Option<f32>> {
    let of_tensor = used.activations.is_some_and(|format| !format.per_token);
    if used.scale.is_none() && !of_tensor {
        return Ok(None);
    }
    Ok(match policy.activation_scale(&site.path)? {
        ActivationScale::Dynamic => None,
        ActivationScale::Calibrated(amax) => Some(amax),
    })
}

/// Sites that are alike: a pattern as policies are written in, the operation, and the members' indices.
pub struct Group {
    pub pattern: String,
    pub operation: Operation,
    pub members: Vec<usize>,
}

/// Sites of the same name in different layers are one group where `alike` says so.
pub fn groups(sites: &[ModelSite], alike: impl Fn(usize, usize) -> bool) -> Vec<Group> {
    let split: Vec<Split> = sites.iter().map(|site| Split::of(&site.path)).collect();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        let fits = |group: &&mut Vec<usize>| {
            let first = group[0];
            let same = split[first].layer.is_some() && split[first].same_place(&split[index]);
            same && sites[first].operation == site.operation && alike(first, index)
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let of_place = |place: &Split| split.iter().filter(|other| place.same_place(other)).count();
    let group = |members: Vec<usize>| {
        let first = &split[members[0]];
        let mut layers: Vec<usize> = members.iter().filter_map(|member| split[*member].layer).collect();
        layers.sort_unstable();
        let layers = match members.len() {
            1 => layers.first().map_or(String::new(), ToString::to_string),
            count if count == of_place(first) => "*".to_owned(),
            _ => Pattern::numbers(&layers),
        };
        let pattern = [&first.before, &layers, &first.after].map(String::as_str);
        let pattern: Vec<&str> = pattern.into_iter().filter(|part| !part.is_empty()).collect();
        Group { pattern: pattern.join("."), operation: sites[members[0]].operation, members }
    };
    groups.into_iter().map(group).collect()
}

/// A path around its layer's number: `dit.block`, 3, `fc1`.
struct Split {
    before: String,
    layer: Option<usize>,
    after: String,
}

impl Split {
    fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.split('.').collect();
        match parts.iter().position(|part| part.parse::<usize>().is_ok()) {
            Some(at) => Split {
                before: parts[..at].join("."),
                layer: parts[at].parse().ok(),
                after: parts[at + 1..].join("."),
            },
            None => Split { before: path.to_owned(), layer: None, after: String::new() },
        }
    }

    fn same_place(&self, other: &Split) -> bool {
        self.before == other.before
            && self.after == other.after
            && self.layer.is_some() == other.layer.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_alike_are_one_line_in_the_words_of_a_policy() {
        let paths = (0..6).flat_map(|layer| [format!("dit.block.{layer}.fc1"), format!("dit.block.{layer}")]);
        let paths = paths.chain(["euler".to_owned(), "decoder".to_owned()]);
        let sites: Vec<ModelSite> = paths.map(|path| ModelSite { path, operation: Operation::Add }).collect();
        let patterns = |alike: &dyn Fn(usize, usize) -> bool| -> Vec<String> {
            groups(&sites, alike).into_iter().map(|group| group.pattern).collect()
        };
        assert_eq!(patterns(&|_, _| true), ["dit.block.*.fc1", "dit.block.*", "euler", "decoder"]);
        let odd = |index: usize| [2, 3, 4, 10].contains(&index);
        assert_eq!(
            patterns(&|a, b| odd(a) == odd(b)),
            [
                "dit.block.{0,3..4}.fc1",
                "dit.block.{0,2..5}",
                "dit.block.{1..2,5}.fc1",
                "dit.block.1",
                "euler",
                "decoder"
            ]
        );
    }
}
