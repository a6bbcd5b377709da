//! What an engine's inputs are among the tensors of an inference, and where its outputs belong.

use crate::bindings::{Binding, Bindings, Tensor};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::{Blocks, Component, Edge};
use steadyhand_gr00t::{Error, Result};

/// Inputs that only a graph of one Euler step has, by our names and NVIDIA's.
const EACH_STEP: [&str; 4] = ["timestep", "timesteps", "dit_output", "model_output"];

/// What NVIDIA's `llm` gives.
const EMBEDDINGS: &str = "embeddings";
/// Dimensions of a tensor of images.
const IMAGES: usize = 4;

/// The tensors of one inference, by the names of its taps and inputs.
pub trait Tensors {
    /// The tensor of this name, such as `noise` or `step.2.dit.tokens`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// Whether there is one of this name.
    fn has(&self, name: &str) -> bool;
}

/// Where an engine's inputs come from.
#[derive(Debug, Clone, Copy)]
pub struct Feeds<'m> {
    /// The id of image tokens in a prompt.
    pub image_token_index: i64,
    /// The tap of what the DiT attends to.
    pub memory: &'m str,
    /// The tap of what makes the backbone's features.
    pub features: &'m str,
}

impl Feeds<'_> {
    /// The Euler steps for which an engine with these bindings is called in an inference; none where it is called once.
    pub fn steps(bindings: &Bindings, denoising_steps: usize) -> Vec<Option<usize>> {
        let each = |name: &str| EACH_STEP.contains(&name) || Blocks::tap(name).is_some();
        match bindings.inputs().any(|input| each(&input.name)) {
            true => (0..denoising_steps).map(Some).collect(),
            false => vec![None],
        }
    }

    /// The tensor for an input of a call in the Euler step `step`.
    ///
    /// # Errors
    /// `tensors` do not have it; no graph of this project has an input of this name.
    pub fn input(&self, tensors: &dyn Tensors, binding: &Binding, step: Option<usize>) -> Result<Tensor> {
        match binding.name.as_str() {
            "image_mask" | "visual_pos_masks" => mask(tensors, |id| id == self.image_token_index),
            "backbone_attention_mask" => mask(tensors, |_| true),
            "attention_mask" => attention_mask(tensors),
            "pixel_values" if binding.shape.len() == IMAGES => images(tensors),
            "state" => tensors.tensor("action_head.state"),
            name @ ("backbone_features" | "noise" | "embodiment_id" | "input_ids") => tensors.tensor(name),
            name if name.starts_with("pixel_values.") => tensors.tensor(name),
            name => {
                if let Some(tap) = Blocks::tap(name) {
                    return tensors.tensor(&in_step(&tap, step));
                }
                let edges = Component::ALL.iter().flat_map(|(_, component)| component.edges());
                let edge = edges.filter(|edge| !edge.is_output).find(|edge| edge.is_called(name));
                let edge = edge.ok_or_else(|| {
                    let what = "expected an input of a graph exported by steady, found another";
                    Error::input(format!("input {name}"), what)
                })?;
                let tensor = tensors.tensor(&self.tap_of(edge, step))?;
                match tensor.shape() {
                    // Some parts take one observation, without a dimension for more.
                    [1, rows @ ..] if rows.len() == binding.shape.len() => {
                        let rows = rows.to_vec();
                        tensor.reshaped(&rows)
                    }
                    _ => Ok(tensor),
                }
            }
        }
    }

    /// The taps that an output of an engine with these bindings is; none for one that is no tap.
    ///
    /// # Errors
    /// No graph of this project has an output of this name.
    pub fn output(
        &self,
        bindings: &Bindings,
        name: &str,
        tensor: Tensor,
        step: Option<usize>,
    ) -> Result<Vec<(String, Tensor)>> {
        if let Some(tap) = Blocks::tap(name) {
            return Ok(vec![(in_step(&tap, step), tensor)]);
        }
        let edges = part_of(bindings).map_or(&[][..], |component| component.edges());
        if let Some(edge) = edges.iter().find(|edge| edge.is_output && edge.is_called(name)) {
            let tap = self.tap_of(edge, step);
            return match (name, tensor.shape()) {
                // Layers one after the other, each of which is a tap.
                ("deepstack_features", [layers, rows, features]) if *layers > 0 => {
                    let (shape, length) = ([1, *rows, *features], tensor.bytes().len() / layers);
                    let layer = |(index, bytes): (usize, &[u8])| {
                        Ok((format!("{tap}.{index}"), Tensor::new(tensor.dtype(), &shape, bytes.to_vec())?))
                    };
                    tensor.bytes().chunks_exact(length.max(1)).enumerate().map(layer).collect()
                }
                // The images of one observation.
                ("vit_embeds", [images, patches, features]) => {
                    let shape = [1, images * patches, *features];
                    Ok(vec![(tap, tensor.reshaped(&shape)?)])
                }
                ("image_embeds", [rows, features]) => {
                    let shape = [1, *rows, *features];
                    Ok(vec![(tap, tensor.reshaped(&shape)?)])
                }
                _ => Ok(vec![(tap, tensor)]),
            };
        }
        match name {
            "action_pred" | "backbone_features" => Ok(vec![(name.to_owned(), tensor)]),
            "image_mask" => Ok(Vec::new()),
            _ => {
                let what = "expected an output of a graph exported by steady, found another";
                Err(Error::input(format!("output {name}"), what))
            }
        }
    }

    /// What comes from before the Euler steps has no step in its name.
    pub(crate) fn tap_of(&self, edge: &Edge, step: Option<usize>) -> String {
        match (edge.tap, step) {
            (Some(tap), step) if !tap.starts_with("action_head.") => in_step(tap, step),
            (Some(tap), _) => tap.to_owned(),
            (None, _) if edge.name == EMBEDDINGS => self.features.to_owned(),
            (None, _) => self.memory.to_owned(),
        }
    }
}

