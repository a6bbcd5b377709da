//! From an [`Observation`] to model input, and from normalized to physical actions.
//!
//! One processor serves one embodiment of one checkpoint. It reproduces the official
//! `Gr00tN1d6Processor` in evaluation mode (`gr00t/model/gr00t_n1d6/processing_gr00t_n1d6.py`).

mod action;
mod config;
mod image;
mod language;
#[cfg(test)]
mod pattern;
mod pose;
mod resize_opencv;
mod resize_separable;
mod state;
mod statistics;
mod synthetic;
mod tokenizer;
mod tokenizer_json;
mod view;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

pub use config::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, EmbodimentModalities, ModalityConfig,
    ProcessorConfig, embodiment_id, known_embodiment_tags,
};
pub use image::PixelValues;
pub use synthetic::random_instruction;
pub use tokenizer::Tokenizer;

use action::ActionDecoder;
use image::ImageTransform;
use state::StateEncoder;
use statistics::Statistics;

use crate::checkpoint::files::processor_file;
use crate::{ActionChunk, Error, Image, Matrix, Observation, Result};

/// The longest instruction, in bytes. The model's memory grows with the square of its tokens.
const MAX_INSTRUCTION: usize = 1 << 13;
/// The most tokens of a prompt, images included.
const MAX_PROMPT: usize = 1 << 15;
/// The most time steps of a modality.
const MAX_STEPS: usize = 1 << 10;
/// The most frames of an observation: time steps times views.
const MAX_FRAMES: usize = 64;
/// The widest padded state or action.
const MAX_WIDTH: usize = 1 << 16;

/// Turns observations into model input, and model output into actions.
pub struct Processor {
    tag: String,
    embodiment_id: usize,
    modalities: EmbodimentModalities,
    formalize_language: bool,
    images: ImageTransform,
    state: StateEncoder,
    actions: ActionDecoder,
    tokenizer: Tokenizer,
    last_prompt: Mutex<Option<Arc<Prompt>>>,
}

/// An instruction among image tokens.
struct Prompt {
    instruction: String,
    /// Height and width of each image.
    sizes: Vec<[usize; 2]>,
    /// Before image placeholders are expanded.
    text: String,
    input_ids: Vec<u32>,
    /// Which image each placeholder stands for.
    order: Vec<usize>,
}

/// What a processor is made of.
struct Parts<'a> {
    /// The folder that errors name.
    origin: &'a Path,
    config: &'a ProcessorConfig,
    tag: &'a str,
    modalities: &'a EmbodimentModalities,
    embodiment_id: usize,
    statistics: Statistics,
    tokenizer: Tokenizer,
}

/// What the model takes, except for the noise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// Images in the order of their tokens in `input_ids`: time outer, view inner.
    pub pixel_values: Vec<PixelValues>,
    /// Token ids of the prompt with its image tokens.
    pub input_ids: Vec<u32>,
    /// One per token; all true, since a single prompt needs no padding.
    pub attention_mask: Vec<bool>,
    /// `[state_horizon, max_state_dim]`, normalized, zero padded.
    pub state: Matrix,
    /// Index of the embodiment's projector.
    pub embodiment_id: usize,
    /// The prompt before image placeholders (`<image-1>`) are expanded into tokens.
    pub prompt: String,
}

impl Processor {
    /// Reads `processor_config.json`, `statistics.json` and, where present, `embodiment_id.json` of a
    /// checkpoint folder or of its subfolder `processor`, for one embodiment. The tokenizer is `tokenizer`, or
    /// else the folder's own `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Input`] for an unknown embodiment tag (lists the known ones), [`Error::Io`] and
    /// [`Error::File`] for files that are missing, malformed, or do not fit each other.
    pub fn load(checkpoint: &Path, embodiment_tag: &str, tokenizer: Option<&Path>) -> Result<Self> {
        let config = ProcessorConfig::read(checkpoint)?;
        let (tag, modalities) = config.resolve_tag(embodiment_tag)?;
        check_modalities(checkpoint, tag, modalities)?;
        Processor::new(Parts {
            origin: checkpoint,
            config: &config,
            tag,
            modalities,
            embodiment_id: config::embodiment_id(checkpoint, tag)?,
            statistics: Statistics::read(checkpoint, tag)?,
            tokenizer: match tokenizer {
                Some(path) => image_tokenizer(path)?,
                None => image_tokenizer(&own_tokenizer(checkpoint)?)?,
            },
        })
    }

