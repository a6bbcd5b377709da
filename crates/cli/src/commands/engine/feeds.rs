//! What an engine's inputs are in a recording, and where its outputs belong.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use steadyhand_external::bindings::{Binding, Bindings, Tensor};
use steadyhand_fidelity::Trace;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::export::{Component, Edge};
use steadyhand_gr00t_lab::diagnosis::{MEMORY, OfInference};

/// A recording, and the facts about it that inputs need.
pub struct Recording {
    trace: Trace,
    /// Euler steps of each inference.
    pub denoising_steps: usize,
    image_token_index: i64,
    /// What the DiT attends to.
    memory: String,
    /// Inferences, counted from 0.
    pub inferences: usize,
}

/// One run of an engine on a recording: an inference, and the Euler step where the engine computes one.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub inference: usize,
    pub step: Option<usize>,
}

impl Call {
    /// The name of a tap of this call.
    fn tap(self, name: &str) -> String {
        match self.step {
            Some(step) => OfInference::name(self.inference, &format!("step.{step}.{name}")),
            None => OfInference::name(self.inference, name),
        }
    }
}

impl Recording {
    /// Reads a recording's names and metadata.
    ///
    /// # Errors
    /// It is none of `steady record`.
    pub fn new(trace: Trace) -> Result<Self> {
        let number = |key: &str| -> Result<i64> {
            let value = trace.metadata().get(key);
            let value = value.with_context(|| {
                format!("{}: {key}: expected it in the metadata, found none", trace.path().display())
            })?;
            value.parse().with_context(|| format!("{}: {key}: `{value}`", trace.path().display()))
        };
        let (steps, image_token_index) = (number("denoising_steps")?, number("image_token_index")?);
        let inferences: BTreeSet<usize> =
            trace.names().filter_map(|name| name.split_once('/')?.0.parse().ok()).collect();
        let denoising_steps = usize::try_from(steps).ok().filter(|steps| *steps > 0);
        let denoising_steps = denoising_steps.with_context(|| {
            format!("{}: denoising_steps: expected at least 1, found {steps}", trace.path().display())
        })?;
        ensure!(
            !inferences.is_empty(),
            "{}: expected recorded inferences, found none",
            trace.path().display()
        );
        // Recordings of older versions have none.
        let memory = trace.metadata().get(MEMORY).map_or("action_head.vl_norm", String::as_str).to_owned();
        Ok(Recording { trace, denoising_steps, image_token_index, memory, inferences: inferences.len() })
    }

    /// What a trace of an engine's outputs says of where its inputs came from.
    pub fn origin(&self) -> impl Iterator<Item = (String, String)> {
        let kept = ["checkpoint", "dataset", "embodiment_tag", "episode", "steps", "seed"];
        let of = |key: &str| Some((key.to_owned(), self.trace.metadata().get(key)?.clone()));
        kept.into_iter().filter_map(of).collect::<Vec<_>>().into_iter()
    }

    /// The calls that an engine with these bindings makes: one an inference, or one an Euler step.
    pub fn calls(&self, bindings: &Bindings) -> Vec<Call> {
        let each_step = ["timestep", "timesteps", "dit_output", "model_output"];
        let steps: Vec<Option<usize>> =
            match bindings.inputs().any(|input| each_step.contains(&input.name.as_str())) {
                true => (0..self.denoising_steps).map(Some).collect(),
                false => vec![None],
            };
        let calls = |inference| steps.iter().map(move |step| Call { inference, step: *step });
        (0..self.inferences).flat_map(calls).collect()
    }

    /// The tensor for an input, as it was recorded.
    ///
    /// # Errors
    /// The recording does not have it; no recording knows an input of this name.
    pub fn input(&self, binding: &Binding, call: Call) -> Result<Tensor> {
        let whole = Call { step: None, ..call };
        match binding.name.as_str() {
            "image_mask" => self.mask(whole, |id| id == self.image_token_index),
            "backbone_attention_mask" => self.mask(whole, |_| true),
            "state" => self.read(&whole.tap("action_head.state")),
            name @ ("backbone_features" | "noise" | "embodiment_id" | "input_ids") => {
                self.read(&whole.tap(name))
            }
            name if name.starts_with("pixel_values.") => self.read(&whole.tap(name)),
            name => {
                let edges = Component::ALL.iter().flat_map(|(_, component)| component.edges());
                let edge = edges.filter(|edge| !edge.is_output).find(|edge| edge.is_called(name));
                let edge = edge.with_context(|| {
                    format!(
                        "input {name}: expected an input of a graph exported by steady, which a recording has a tensor for"
                    )
                })?;
                self.read(&self.tap_of(edge, call))
            }
        }
    }

    fn tap_of(&self, edge: &Edge, call: Call) -> String {
        match edge.tap {
            Some(tap) if tap.starts_with("action_head.") => Call { step: None, ..call }.tap(tap),
            Some(tap) => call.tap(tap),
            None => Call { step: None, ..call }.tap(&self.memory),
        }
    }

    /// Where an output of an engine with these bindings belongs in a trace; none for one that is no tap.
    ///
    /// # Errors
    /// No trace knows an output of this name.
    pub fn output(&self, bindings: &Bindings, name: &str, call: Call) -> Result<Option<String>> {
        let inputs: Vec<&str> = bindings.inputs().map(|input| input.name.as_str()).collect();
        let edges = Component::of_inputs(&inputs).map_or(&[][..], |component| component.edges());
        if let Some(edge) = edges.iter().find(|edge| edge.is_output && edge.is_called(name)) {
            return Ok(Some(self.tap_of(edge, call)));
        }
        match name {
            "action_pred" | "backbone_features" => Ok(Some(call.tap(name))),
            "image_mask" => Ok(None),
            other => bail!("output {other}: expected an output of a graph exported by steady"),
        }
    }

    fn read(&self, name: &str) -> Result<Tensor> {
        let entry = self.trace.entry(name)?;
        Ok(Tensor::new(entry.dtype, &entry.shape, self.trace.read_bytes(name)?)?)
    }

    /// A bool for each token of the prompt.
    fn mask(&self, call: Call, holds: impl Fn(i64) -> bool) -> Result<Tensor> {
        let name = call.tap("input_ids");
        let ids = self.read(&name)?;
        let found = ids.dtype();
        ensure!(found == Dtype::I64, "{}: {name}: expected I64, found {found}", self.trace.path().display());
        let (ids_bytes, _) = ids.bytes().as_chunks();
        let mask = ids_bytes.iter().map(|bytes| u8::from(holds(i64::from_le_bytes(*bytes)))).collect();
        Ok(Tensor::new(Dtype::Bool, ids.shape(), mask)?)
    }
}
