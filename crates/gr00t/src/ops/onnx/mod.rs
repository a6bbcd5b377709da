//! The operations recorded as an ONNX graph: the export is the model itself, run once over this
//! implementation.
//!
//! The graph is strongly typed: every value has the format that the precision policy gives its site, and
//! every rounding is a Cast. The batch, and the prompt's length, stay open; image sizes, the state horizon
//! and the number of Euler steps are those of the batch that is recorded.

mod attention;
mod data;
mod graph;
mod inputs;
mod layout;
mod pointwise;
mod ports;
mod proto;
mod read;
mod record;
mod scope;
mod write;

pub use ports::{Port, PortDim, file_metadata};
pub use read::{Bytes, Constant, GraphFile, Node};
pub use write::{Metadata, Written};

use super::{Grid, ModelSite, Operation, Part, Site};
use crate::precision::{Formats, PrecisionPolicy, Scale};
use crate::{Error, Result};
use graph::{Dim, Graph};
use proto::data_type;
use scope::Scope;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use steadyhand_fidelity::Format;

/// The opsets that a graph can be recorded in. At the first, normalizations are recorded in their parts: what reads no
/// later opset (TensorRT 8.5) has no LayerNormalization either.
pub const OPSETS: std::ops::RangeInclusive<i64> = 17..=23;

/// How matrix products are recorded where operands are narrower than the accumulation format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// MatMul of the compute format, which rounds its result to that format: what accelerators run fast.
    Native,
    /// MatMul of the accumulation format on operands rounded to the compute format: the reference's numbers,
    /// and the only form that ONNX Runtime's CPU provider has kernels for.
    Widened,
}

/// Names and types of a graph's inputs and outputs.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// Names other than the sites' own.
    pub names: BTreeMap<&'static str, &'static str>,
    /// Names of the open dimensions of tokens, by input.
    pub open_tokens: BTreeMap<&'static str, &'static str>,
    /// Name of the batch dimension; graphs of one observation have none.
    pub batch: Option<&'static str>,
    /// Inputs and outputs without the batch's dimension, in graphs of one observation.
    pub rows: Vec<&'static str>,
    /// Whether float inputs and outputs have their site's storage format; f32 otherwise.
    pub stored_formats: bool,
}

/// A recorded value.
#[derive(Debug, Clone)]
pub struct Value {
    name: Rc<str>,
    /// As in the batch that is recorded; only the features are the same in every run.
    shape: [usize; 3],
    format: Format,
    /// Which of its tokens may be seen, a bool `[batch, tokens]`.
    seen: Option<Rc<str>>,
}

/// Parts of the prompt as bool `[batch, tokens]`.
#[derive(Debug, Clone)]
struct Prompt {
    images: Rc<str>,
    text: Rc<str>,
}

/// Records operations; [`Recorder::write`] ends it.
#[derive(Debug)]
pub struct Recorder<'a> {
    policy: &'a PrecisionPolicy,
    products: Products,
    opset: i64,
    image_token: u32,
    interface: Interface,
    graph: RefCell<Graph>,
    embodiments: RefCell<Option<Rc<str>>>,
    prompt: RefCell<Option<Prompt>>,
    /// `[tokens]`, int64: 0, 1, 2, … over the prompt.
    positions: RefCell<Option<Rc<str>>>,
    /// `[batch, tokens, 3]`, int64: where tokens of a prompt with images stand.
    places: RefCell<Option<Rc<str>>>,
    /// `[batch, tokens]`, bool: which tokens others may see, where some may not be.
    attended: RefCell<Option<Rc<str>>>,
    /// `[1 or batch, 1, tokens, tokens]`, bool.
    causal: RefCell<Option<Rc<str>>>,
    time: RefCell<Option<Rc<str>>>,
}

fn mismatch(at: &Site, operation: &'static str, what: String) -> Error {
    Error::Shape { site: at.to_string(), operation, what }
}

/// Whether casts can follow the policy at these sites. What an operation does not use is not judged.
///
/// # Errors
/// The first site with a format that a graph of standard operations has no form for; rounding at random.
pub fn check(policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
    let field = format!("precision {}", policy.name());
    if policy.is_stochastic() {
        return Err(Error::input(field, "expected rounding to nearest for ONNX, found stochastic rounding"));
    }
    for ModelSite { path, operation } in sites {
        let formats = policy.formats_of(path);
        let refuse = |what: String| {
            Err(Error::input(&field, format!("site `{path}` ({operation}): an ONNX graph cannot: {what}")))
        };
        let mut cast = vec![("storage", formats.storage)];
        if operation.multiplies() {
            cast.push(("compute", formats.compute));
            if let (Operation::Linear, Some(weights)) = (operation, formats.weights) {
                return refuse(format!("weights: expected none, found {weights}"));
            }
            if let (Operation::Linear, Some(activations)) = (operation, formats.activations) {
                return refuse(format!("activations: expected none, found {activations}"));
            }
            if formats.scale != Scale::None {
                return refuse(format!("scale: expected none, found {}", formats.scale));
            }
        }
        let castable = [Format::F32, Format::Bf16, Format::Fp16];
        if let Some((role, format)) = cast.into_iter().find(|(_, format)| !castable.contains(format)) {
            return refuse(format!("{role}: expected f32, bf16 or fp16, found {format}"));
        }
        if operation.accumulates() && formats.accumulate != Format::F32 {
            return refuse(format!("accumulate: expected f32, found {}", formats.accumulate));
        }
    }
    Ok(())
}