    fn new(parts: Parts) -> Result<Self> {
        let Parts { origin, config, tag, modalities, embodiment_id, statistics, tokenizer } = parts;
        for (name, width) in
            [("max_state_dim", config.max_state_dim), ("max_action_dim", config.max_action_dim)]
        {
            if width > MAX_WIDTH {
                let what = format!("{name}: expected at most {MAX_WIDTH}, found {width}");
                return Err(Error::file(origin.join(config::PROCESSOR_CONFIG), what));
            }
        }
        let state = StateEncoder::new(config, &modalities.state, &statistics)?;
        Ok(Processor {
            tag: tag.to_string(),
            embodiment_id,
            modalities: modalities.clone(),
            formalize_language: config.formalize_language,
            images: ImageTransform::new(config, origin)?,
            actions: ActionDecoder::new(config, &modalities.action, &statistics, &state)?,
            state,
            tokenizer,
            last_prompt: Mutex::new(None),
        })
    }

    /// The embodiment's views, joint groups and time steps.
    pub fn modalities(&self) -> &EmbodimentModalities {
        &self.modalities
    }

    /// Index of the embodiment's projector in the model.
    pub fn embodiment_id(&self) -> usize {
        self.embodiment_id
    }

    /// The embodiment tag as the checkpoint spells it.
    pub fn embodiment_tag(&self) -> &str {
        &self.tag
    }

    /// Steps of an action chunk.
    pub fn action_horizon(&self) -> usize {
        self.actions.horizon()
    }

    /// Values that a joint group of the state has at a time step; `None` for a group without statistics, or none of
    /// the embodiment's.
    pub fn state_dim(&self, group: &str) -> Option<usize> {
        self.state.dim(group)
    }

    /// Values that a joint group of the actions has at a time step; `None` for none of the embodiment's.
    pub fn action_dim(&self, group: &str) -> Option<usize> {
        self.actions.dim(group)
    }

    /// Columns of the padded state.
    pub fn max_state_dim(&self) -> usize {
        self.state.max_dim()
    }

    /// Columns of the padded action.
    pub fn max_action_dim(&self) -> usize {
        self.actions.max_dim()
    }

    /// The tokenizer, for looking up token ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Images, instruction and state as the model takes them.
    ///
    /// Views may differ in size; the official code requires one size for all.
    ///
    /// # Errors
    /// [`Error::Input`] naming the view, joint group or `instruction` that is missing or wrong.
    pub fn encode(&self, observation: &Observation) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        self.encode_into(observation, &mut encoded)?;
        Ok(encoded)
    }

    /// [`Processor::encode`] into the memory of an earlier result: pixels are large, and fresh memory costs more
    /// than computing them. After an error `encoded` holds anything.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn encode_into(&self, observation: &Observation, encoded: &mut Encoded) -> Result<()> {
        encoded.state = self.state.encode(observation)?;
        let frames = self.frames(observation)?;
        let images = &mut encoded.pixel_values;
        images.resize_with(frames.len(), PixelValues::default);
        let apply = |((field, frame), pixels): (&(String, &Image), &mut PixelValues)| {
            self.images.apply_into(field, frame, pixels)
        };
        match (&frames[..], &mut images[..]) {
            // One frame is not worth waking another thread for.
            ([frame], [pixels]) => apply((frame, pixels))?,
            (frames, pixels) => frames.par_iter().zip(pixels).try_for_each(apply)?,
        }

        let prompt = self.prompt(&observation.instruction, images)?;
        if !prompt.order.iter().copied().eq(0..images.len()) {
            *images = prompt.order.iter().map(|&index| images[index].clone()).collect();
        }
        encoded.input_ids.clone_from(&prompt.input_ids);
        encoded.attention_mask.clear();
        encoded.attention_mask.resize(prompt.input_ids.len(), true);
        encoded.prompt.clone_from(&prompt.text);
        encoded.embodiment_id = self.embodiment_id;
        Ok(())
    }

    /// The prompt for an instruction and images of these sizes. The last one is kept: a robot is told the same
    /// for a whole episode.
    fn prompt(&self, instruction: &str, images: &[PixelValues]) -> Result<Arc<Prompt>> {
        let sizes = || images.iter().map(|image| [image.height, image.width]);
        let last = || self.last_prompt.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = last().clone();
        if let Some(prompt) = kept
            && prompt.instruction == instruction
            && prompt.sizes.iter().copied().eq(sizes())
        {
            return Ok(prompt);
        }
        if instruction.len() > MAX_INSTRUCTION {
            let what = format!("expected at most {MAX_INSTRUCTION} bytes, found {}", instruction.len());
            return Err(Error::input("instruction", what));
        }
        let formal = self.formalize_language.then(|| language::formalize(instruction));
        let text = language::chat(formal.as_deref().unwrap_or(instruction), images.len());
        let (expanded, order) = language::expand(&text, images)?;
        let input_ids = self.tokenizer.encode(&expanded)?;
        if input_ids.len() > MAX_PROMPT {
            let what = format!("expected a prompt of at most {MAX_PROMPT} tokens, found {}", input_ids.len());
            return Err(Error::input("instruction", what));
        }
        let sizes = sizes().collect();
        let prompt = Arc::new(Prompt { instruction: instruction.to_owned(), sizes, text, input_ids, order });
        *last() = Some(Arc::clone(&prompt));
        Ok(prompt)
    }

    /// Physical actions from the model's normalized ones.
    ///
    /// `normalized`: `[>= action_horizon, max_action_dim]`. `observation`: the one that was encoded;
    /// relative groups start from the last time step of its raw state.
    ///
    /// # Errors
    /// [`Error::Input`] when `normalized` has another shape or is not finite, or when a relative
    /// group's state is missing or wrong.
    pub fn decode(&self, normalized: &Matrix, observation: &Observation) -> Result<ActionChunk> {
        self.actions.decode(normalized, observation, &self.state)
    }

    /// The frames of all views with their names for errors: time outer, view inner.
    fn frames<'a>(&self, observation: &'a Observation) -> Result<Vec<(String, &'a Image)>> {
        let video = &self.modalities.video;
        let steps = video.delta_indices.len();
        let mut views = Vec::with_capacity(video.modality_keys.len());
        for key in &video.modality_keys {
            let field = format!("video.{key}");
            let Some(frames) = observation.images.get(key) else {
                let what = format!("missing; expected views: {}", video.modality_keys.join(", "));
                return Err(Error::input(field, what));
            };
            if frames.len() != steps {
                return Err(Error::input(field, format!("expected {steps} frames, found {}", frames.len())));
            }
            views.push((field, frames));
        }
        let at = |step: usize| views.iter().map(move |(field, frames)| (field.clone(), &frames[step]));
        Ok((0..steps).flat_map(at).collect())
    }
}

