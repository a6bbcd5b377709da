//! Groups of sites that get one operand format, and kinds of groups: the same place in every layer.

use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::ops::{ModelSite, Operation};
use steadyhand_gr00t::precision::{Pattern, Rule, Scale};
use steadyhand_gr00t::topology::Topology;

/// Sites whose operands have the same format: an engine merges their products, or they have one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// As in reports: `dit.block.3.{query,key,value}`, `connector`.
    pub name: String,
    /// Index of its kind.
    pub kind: usize,
    /// The number of its layer, where it is in one.
    pub layer: Option<usize>,
    /// The paths of its sites.
    pub sites: Vec<String>,
    /// Whether all of its products are linear layers, whose operands can be scaled.
    pub linear: bool,
    /// What precedes the layer's number, such as `dit.block`.
    pub section: String,
}

/// The groups at the same place of several layers: equal shapes, so equal cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Such as `dit.block.*.fc1`.
    pub name: String,
    /// Indices of its groups.
    pub groups: Vec<usize>,
}

/// All groups of a model; every site of a matrix product is in exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// In the order in which an inference reaches them.
    pub groups: Vec<Group>,
    /// In the same order.
    pub kinds: Vec<Kind>,
}

/// Groups of several layers that get the same format at the same place.
struct Joined<'a> {
    first: &'a Group,
    format: Format,
    layers: Vec<usize>,
}

/// Where a site belongs.
struct Place {
    group: String,
    kind: String,
    section: String,
    layer: Option<usize>,
}

impl Groups {
    /// The groups of a model's sites.
    pub fn new(sites: &[ModelSite], topology: &Topology) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for site in sites.iter().filter(|site| site.operation.multiplies()) {
            let place = Place::of(&site.path, topology);
            let index = *known.entry(place.group).or_insert_with(|| {
                let kind = kinds.iter().position(|kind| kind.name == place.kind).unwrap_or_else(|| {
                    kinds.push(Kind { name: place.kind, groups: Vec::new() });
                    kinds.len() - 1
                });
                kinds[kind].groups.push(groups.len());
                let (layer, section) = (place.layer, place.section);
                groups.push(Group {
                    name: String::new(),
                    kind,
                    layer,
                    sites: Vec::new(),
                    linear: true,
                    section,
                });
                groups.len() - 1
            });
            groups[index].sites.push(site.path.clone());
            groups[index].linear &= site.operation == Operation::Linear;
        }
        groups.iter_mut().for_each(|group| group.name = group.describe());
        Groups { groups, kinds }
    }

    /// Rules that give each group its format, groups of several layers in one pattern; `None` for what the policy's
    /// base has anyway.
    ///
    /// # Errors
    /// None for groups of a model: their paths are patterns.
    pub fn rules(&self, choice: &[Option<Format>]) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        let mut joined: Vec<Joined> = Vec::new();
        for (group, format) in self.groups.iter().zip(choice) {
            let Some(format) = *format else { continue };
            let Some(layer) = group.layer else {
                let patterns = group.sites.iter().map(|path| Pattern::path(path));
                rules.extend(patterns.map(|pattern| rule(pattern, format, group.linear)));
                continue;
            };
            let alike = |known: &&mut Joined| {
                (known.first.section == group.section && known.first.names() == group.names())
                    && known.format == format
            };
            match joined.iter_mut().find(alike) {
                Some(found) => found.layers.push(layer),
                None => joined.push(Joined { first: group, format, layers: vec![layer] }),
            }
        }
        for Joined { first, format, mut layers } in joined {
            layers.sort_unstable();
            let pattern =
                format!("{}.{}.{}", first.section, Pattern::numbers(&layers), braced(&first.names()));
            rules.push(rule(Pattern::parse(&pattern)?, format, first.linear));
        }
        Ok(rules)
    }
}

impl Group {
    /// The last segments of its sites' paths.
    fn names(&self) -> Vec<&str> {
        self.sites.iter().map(|path| path.rsplit('.').next().unwrap_or(path)).collect()
    }

