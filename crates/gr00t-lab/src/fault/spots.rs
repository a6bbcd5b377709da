//! Where a family of faults may lie: at one operation, at all of its kind in the layers, all over a part.

use super::{Change, Effect, Fault, Reach};
use steadyhand_gr00t::model::Model;

/// Operations that are computed otherwise together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    place: String,
    reach: Reach,
    /// As they stand in a sentence.
    pub(super) words: String,
}

/// The kinds of operations in a layer, by the end of their paths.
const KINDS: [[&str; 1]; 24] = [
    ["norm1"],
    ["norm2"],
    ["query_norm"],
    ["key_norm"],
    ["query"],
    ["key"],
    ["value"],
    ["qkv"],
    ["query_rope"],
    ["key_rope"],
    ["attention"],
    ["output"],
    ["attention_output"],
    ["residual1"],
    ["modulation"],
    ["modulated"],
    ["fc1"],
    ["fc2"],
    ["gelu"],
    ["gate"],
    ["silu"],
    ["up"],
    ["gated"],
    ["down"],
];

impl Spot {
    /// One operation.
    pub(super) fn at(site: &str) -> Self {
        Spot { place: site.to_owned(), reach: Reach::Place, words: format!("`{site}`") }
    }

    /// Everything below a path that does what is done otherwise.
    pub(super) fn below(place: &str) -> Self {
        Spot { place: place.to_owned(), reach: Reach::Below, words: format!("`{place}`") }
    }

    /// The operations below a path whose own paths end in one of these names.
    pub(super) fn named(place: &str, names: &'static [&'static str]) -> Self {
        let list = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
        let words = format!("{list} of `{place}`");
        Spot { place: place.to_owned(), reach: Reach::Named(names), words }
    }

    /// Each kind of operation of all layers of a stack, of those with these names.
    pub(super) fn kinds(stack: &str, names: &[&str]) -> Vec<Spot> {
        let kinds = KINDS.iter().filter(|kind| names.contains(&kind[0]));
        kinds.map(|kind| Spot::named(stack, kind)).collect()
    }

    /// The sums at the end of all layers of a stack.
    pub(super) fn layers(stack: &str) -> Self {
        let words = format!("the sums at the end of the layers of `{stack}`");
        Spot { place: stack.to_owned(), reach: Reach::Layers, words }
    }

    /// The operation at `site` alone, and all of its kind in the layers that it is in.
    pub(super) fn around(model: &Model, site: &str) -> Vec<Spot> {
        let mut spots = vec![Spot::at(site)];
        let Some((layers, _)) = model.topology.layers_of(site) else { return spots };
        if model.topology.layer_of(site) == Some(site) {
            spots.push(Spot::layers(layers.path));
        }
        let name = site.rsplit('.').next().unwrap_or(site);
        if let Some(kind) = KINDS.iter().find(|kind| kind[0] == name) {
            spots.push(Spot::named(layers.path, kind));
        }
        spots
    }

    /// A fault of an operation here that is computed otherwise.
    pub(super) fn otherwise(
        &self,
        kind: &'static str,
        change: Change,
        description: String,
        fix: &str,
    ) -> Fault {
        self.fault(kind, Effect::Operation(change), description, fix)
    }

    /// A fault here.
    pub(super) fn fault(&self, kind: &'static str, effect: Effect, description: String, fix: &str) -> Fault {
        Fault {
            kind,
            place: self.place.clone(),
            reach: self.reach,
            effect,
            opaque: false,
            description,
            fix: fix.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::ops::Site;
    use steadyhand_gr00t::precision::{PrecisionPolicy, Sharing, WeightCode, WeightFormat};
    use steadyhand_gr00t::synthetic::tiny;

    fn touched(spot: &Spot, path: &str) -> bool {
        let fault = spot.otherwise("test", Change::NoBias, String::new(), "");
        fault.touches(&Site::new(path))
    }

    #[test]
    fn an_operation_lies_alone_or_with_all_of_its_kind() {
        let model = Model::synthetic(tiny(), 1).expect("a model");
        let spots = Spot::around(&model, "dit.block.1.fc1");
        assert_eq!(spots.len(), 2);
        assert!(touched(&spots[0], "dit.block.1.fc1") && !touched(&spots[0], "dit.block.0.fc1"));
        assert!(touched(&spots[1], "dit.block.0.fc1") && !touched(&spots[1], "dit.block.0.fc2"));
        let sums = &Spot::around(&model, "dit.block.1")[1];
        assert!(
            touched(sums, "dit.block.0") && !touched(sums, "dit.block.0.fc1") && !touched(sums, "dit.block")
        );
        // An operation that shares its path with a part is not the part.
        let alone = Spot::around(&model, "connector");
        assert!(alone.len() == 1 && touched(&alone[0], "connector") && !touched(&alone[0], "connector.fc1"));
    }

    /// Weights are stored otherwise where the fault is, and nothing else changes.
    #[test]
    fn stored_weights_are_those_of_the_named_layers() {
        let weights = WeightFormat { code: WeightCode::Int8, sharing: Sharing::PerChannel };
        let of = |spot: Spot| {
            let fault = spot.fault("test", Effect::StoredWeights(weights), String::new(), "");
            let mut policy = PrecisionPolicy::preset("mixed").expect("a preset");
            let mut model = Model::synthetic(tiny(), 1).expect("a model");
            fault.damage_model(&mut model, &mut policy);
            policy
        };
        let right = PrecisionPolicy::preset("mixed").expect("a preset");
        let stored = |policy: &PrecisionPolicy, path: &str| policy.formats_of(path).weights == Some(weights);
        let named = of(Spot::named("dit.block", &["fc1", "fc2"]));
        assert!(stored(&named, "dit.block.1.fc1") && stored(&named, "dit.block.0.fc2"));
        assert!(!stored(&named, "dit.block.1.query"));
        let below = of(Spot::below("dit"));
        assert!(stored(&below, "dit.output") && !stored(&below, "decoder"));
        assert_eq!(below.formats_of("dit.output").compute, right.formats_of("dit.output").compute);
    }
}
