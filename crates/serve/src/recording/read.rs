//! Reading: what clients asked and were answered, as engines can be shown it again.

use super::{FINGERPRINT, SOURCE, TAG, name};
use crate::options::Noise;
use crate::{Error, Result};
use bytes::Bytes;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use steadyhand_fidelity::Trace;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::processor::{EmbodimentModalities, Processor};
use steadyhand_gr00t::rtc::{Rtc, RtcOptions};
use steadyhand_gr00t::{ActionChunk, Image, Matrix, Observation};

/// A recording that is open. Holds names and places, no data.
#[derive(Debug, Clone)]
pub struct Recording {
    trace: Rc<Trace>,
    count: usize,
}

/// One observation of a recording.
#[derive(Debug)]
pub struct Recorded {
    /// What the client sent.
    pub observation: Observation,
    /// What its noise was drawn of.
    pub noise_of: Noise,
    /// `[action_horizon, max_action_dim]`.
    pub noise: Matrix,
    /// What the actions went on from.
    pub rtc: Option<Rtc>,
    /// What the engine gave.
    pub actions: Matrix,
    /// What the client was given.
    pub chunk: ActionChunk,
}

impl Recording {
    /// The recording that a trace is; none where something else left it.
    pub fn of(trace: Rc<Trace>) -> Option<Self> {
        let (key, value) = SOURCE;
        trace.metadata().get(key).is_some_and(|found| found == value).then(|| {
            let count = (0..).take_while(|at| trace.entry(&name(*at, "action_pred")).is_ok()).count();
            Recording { trace, count }
        })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.trace.path()
    }

    /// Observations.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What tells the weights from others.
    pub fn fingerprint(&self) -> &str {
        self.metadata(FINGERPRINT)
    }

    /// The embodiment's tag.
    pub fn embodiment_tag(&self) -> &str {
        self.metadata(TAG)
    }

    /// Metadata of the trace, empty where there is none of this key.
    pub fn metadata(&self, key: &str) -> &str {
        self.trace.metadata().get(key).map_or("", String::as_str)
    }

    /// One observation of an embodiment of these modalities.
    ///
    /// # Errors
    /// A tensor that is missing or has another form: file and name.
    pub fn get(&self, index: usize, modalities: &EmbodimentModalities) -> Result<Recorded> {
        let mut observation = Observation::default();
        for view in &modalities.video.modality_keys {
            observation.images.insert(view.clone(), self.frames(&name(index, &format!("video.{view}")))?);
        }
        for group in &modalities.state.modality_keys {
            let state = self.matrix(&name(index, &format!("state.{group}")))?;
            observation.state.insert(group.clone(), state);
        }
        let text = name(index, "instruction");
        let bytes = self.bytes(&text, Dtype::U8)?.1;
        observation.instruction =
            String::from_utf8(bytes).map_err(|_| self.wrong(&text, "expected UTF-8, found other bytes"))?;
        let mut chunk = ActionChunk::default();
        for group in &modalities.action.modality_keys {
            let actions = self.matrix(&name(index, &format!("action.{group}")))?;
            chunk.groups.push((group.clone(), actions));
        }
        Ok(Recorded {
            observation,
            noise_of: self.noise_of(index)?,
            noise: self.matrix(&name(index, "noise"))?,
            rtc: self.rtc(index)?,
            actions: self.matrix(&name(index, "action_pred"))?,
            chunk,
        })
    }

    /// What the noise of an observation was drawn of.
    ///
    /// # Errors
    /// As [`Recording::get`].
    pub fn noise_of(&self, index: usize) -> Result<Noise> {
        let of = name(index, "noise_of");
        let (_, bytes) = self.bytes(&of, Dtype::I64)?;
        let (values, []) = bytes.as_chunks::<8>() else {
            return Err(self.wrong(&of, "expected whole numbers"));
        };
        let [seed, episode, inference] = values else {
            return Err(self.wrong(&of, "expected seed, episode and inference"));
        };
        let small = |raw: &[u8; 8]| {
            let found = i64::from_le_bytes(*raw);
            u32::try_from(found).map_err(|_| self.wrong(&of, &format!("expected below 2^32, found {found}")))
        };
        Ok(Noise { seed: u64::from_le_bytes(*seed), episode: small(episode)?, inference: small(inference)? })
    }

    fn rtc(&self, index: usize) -> Result<Option<Rtc>> {
        let (previous, options) = (name(index, "rtc.previous"), name(index, "rtc.options"));
        if self.trace.entry(&previous).is_err() {
            return Ok(None);
        }
        let values = self.trace.read(&options)?;
        let [action_horizon, overlap_steps, frozen_steps, ramp_rate] = values[..] else {
            return Err(self.wrong(&options, "expected four values"));
        };
        let [action_horizon, overlap_steps, frozen_steps] =
            [action_horizon, overlap_steps, frozen_steps].map(|steps| steps as usize);
        let options = RtcOptions { action_horizon, overlap_steps, frozen_steps, ramp_rate };
        Ok(Some(Rtc { previous: self.matrix(&previous)?, options }))
    }

    fn frames(&self, name: &str) -> Result<Vec<Arc<Image>>> {
        let (shape, bytes) = self.bytes(name, Dtype::U8)?;
        let [_, height, width, 3] = shape[..] else {
            return Err(self.wrong(name, &format!("expected [T, H, W, 3], found {shape:?}")));
        };
        let image = |rgb: &[u8]| Arc::new(Image { width, height, rgb: Bytes::copy_from_slice(rgb) });
        Ok(bytes.chunks_exact((3 * height * width).max(1)).map(image).collect())
    }

    /// `[rows, cols]` or `[1, rows, cols]`.
    fn matrix(&self, name: &str) -> Result<Matrix> {
        let shape = &self.trace.entry(name)?.shape;
        let ([rows, cols] | [1, rows, cols]) = shape[..] else {
            return Err(self.wrong(name, &format!("expected [rows, cols], found {shape:?}")));
        };
        Ok(Matrix { rows, cols, data: self.trace.read(name)? })
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<u8>)> {
        let entry = self.trace.entry(name)?;
        match entry.dtype == dtype {
            true => Ok((entry.shape.clone(), self.trace.read_bytes(name)?)),
            false => Err(self.wrong(name, &format!("expected {dtype}, found {}", entry.dtype))),
        }
    }

    fn wrong(&self, name: &str, what: &str) -> Error {
        Error::field(format!("{}: {name}", self.path().display()), what)
    }
}

impl Recorded {
    /// What the engine was given.
    ///
    /// # Errors
    /// The observation does not fit the processor.
    pub fn input(&self, processor: &Processor) -> steadyhand_gr00t::Result<ModelInput> {
        let input = prepare(processor, &self.observation, self.noise.clone())?;
        Ok(ModelInput { rtc: self.rtc.clone(), ..input })
    }
}