    fn describe(&self) -> String {
        match self.layer {
            Some(layer) => format!("{}.{layer}.{}", self.section, braced(&self.names())),
            None => self.sites.join(", "),
        }
    }
}

impl Place {
    fn of(path: &str, topology: &Topology) -> Self {
        let Some((layers, layer)) = topology.layers_of(path) else {
            let name = topology.joined_with(path).to_owned();
            return Place { group: name.clone(), kind: name, section: String::new(), layer: None };
        };
        let (section, own) = (layers.path.to_owned(), layers.layer(layer));
        let role = role(path.strip_prefix(&own).map_or("", |rest| rest.trim_start_matches('.')));
        // What the keys and values of a layer come from decides their shapes.
        let memory = match layers.memory.get(layer).filter(|_| role == "attention" || role == QUERY_KEY_VALUE)
        {
            Some(memory) => format!(" ({memory})"),
            None => String::new(),
        };
        let group = format!("{section}.{layer}.{role}");
        Place { group, kind: format!("{section}.*.{role}{memory}"), section, layer: Some(layer) }
    }
}

/// The role of the projections that one attention reads.
const QUERY_KEY_VALUE: &str = "query-key-value";

/// Layers of one input share a product, and so a format.
fn role(name: &str) -> String {
    match name {
        "query" | "key" | "value" => QUERY_KEY_VALUE.to_owned(),
        "gate" | "up" => "gate-up".to_owned(),
        other => other.to_owned(),
    }
}

fn rule(pattern: Pattern, format: Format, linear: bool) -> Rule {
    let scale = (linear && format.bits() == 8).then_some(Scale::PerChannel);
    let (storage, accumulate, weights, activations) = (None, None, None, None);
    Rule { pattern, storage, compute: Some(format), accumulate, scale, weights, activations }
}

/// `fc1`, or `{query,key,value}`.
fn braced(names: &[&str]) -> String {
    match names {
        [name] => (*name).to_owned(),
        names => format!("{{{}}}", names.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::precision::PrecisionPolicy;
    use steadyhand_gr00t::synthetic::tiny;

    #[test]
    fn every_product_is_in_one_group_and_rules_reach_just_the_chosen_ones() {
        let model = Model::synthetic(tiny(), 1).unwrap();
        let sites = model.sites().unwrap();
        let groups = Groups::new(&sites, &model.topology);
        let products = sites.iter().filter(|site| site.operation.multiplies()).count();
        assert_eq!(groups.groups.iter().map(|group| group.sites.len()).sum::<usize>(), products);
        let names: Vec<&str> = groups.kinds.iter().map(|kind| kind.name.as_str()).collect();
        for expected in
            ["vision.layer.*.fc1", "language.layer.*.gate-up", "dit.block.*.attention (self)", "decoder"]
        {
            assert!(names.contains(&expected), "{names:?}");
        }
        let choice: Vec<_> = (0..groups.groups.len())
            .map(|index| [None, Some(Format::Fp16), Some(Format::Bf16), Some(Format::Fp8E4m3)][index * 7 % 4])
            .collect();
        let base = PrecisionPolicy::preset("f32").unwrap();
        let policy = groups.rules(&choice).unwrap().into_iter().fold(base, PrecisionPolicy::with_rule);
        policy.check(&sites).expect("fits");
        for (group, format) in groups.groups.iter().zip(&choice) {
            for path in &group.sites {
                let formats = policy.formats_of(path);
                assert_eq!(formats.compute, format.unwrap_or(Format::F32), "{path}");
                let scaled = formats.compute == Format::Fp8E4m3 && group.linear;
                assert_eq!(formats.scale == Scale::PerChannel, scaled, "{path}");
            }
        }
        assert_eq!(Pattern::numbers(&[0, 1, 2, 5]), "{0..2,5}");
    }
}
