//! What an engine's inputs are in a recording, and where its outputs belong.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use steadyhand_external::bindings::{Binding, Bindings, Tensor};
use steadyhand_external::feeds::{Feeds, Tensors};
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::Error;
use steadyhand_gr00t_lab::diagnosis::{FEATURES, MEMORY, OfInference};

/// A recording, and the facts about it that inputs need.
pub struct Recording {
    trace: Trace,
    /// Euler steps of each inference.
    pub denoising_steps: usize,
    image_token_index: i64,
    /// What the DiT attends to.
    memory: String,
    /// What makes the backbone's features.
    features: String,
    /// Inferences, counted from 0.
    pub inferences: usize,
}

/// One run of an engine on a recording: an inference, and the Euler step where the engine computes one.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub inference: usize,
    pub step: Option<usize>,
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
        let features = trace.metadata().get(FEATURES).map_or("language.norm", String::as_str).to_owned();
        let inferences = inferences.len();
        Ok(Recording { trace, denoising_steps, image_token_index, memory, features, inferences })
    }

    /// What a trace of an engine's outputs says of where its inputs came from.
    pub fn origin(&self) -> impl Iterator<Item = (String, String)> {
        let kept = ["checkpoint", "dataset", "embodiment_tag", "episode", "steps", "seed"];
        let of = |key: &str| Some((key.to_owned(), self.trace.metadata().get(key)?.clone()));
        kept.into_iter().filter_map(of).collect::<Vec<_>>().into_iter()
    }

    fn feeds(&self) -> Feeds<'_> {
        Feeds { image_token_index: self.image_token_index, memory: &self.memory, features: &self.features }
    }

    /// The calls that an engine with these bindings makes: one an inference, or one an Euler step.
    pub fn calls(&self, bindings: &Bindings) -> Vec<Call> {
        let steps = Feeds::steps(bindings, self.denoising_steps);
        let calls = |inference| steps.iter().map(move |step| Call { inference, step: *step });
        (0..self.inferences).flat_map(calls).collect()
    }

    /// The tensor for an input, as it was recorded.
    ///
    /// # Errors
    /// The recording does not have it; no recording knows an input of this name.
    pub fn input(&self, binding: &Binding, call: Call) -> Result<Tensor> {
        let inference = OfRecording { recording: self, inference: call.inference };
        Ok(self.feeds().input(&inference, binding, call.step)?)
    }

    /// The taps of a trace that an output of an engine with these bindings is; none for one that is no tap.
    ///
    /// # Errors
    /// No trace knows an output of this name.
    pub fn output(
        &self,
        bindings: &Bindings,
        name: &str,
        tensor: Tensor,
        call: Call,
    ) -> Result<Vec<(String, Tensor)>> {
        let taps = self.feeds().output(bindings, name, tensor, call.step)?.into_iter();
        Ok(taps.map(|(tap, tensor)| (OfInference::name(call.inference, &tap), tensor)).collect())
    }
}

/// One inference of a recording.
struct OfRecording<'r> {
    recording: &'r Recording,
    inference: usize,
}

impl Tensors for OfRecording<'_> {
    fn tensor(&self, name: &str) -> steadyhand_gr00t::Result<Tensor> {
        let (trace, name) = (&self.recording.trace, OfInference::name(self.inference, name));
        let entry = trace.entry(&name).map_err(Error::engine)?;
        Tensor::new(entry.dtype, &entry.shape, trace.read_bytes(&name).map_err(Error::engine)?)
    }

    fn has(&self, name: &str) -> bool {
        self.recording.trace.entry(&OfInference::name(self.inference, name)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use steadyhand_external::bindings::Direction;
    use steadyhand_fidelity::TraceWriter;
    use steadyhand_fidelity::trace::Dtype;

    /// A recording of one inference of images of these widths.
    fn recording(folder: &std::path::Path, widths: &[usize]) -> Recording {
        let metadata = [("denoising_steps", "4"), ("image_token_index", "7")];
        let metadata: BTreeMap<String, String> =
            metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut writer = TraceWriter::create(folder, metadata).expect("a folder");
        for (index, width) in widths.iter().enumerate() {
            let pixels = vec![index as f32; 3 * width];
            writer.add(&format!("000/pixel_values.{index}"), &[1, 3, 1, *width], &pixels).expect("written");
        }
        writer.finish().expect("written");
        Recording::new(Trace::open(folder).expect("what was written")).expect("a recording")
    }

    fn pixels() -> Binding {
        Binding {
            name: "pixel_values".to_owned(),
            direction: Direction::Input,
            dtype: Dtype::F32,
            shape: vec![-1, 3, 1, 2],
            profile: None,
        }
    }

    const CALL: Call = Call { inference: 0, step: None };

    #[test]
    fn images_of_one_observation_are_one_tensor() {
        let folder = tempfile::tempdir().expect("a folder");
        let two = recording(&folder.path().join("two"), &[2, 2]);
        let tensor = two.input(&pixels(), CALL).expect("images of one size");
        let expected = [[0f32; 6], [1f32; 6]].concat();
        assert_eq!(tensor, Tensor::floats(&[2, 3, 1, 2], &expected).expect("a tensor"));
        let odd = recording(&folder.path().join("odd"), &[2, 4]);
        let refusal = odd.input(&pixels(), CALL).expect_err("another size").to_string();
        assert!(refusal.contains("pixel_values.1: expected [1, 3, 1, 2]"), "{refusal}");
    }

    #[test]
    fn outputs_of_the_vision_tower_are_taps_of_one_observation() {
        let folder = tempfile::tempdir().expect("a folder");
        let recording = recording(&folder.path().join("one"), &[2]);
        let bindings = Bindings::new(vec![pixels()]);
        let values: Vec<f32> = (0u8..12).map(f32::from).collect();
        let taps = |name: &str, shape: &[usize]| -> Vec<(String, Vec<usize>, Vec<u8>)> {
            let tensor = Tensor::floats(shape, &values).expect("a tensor");
            let taps = recording.output(&bindings, name, tensor, CALL).expect("a known output");
            taps.into_iter().map(|(tap, own)| (tap, own.shape().to_vec(), own.bytes().to_vec())).collect()
        };
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let whole = |tap: &str, shape: [usize; 3]| vec![(tap.to_owned(), shape.to_vec(), bytes(&values))];
        assert_eq!(taps("vit_embeds", &[2, 3, 2]), whole("000/vision.post_layernorm", [1, 6, 2]));
        assert_eq!(taps("image_embeds", &[6, 2]), whole("000/vision.merger", [1, 6, 2]));
        let layer = |index: usize, part: &[f32]| {
            (format!("000/vision.deepstack.{index}"), vec![1, 3, 2], bytes(part))
        };
        let layers = vec![layer(0, &values[..6]), layer(1, &values[6..])];
        assert_eq!(taps("deepstack_features", &[2, 3, 2]), layers);
    }
}
