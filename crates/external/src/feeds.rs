//! What an engine's inputs are among the tensors of an inference, and where its outputs belong.

use crate::bindings::{Binding, Bindings, Tensor};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::{Component, Edge};
use steadyhand_gr00t::{Error, Result};

/// Inputs that only a graph of one Euler step has, by our names and NVIDIA's.
const EACH_STEP: [&str; 4] = ["timestep", "timesteps", "dit_output", "model_output"];

/// The tensors of one inference, by the names of its taps and inputs.
pub trait Tensors {
    /// The tensor of this name, such as `noise` or `step.2.dit.tokens`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor>;
}

/// Where an engine's inputs come from.
#[derive(Debug, Clone, Copy)]
pub struct Feeds<'m> {
    /// The id of image tokens in a prompt.
    pub image_token_index: i64,
    /// The tap of what the DiT attends to.
    pub memory: &'m str,
}

impl Feeds<'_> {
    /// The Euler steps for which an engine with these bindings is called in an inference; none where it is called once.
    pub fn steps(bindings: &Bindings, denoising_steps: usize) -> Vec<Option<usize>> {
        match bindings.inputs().any(|input| EACH_STEP.contains(&input.name.as_str())) {
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
            "image_mask" => mask(tensors, |id| id == self.image_token_index),
            "backbone_attention_mask" => mask(tensors, |_| true),
            "state" => tensors.tensor("action_head.state"),
            name @ ("backbone_features" | "noise" | "embodiment_id" | "input_ids") => tensors.tensor(name),
            name if name.starts_with("pixel_values.") => tensors.tensor(name),
            name => {
                let edges = Component::ALL.iter().flat_map(|(_, component)| component.edges());
                let edge = edges.filter(|edge| !edge.is_output).find(|edge| edge.is_called(name));
                let edge = edge.ok_or_else(|| {
                    let what = "expected an input of a graph exported by steady, found another";
                    Error::input(format!("input {name}"), what)
                })?;
                tensors.tensor(&self.tap_of(edge, step))
            }
        }
    }

    /// The tap that an output of an engine with these bindings is; none for one that is no tap.
    ///
    /// # Errors
    /// No graph of this project has an output of this name.
    pub fn output(&self, bindings: &Bindings, name: &str, step: Option<usize>) -> Result<Option<String>> {
        let inputs: Vec<&str> = bindings.inputs().map(|input| input.name.as_str()).collect();
        let edges = Component::of_inputs(&inputs).map_or(&[][..], |component| component.edges());
        if let Some(edge) = edges.iter().find(|edge| edge.is_output && edge.is_called(name)) {
            return Ok(Some(self.tap_of(edge, step)));
        }
        match name {
            "action_pred" | "backbone_features" => Ok(Some(name.to_owned())),
            "image_mask" => Ok(None),
            _ => {
                let what = "expected an output of a graph exported by steady, found another";
                Err(Error::input(format!("output {name}"), what))
            }
        }
    }

    /// What comes from before the Euler steps has no step in its name.
    pub(crate) fn tap_of(&self, edge: &Edge, step: Option<usize>) -> String {
        match (edge.tap.unwrap_or(self.memory), step) {
            (tap, Some(step)) if edge.tap.is_some() && !tap.starts_with("action_head.") => {
                format!("step.{step}.{tap}")
            }
            (tap, _) => tap.to_owned(),
        }
    }
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