/// The tokenizer's file or folder of a checkpoint that has its own.
fn own_tokenizer(checkpoint: &Path) -> Result<PathBuf> {
    let file = processor_file(checkpoint, "tokenizer.json");
    if file.exists() {
        return Ok(file);
    }
    if checkpoint.join("vocab.json").exists() {
        return Ok(checkpoint.to_path_buf());
    }
    let what = "expected a tokenizer.json, found none; name one with --tokenizer. GR00T N1.6 takes the tokenizer of \
                Eagle-Block2A-2B-v2: the folder gr00t/model/modules/nvidia/Eagle-Block2A-2B-v2 of NVIDIA's \
                Isaac-GR00T repository (vocab.json, merges.txt, tokenizer_config.json)";
    Err(Error::file(checkpoint, what))
}

/// A tokenizer that knows the token of an image feature.
fn image_tokenizer(path: &Path) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_path(path)?;
    match tokenizer.token_id(language::IMAGE_TOKEN) {
        Some(_) => Ok(tokenizer),
        None => Err(Error::file(path, format!("the tokenizer has no {} token", language::IMAGE_TOKEN))),
    }
}

/// What every embodiment needs: views, frames, groups, steps, and exactly one instruction.
fn check_modalities(checkpoint: &Path, tag: &str, modalities: &EmbodimentModalities) -> Result<()> {
    let EmbodimentModalities { video, state, action, language } = modalities;
    let error = |what: String| Err(Error::file(checkpoint.join(config::PROCESSOR_CONFIG), what));
    for (name, modality) in [("video", video), ("state", state), ("action", action), ("language", language)] {
        if modality.modality_keys.is_empty() || modality.delta_indices.is_empty() {
            return error(format!("{tag}.{name}: expected at least one key and one delta index"));
        }
        let steps = modality.delta_indices.len();
        if steps > MAX_STEPS {
            return error(format!("{tag}.{name}.delta_indices: expected at most {MAX_STEPS}, found {steps}"));
        }
    }
    let frames = video.delta_indices.len().saturating_mul(video.modality_keys.len());
    if frames > MAX_FRAMES {
        return error(format!("{tag}.video: expected at most {MAX_FRAMES} frames in all, found {frames}"));
    }
    // Row i of a chunk is the action of step i: nothing downstream reads other places.
    if let Some((row, delta)) = (0..).zip(&action.delta_indices).find(|(row, delta)| row != *delta) {
        return error(format!(
            "{tag}.action.delta_indices: expected 0, 1, 2, …, found {delta} at place {row}"
        ));
    }
    let (keys, steps) = (language.modality_keys.len(), language.delta_indices.len());
    if (keys, steps) != (1, 1) {
        return error(format!(
            "{tag}.language: expected one key and one delta index, found {keys} and {steps}"
        ));
    }
    Ok(())
}
