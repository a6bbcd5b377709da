//! Inputs and outputs of graphs: what enters and leaves the part of the model that is recorded.

use super::data::element_type;
use super::graph::{Attribute, Dim};
use super::proto::data_type;
use super::{Prompt, Recorder, Value, layout};
use crate::ops::Site;
use std::rc::Rc;
use steadyhand_fidelity::Format;

impl Recorder<'_> {
    /// A graph input `name` of floats: a value `[batch, tokens, features]` of this shape, stored in the format of `at`.
    pub fn float_input(&self, name: &str, shape: [usize; 3], at: &Site) -> Value {
        let storage = self.policy.formats(at).storage;
        let declared = if self.interface.stored_formats { storage } else { Format::F32 };
        let rows = [self.token_dim(name, shape[1]), Dim::Fixed(shape[2])];
        let mut graph = self.graph.borrow_mut();
        let input = if self.interface.rows.contains(&name) {
            let input = graph.input(&self.named(name), element_type(declared), &rows);
            let axes = graph.integers(&[0]);
            graph.node(name, "Unsqueeze", &[&input, &axes], &[])
        } else {
            let [tokens, features] = rows;
            graph.input(&self.named(name), element_type(declared), &[self.batch_dim(), tokens, features])
        };
        let stored = graph.cast(&input, declared, storage);
        Value { name: Rc::from(stored), shape, format: storage, seen: None }
    }

    /// Makes the time a graph input, `timestep: [batch]`, int64. Otherwise times are constants.
    pub fn time_input(&self) {
        let name = self.named("timestep");
        let input = self.graph.borrow_mut().input(&name, data_type::INT64, &[self.batch_dim()]);
        self.time.replace(Some(Rc::from(input)));
    }

    /// Makes the prompt's parts graph inputs, `image_mask` and `backbone_attention_mask: [batch, tokens]`,
    /// bool: text is what is not an image and not masked. Otherwise they come from the token ids. The result
    /// is `features: [batch, tokens, features]`, whose masked tokens no query sees.
    pub fn prompt_input(&self, features: &Value) -> Value {
        let mut graph = self.graph.borrow_mut();
        let mut input = |name: &str| {
            let dims = [self.batch_dim(), self.token_dim(name, features.shape[1])];
            graph.input(&self.named(name), data_type::BOOL, &dims)
        };
        let [images, seen] = [input("image_mask"), input("backbone_attention_mask")];
        let text = graph.node("prompt", "Not", &[&images], &[]);
        let images = graph.node("prompt.images", "And", &[&images, &seen], &[]);
        let text = graph.node("prompt.text", "And", &[&text, &seen], &[]);
        self.prompt.replace(Some(Prompt { images: Rc::from(images), text: Rc::from(text) }));
        Value { seen: Some(Rc::from(seen)), ..features.clone() }
    }

    /// Makes what the embeddings of a prompt, `[batch, tokens, features]`, need beside them graph inputs, in place of its
    /// token ids: `attention_mask: [batch, tokens]`, int64, 0 where no other token sees one; where tokens are `placed`,
    /// `position_ids: [3, batch, tokens]`, int64, their time, row and column; and where something is added to the image
    /// tokens, `visual_pos_masks: [batch, tokens]`, bool. Otherwise tokens stand one behind the other.
    pub fn embeddings_input(&self, embeddings: &Value, placed: bool, added: bool) {
        const AT: &str = "prompt";
        let tokens = |name: &str| [self.batch_dim(), self.token_dim(name, embeddings.shape[1])];
        let mut graph = self.graph.borrow_mut();
        let mut input =
            |name: &str, element: i32, dims: &[Dim]| graph.input(&self.named(name), element, dims);
        let mask = input("attention_mask", data_type::INT64, &tokens("attention_mask"));
        let places = placed.then(|| {
            let [batch, tokens] = tokens("position_ids");
            input("position_ids", data_type::INT64, &[Dim::Fixed(3), batch, tokens])
        });
        let images = added.then(|| input("visual_pos_masks", data_type::BOOL, &tokens("visual_pos_masks")));
        let attended = graph.cast_to(&mask, data_type::BOOL);
        self.attended.replace(Some(Rc::from(attended)));
        let dims = [("start", 1), ("end", 2)].map(|(name, at)| Attribute::Int(name, at));
        let length = graph.node(AT, "Shape", &[&mask], &dims);
        let positions = layout::count_to(&mut graph, &length);
        self.positions.replace(Some(Rc::from(positions)));
        if let Some(places) = places {
            let order = [Attribute::Ints("perm", vec![1, 2, 0])];
            let places = graph.node("prompt.places", "Transpose", &[&places], &order);
            self.places.replace(Some(Rc::from(places)));
        }
        if let Some(images) = images {
            let text = graph.node("prompt.text", "Not", &[&images], &[]);
            self.prompt.replace(Some(Prompt { images: Rc::from(images), text: Rc::from(text) }));
        }
    }

    /// Makes a recorded value the output `name`.
    pub fn output(&self, x: &Value, name: &str) {
        let format = if self.interface.stored_formats { x.format } else { Format::F32 };
        let rows = [self.token_dim(name, x.shape[1]), Dim::Fixed(x.shape[2])];
        let mut graph = self.graph.borrow_mut();
        let value = graph.cast(&x.name, x.format, format);
        if self.interface.rows.contains(&name) {
            let axes = graph.integers(&[0]);
            let value = graph.node(name, "Squeeze", &[&value, &axes], &[]);
            graph.output(&value, &self.named(name), element_type(format), &rows);
        } else {
            let [tokens, features] = rows;
            // Without a batch, values may be stacked in its place.
            let first = self.interface.batch.map_or(Dim::Fixed(x.shape[0]), |_| self.batch_dim());
            graph.output(&value, &self.named(name), element_type(format), &[first, tokens, features]);
        }
    }

    /// Values of one observation, one after the other: `[values, tokens, features]`; none of none.
    pub fn stack(&self, values: &[Value]) -> Option<Value> {
        let (first, others) = values.split_first()?;
        let stacked = others.iter().fold(first.clone(), |stack, value| {
            let shape = [stack.shape[0] + 1, stack.shape[1], stack.shape[2]];
            layout::join(&mut self.scope(&Site::new("layout.stack")), [&stack, value], 0, shape)
        });
        Some(stacked)
    }
}