/// A tap's name in an Euler step, where the engine is called in one.
pub(crate) fn in_step(tap: &str, step: Option<usize>) -> String {
    step.map_or(tap.to_owned(), |step| format!("step.{step}.{tap}"))
}

/// The part of the model that an engine with these bindings is, of those that NVIDIA's exporter cuts, or blocks of one.
pub fn part_of(bindings: &Bindings) -> Option<Component> {
    let inputs: Vec<&str> = bindings.inputs().map(|input| input.name.as_str()).collect();
    match bindings.blocks() {
        None | Some(Blocks { first: 0, end: None }) => Component::of_inputs(&inputs),
        Some(blocks) => Some(Component::Blocks(blocks)),
    }
}

/// 1 for each token of the prompt: none of an inference is padding.
fn attention_mask(tensors: &dyn Tensors) -> Result<Tensor> {
    let mask = mask(tensors, |_| true)?;
    let ones = mask.bytes().iter().flat_map(|seen| i64::from(*seen).to_le_bytes()).collect();
    Tensor::new(Dtype::I64, mask.shape(), ones)
}

/// All images of an inference, `[images, 3, height, width]`, which have one size.
fn images(tensors: &dyn Tensors) -> Result<Tensor> {
    let name = |index: usize| format!("pixel_values.{index}");
    let first = tensors.tensor(&name(0))?;
    let mut bytes = first.bytes().to_vec();
    let mut count = 1;
    while tensors.has(&name(count)) {
        let next = tensors.tensor(&name(count))?;
        if next.shape() != first.shape() || next.dtype() != first.dtype() {
            let what = format!(
                "expected {:?}, as of the other images, which go into one tensor, found {:?}",
                first.shape(),
                next.shape()
            );
            return Err(Error::input(name(count), what));
        }
        bytes.extend_from_slice(next.bytes());
        count += 1;
    }
    let shape: Vec<usize> = std::iter::once(count).chain(first.shape().iter().skip(1).copied()).collect();
    Tensor::new(first.dtype(), &shape, bytes)
}

/// A bool for each token of the prompt.
fn mask(tensors: &dyn Tensors, holds: impl Fn(i64) -> bool) -> Result<Tensor> {
    let ids = tensors.tensor("input_ids")?;
    if ids.dtype() != Dtype::I64 {
        return Err(Error::input("input_ids", format!("expected I64, found {}", ids.dtype())));
    }
    let (elements, _) = ids.bytes().as_chunks();
    let mask = elements.iter().map(|bytes| u8::from(holds(i64::from_le_bytes(*bytes)))).collect();
    Tensor::new(Dtype::Bool, ids.shape(), mask)
}
