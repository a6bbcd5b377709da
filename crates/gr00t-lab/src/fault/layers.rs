//! The weights of layers, by the names of their sites.

use steadyhand_gr00t::model::{Model, vision::Projection};
use steadyhand_gr00t::ops::Linear;

/// Names of the linear layers in the layers of a stack.
pub(super) const LINEARS: [&str; 12] = [
    "query",
    "key",
    "value",
    "qkv",
    "output",
    "attention_output",
    "fc1",
    "fc2",
    "gate",
    "up",
    "down",
    "modulation",
];

/// Weights that are taken from another place of the same stack.
pub(super) struct Swap {
    pub(super) stack: String,
    /// The layer; all of them otherwise.
    pub(super) index: Option<usize>,
}

impl Swap {
    /// Whether the layer `index` gets other weights.
    fn touches(&self, index: usize) -> bool {
        self.index.is_none_or(|only| only == index)
    }

    /// Exchanges two linear layers of one shape in each layer.
    pub(super) fn pair(&self, model: &mut Model, a: &str, b: &str) {
        for index in (0..count(model, &self.stack)).filter(|index| self.touches(*index)) {
            let both = [a, b].map(|name| linear(model, &self.stack, index, name).cloned());
            if let [Some(first), Some(second)] = both
                && first.weight.shape() == second.weight.shape()
            {
                for (name, other) in [(a, second), (b, first)] {
                    if let Some(layer) = linear(model, &self.stack, index, name) {
                        *layer = other;
                    }
                }
            }
        }
    }

    /// Gives the linear layer `name`, or everything with weights, that of the layer `by` further on, where there is one of
    /// the same shape.
    pub(super) fn neighbour(&self, model: &mut Model, name: Option<&str>, by: isize) {
        let mut right = model.clone();
        let count = count(model, &self.stack);
        for index in (0..count).filter(|index| self.touches(*index)) {
            let Some(from) = index.checked_add_signed(by).filter(|from| *from < count) else { continue };
            match name {
                Some(name) => {
                    let other = linear(&mut right, &self.stack, from, name).cloned();
                    let own = linear(model, &self.stack, index, name);
                    if let (Some(own), Some(other)) = (own, other)
                        && own.weight.shape() == other.weight.shape()
                    {
                        *own = other;
                    }
                }
                None => whole(model, &right, &self.stack, [index, from]),
            }
        }
    }
}

fn count(model: &Model, stack: &str) -> usize {
    match stack {
        "vision.layer" => model.vision.layers.len(),
        "language.layer" => model.language.layers.len(),
        "dit.block" => model.action_head.dit.blocks.len(),
        _ => 0,
    }
}

/// The linear layer `name` of a layer.
fn linear<'m>(model: &'m mut Model, stack: &str, index: usize, name: &str) -> Option<&'m mut Linear> {
    match stack {
        "vision.layer" => {
            let layer = model.vision.layers.get_mut(index)?;
            match (&mut layer.projection, name) {
                (Projection::Three(three), "query") => Some(&mut three.query),
                (Projection::Three(three), "key") => Some(&mut three.key),
                (Projection::Three(three), "value") => Some(&mut three.value),
                (Projection::Joined(joined), "qkv") => Some(joined),
                (_, "output") => Some(&mut layer.output),
                (_, "fc1") => Some(&mut layer.fc1),
                (_, "fc2") => Some(&mut layer.fc2),
                _ => None,
            }
        }
        "language.layer" => {
            let layer = model.language.layers.get_mut(index)?;
            Some(match name {
                "query" => &mut layer.query,
                "key" => &mut layer.key,
                "value" => &mut layer.value,
                "output" => &mut layer.output,
                "gate" => &mut layer.gate,
                "up" => &mut layer.up,
                "down" => &mut layer.down,
                _ => return None,
            })
        }
        "dit.block" => {
            let block = model.action_head.dit.blocks.get_mut(index)?;
            Some(match name {
                "modulation" => &mut block.modulation,
                "query" => &mut block.query,
                "key" => &mut block.key,
                "value" => &mut block.value,
                "attention_output" => &mut block.output,
                "fc1" => &mut block.fc1,
                "fc2" => &mut block.fc2,
                _ => return None,
            })
        }
        _ => None,
    }
}

/// Gives a layer all weights of another.
fn whole(model: &mut Model, right: &Model, stack: &str, [index, from]: [usize; 2]) {
    match stack {
        "vision.layer" => {
            if let (Some(own), Some(other)) =
                (model.vision.layers.get_mut(index), right.vision.layers.get(from))
            {
                own.clone_from(other);
            }
        }
        "language.layer" => {
            if let (Some(own), Some(other)) =
                (model.language.layers.get_mut(index), right.language.layers.get(from))
            {
                own.clone_from(other);
            }
        }
        "dit.block" => {
            let blocks = &mut model.action_head.dit.blocks;
            if let (Some(own), Some(other)) = (blocks.get_mut(index), right.action_head.dit.blocks.get(from))
                && own.key.weight.shape() == other.key.weight.shape()
            {
                // What a block attends to is not among its weights.
                *own = steadyhand_gr00t::model::dit::Block { attends: own.attends, ..other.clone() };
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::synthetic::tiny;

    fn names(model: &mut Model, name: &str) -> Vec<String> {
        let layers = 0..count(model, "language.layer");
        let of =
            |index| linear(model, "language.layer", index, name).map(|layer| layer.weight.name().to_owned());
        layers.filter_map(of).collect()
    }

    #[test]
    fn weights_are_taken_from_another_place() {
        let right = Model::synthetic(tiny(), 1).expect("a model");
        let swap = |index| Swap { stack: "language.layer".to_owned(), index };
        let mut model = right.clone();
        let (gates, ups) = (names(&mut model, "gate"), names(&mut model, "up"));
        swap(Some(1)).pair(&mut model, "gate", "up");
        assert_eq!(names(&mut model, "gate"), [gates[0].clone(), ups[1].clone()]);
        assert_eq!(names(&mut model, "up"), [ups[0].clone(), gates[1].clone()]);
        // Queries are more than keys: they have another shape and stay.
        let queries = names(&mut model, "query");
        swap(None).pair(&mut model, "query", "key");
        assert_eq!(names(&mut model, "query"), queries);
        let mut model = right.clone();
        swap(None).neighbour(&mut model, Some("gate"), 1);
        assert_eq!(names(&mut model, "gate"), [gates[1].clone(), gates[1].clone()]);
        assert_eq!(names(&mut model, "up"), ups);
        let mut model = right.clone();
        swap(Some(1)).neighbour(&mut model, None, -1);
        assert_eq!(names(&mut model, "up"), [ups[0].clone(), ups[0].clone()]);
        assert_eq!(model.language.layers[1].input_norm.name(), right.language.layers[0].input_norm.name());
    }

    /// Blocks that attend to something else keep doing so.
    #[test]
    fn a_block_of_the_dit_keeps_what_it_attends_to() {
        let right = Model::synthetic(tiny(), 1).expect("a model");
        let mut model = right.clone();
        Swap { stack: "dit.block".to_owned(), index: None }.neighbour(&mut model, None, 2);
        let [own, right_own] = [&model, &right].map(|model| &model.action_head.dit.blocks[0]);
        assert_ne!(own.fc1.weight.name(), right_own.fc1.weight.name());
        for (own, right) in model.action_head.dit.blocks.iter().zip(&right.action_head.dit.blocks) {
            assert_eq!(own.attends, right.attends);
            assert_eq!(own.key.weight.shape(), right.key.weight.shape());
        }
    }
}