impl<'a> Recorder<'a> {
    /// An empty graph. `image_token` is the token id that stands for an image feature. The policy was found fit by
    /// [`check`] for every site that will be recorded.
    ///
    /// # Errors
    /// An opset outside [`OPSETS`].
    pub fn new(
        policy: &'a PrecisionPolicy,
        products: Products,
        opset: i64,
        image_token: u32,
        interface: Interface,
    ) -> Result<Self> {
        if !OPSETS.contains(&opset) {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            return Err(Error::input("opset", format!("expected {first} to {last}, found {opset}")));
        }
        Ok(Recorder {
            policy,
            products,
            opset,
            image_token,
            interface,
            graph: RefCell::default(),
            embodiments: RefCell::default(),
            prompt: RefCell::default(),
            positions: RefCell::default(),
            places: RefCell::default(),
            attended: RefCell::default(),
            causal: RefCell::default(),
            time: RefCell::default(),
        })
    }

    fn scope(&self, at: &Site) -> Scope<'_> {
        Scope {
            graph: self.graph.borrow_mut(),
            site: at.to_string(),
            // Where an operation sums nothing, the policy's word on accumulation counts for nothing.
            formats: Formats { accumulate: Format::F32, ..self.policy.formats(at) },
            products: self.products,
        }
    }

    fn named(&self, name: &str) -> String {
        self.interface.names.get(name).map_or(name, |name| *name).to_owned()
    }

    fn batch_dim(&self) -> Dim {
        self.interface.batch.map_or(Dim::Fixed(1), |name| Dim::Named(name.to_owned()))
    }

    /// Of a name with a number what stands before it counts.
    fn token_dim(&self, name: &str, fixed: usize) -> Dim {
        let name = name.split_once('.').map_or(name, |(name, _)| name);
        let open = self.interface.open_tokens.get(name);
        open.map_or(Dim::Fixed(fixed), |open| Dim::Named((*open).to_owned()))
    }

    /// Makes a part of the recorded prompt the output `name: [batch, tokens]`, bool.
    ///
    /// # Errors
    /// No prompt was recorded.
    pub fn output_part(&self, part: Part, name: &str) -> Result<()> {
        let mask = self.prompt_part(part)?;
        let dims = [self.batch_dim(), self.token_dim(name, 0)];
        self.graph.borrow_mut().output(&mask, name, data_type::BOOL, &dims);
        Ok(())
    }

    fn prompt_part(&self, part: Part) -> Result<Rc<str>> {
        let prompt = self.prompt.borrow();
        match (&*prompt, part) {
            (Some(prompt), Part::Images) => Ok(Rc::clone(&prompt.images)),
            (Some(prompt), Part::Text) => Ok(Rc::clone(&prompt.text)),
            (None, _) => {
                Err(Error::input("input_ids", "no prompt was recorded before its parts were asked for"))
            }
        }
    }

    fn prompt_positions(&self, at: &Site) -> Result<Rc<str>> {
        let positions = self.positions.borrow().clone();
        positions.ok_or_else(|| mismatch(at, "positions", "no prompt was embedded".to_owned()))
    }

    /// Where the tokens of a prompt stand whose images have these grids of tokens, as
    /// [`Places::Prompt`](super::Places::Prompt) has it.
    fn prompt_places(&self, grids: &[Grid], at: &Site) -> Result<Rc<str>> {
        if let Some(places) = &*self.places.borrow() {
            return Ok(Rc::clone(places));
        }
        let (positions, images) = (self.prompt_positions(at)?, self.prompt_part(Part::Images)?);
        let mut graph = self.graph.borrow_mut();
        let places = layout::prompt_places(&mut graph, &positions, &images, grids);
        Ok(Rc::clone(self.places.borrow_mut().insert(Rc::from(places))))
    }

    fn causal(&self, at: &Site) -> Result<Rc<str>> {
        if let Some(mask) = &*self.causal.borrow() {
            return Ok(Rc::clone(mask));
        }
        let positions = self.prompt_positions(at)?;
        let mut graph = self.graph.borrow_mut();
        let axes = [graph.integers(&[0, 1, 3]), graph.integers(&[0, 1, 2])];
        let [queries, keys] = axes.map(|axes| graph.node("causal", "Unsqueeze", &[&positions, &axes], &[]));
        let mut mask = graph.node("causal", "GreaterOrEqual", &[&queries, &keys], &[]);
        if let Some(attended) = &*self.attended.borrow() {
            let axes = graph.integers(&[1, 2]);
            let seen = graph.node("causal", "Unsqueeze", &[attended, &axes], &[]);
            // A token that none may see sees itself: softmax over nothing is no number, which would spread.
            let own = graph.node("causal", "Equal", &[&queries, &keys], &[]);
            let seen = graph.node("causal", "Or", &[&seen, &own], &[]);
            mask = graph.node("causal", "And", &[&mask, &seen], &[]);
        }
        Ok(Rc::clone(self.causal.borrow_mut().insert(Rc::from(mask))))
    }

    /// The ids that choose category-specific weights, `embodiment_id: [batch]`, int64.
    fn embodiments(&self) -> Rc<str> {
        let mut input = self.embodiments.borrow_mut();
        let declared = || {
            let name = self.named("embodiment_id");
            Rc::from(self.graph.borrow_mut().input(&name, data_type::INT64, &[self.batch_dim()]))
        };
        Rc::clone(input.get_or_insert_with(declared))
    }

    fn binary(&self, op: &'static str, a: &Value, b: &Value, at: &Site) -> Result<Value> {
        if a.shape[2] != b.shape[2] {
            return Err(mismatch(at, op, format!("{:?} and {:?}", a.shape, b.shape)));
        }
        let mut scope = self.scope(at);
        let [left, right] = [a, b].map(|x| scope.wide(x));
        let result = scope.op(op, &[&left, &right]);
        // A token keeps its place, and with it whether it may be seen.
        let seen = a.seen.clone().or_else(|| b.seen.clone());
        Ok(Value { seen, ..scope.store(result, a.shape) })
    }
}
