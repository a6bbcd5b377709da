//! From an [`Observation`] to model input, and from normalized to physical actions.
//!
//! One processor serves one embodiment of one checkpoint. It reproduces the official processor of the checkpoint's
//! version in evaluation mode: `Gr00tN1d6Processor` (`gr00t/model/gr00t_n1d6/processing_gr00t_n1d6.py`) or
//! `Gr00tN1d7Processor` (`gr00t/model/gr00t_n1d7/processing_gr00t_n1d7.py`). There is one pipeline; where the versions
//! differ, each step holds a value for each of them:
//!
//! | step | what differs | where |
//! |---|---|---|
//! | configuration | defaults of absent keys | `ProcessorConfig::defaults` |
//! | embodiments | tags, their names, slots | `embodiments` |
//! | images | pixels of a token, bounds, the last resize; whether views must agree in size | `grid`, `image` |
//! | prompt | system turn, order, placeholders, special tokens | `language::Template` |
//! | actions | the format that relative poses are read in; whether the horizon is bounded | `action`, `Processor::new` |

mod action;
mod config;
mod embodiments;
mod grid;
mod image;
mod language;
#[cfg(test)]
mod pattern;
mod plan;
mod pose;
mod resize_opencv;
mod resize_separable;
mod state;
mod statistics;
mod synthetic;
mod tokenizer;
mod tokenizer_json;
mod view;
mod vocabulary;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

pub use config::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, EmbodimentModalities, ModalityConfig,
    ProcessorConfig, known_embodiment_tags, modalities_of,
};
pub use embodiments::embodiment_id;
pub use image::{ImageStep, PixelValues};
pub use plan::{Filter, ImagePlan, RawImage, Resample, Windows};
pub(crate) use synthetic::frame_side;
pub use synthetic::random_instruction;
pub use tokenizer::Tokenizer;
pub use vocabulary::own_tokenizer;

pub(crate) use config::chosen_tag;

use action::ActionCodec;
use grid::Size;
use image::{Images, check_frame};
use language::Template;
use state::StateEncoder;
use statistics::Statistics;
use view::Recent;

use crate::{ActionChunk, Error, Image, Matrix, Observation, Result, Version};

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
    version: Version,
    tag: String,
    embodiment_id: usize,
    modalities: EmbodimentModalities,
    formalize_language: bool,
    images: Images,
    template: Template,
    state: StateEncoder,
    actions: ActionCodec,
    tokenizer: Tokenizer,
    last_prompt: Mutex<Option<Arc<Prompt>>>,
    plans: Recent<Size, ImagePlan>,
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

impl Prompt {
    /// Puts images into the order of their tokens.
    fn sort<T: Clone>(&self, images: &mut Vec<T>) {
        if !self.order.iter().copied().eq(0..images.len()) {
            *images = self.order.iter().map(|&index| images[index].clone()).collect();
        }
    }
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
    /// The prompt before image placeholders are expanded into tokens.
    pub prompt: String,
}

impl Processor {
    /// Reads `processor_config.json`, `statistics.json` and, where present, `embodiment_id.json` of a
    /// checkpoint folder or of its subfolder `processor`, for one embodiment, named by its tag or by the name of the
    /// official enum's member. The tokenizer is `tokenizer`, or else the folder's own `tokenizer.json`.
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
            embodiment_id: embodiment_id(checkpoint, config.version, tag)?,
            statistics: Statistics::read(checkpoint, tag)?,
            tokenizer: vocabulary::tokenizer(checkpoint, tokenizer, config.version)?,
        })
    }

    fn new(parts: Parts) -> Result<Self> {
        let Parts { origin, config, tag, modalities, embodiment_id, statistics, tokenizer } = parts;
        let error = |what: String| Err(Error::file(origin.join(config::PROCESSOR_CONFIG), what));
        for (name, size, most) in [
            ("max_state_dim", config.max_state_dim, MAX_WIDTH),
            ("max_action_dim", config.max_action_dim, MAX_WIDTH),
            ("max_action_horizon", config.max_action_horizon, MAX_STEPS),
        ] {
            if size > most {
                return error(format!("{name}: expected at most {most}, found {size}"));
            }
        }
        // Whether the official constructor compares the two.
        let bounded = match config.version {
            Version::N1_6 => false,
            Version::N1_7 => true,
        };
        let (steps, most) = (modalities.action.delta_indices.len(), config.max_action_horizon);
        if bounded && steps > most {
            return error(format!(
                "{tag}.action.delta_indices: expected at most max_action_horizon = {most}, found {steps}"
            ));
        }
        let state = StateEncoder::new(config, &modalities.state, &statistics)?;
        Ok(Processor {
            version: config.version,
            tag: tag.to_string(),
            embodiment_id,
            modalities: modalities.clone(),
            formalize_language: config.formalize_language,
            images: Images::new(config, origin)?,
            template: Template::of(config.version),
            actions: ActionCodec::new(config, &modalities.action, &statistics, &state)?,
            state,
            tokenizer,
            last_prompt: Mutex::new(None),
            plans: Recent::new(),
        })
    }

    /// Whose processor it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Pixels per side of the square that becomes one language token.
    pub fn token_side(&self) -> usize {
        self.images.grid().token_side
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

    /// The joint groups of the actions in order: the name, the columns in the model's actions, and whether they are
    /// relative to the state there.
    pub fn action_columns(&self) -> impl Iterator<Item = (&str, Range<usize>, bool)> {
        self.actions.columns()
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
    /// Views may differ in size; for N1.7 they must agree once they are resized and cropped.
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
        self.encode_by(&self.images, observation, encoded)
    }

    /// What [`Processor::encode`] would give where one step of the images' way were left out, or bars were added that the
    /// checkpoint does not ask for: how implementations go wrong. None where the checkpoint has no such step.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn encode_without(&self, step: ImageStep, observation: &Observation) -> Result<Option<Encoded>> {
        let Some(images) = self.images.without(step) else { return Ok(None) };
        let mut encoded = Encoded::default();
        self.encode_by(&images, observation, &mut encoded)?;
        Ok(Some(encoded))
    }

    /// Whether frames that are not square get bars.
    pub fn letterboxes(&self) -> bool {
        self.images.has_bars()
    }

    fn encode_by(&self, way: &Images, observation: &Observation, encoded: &mut Encoded) -> Result<()> {
        encoded.state = self.state.encode(observation)?;
        let frames = self.frames(observation)?;
        way.check_sizes(&frames)?;
        let images = &mut encoded.pixel_values;
        images.resize_with(frames.len(), PixelValues::default);
        let apply = |((field, frame), pixels): (&(String, &Arc<Image>), &mut PixelValues)| {
            way.apply_into(field, frame, pixels)
        };
        match (&frames[..], &mut images[..]) {
            // One frame is not worth waking another thread for.
            ([frame], [pixels]) => apply((frame, pixels))?,
            (frames, pixels) => frames.par_iter().zip(pixels).try_for_each(apply)?,
        }

        let sizes = images.iter().map(|image| [image.height, image.width]);
        let prompt = self.prompt(&observation.instruction, &sizes.collect::<Vec<_>>())?;
        prompt.sort(images);
        self.put_prompt(&prompt, encoded);
        Ok(())
    }

    /// [`Processor::encode_into`] for an engine that processes frames: they are given as they are, each with the plan of
    /// what is to be done with it, in the order of their tokens. `encoded` holds everything but pixels.
    ///
    /// # Errors
    /// As [`Processor::encode`].
    pub fn encode_raw(&self, observation: &Observation, encoded: &mut Encoded) -> Result<Vec<RawImage>> {
        encoded.state = self.state.encode(observation)?;
        encoded.pixel_values.clear();
        let frames = self.frames(observation)?;
        self.images.check_sizes(&frames)?;
        let raw = frames.into_iter().map(|(field, frame)| {
            let plan = self.plan(&field, frame)?;
            Ok(RawImage::new(Arc::clone(frame), plan))
        });
        let mut raw = raw.collect::<Result<Vec<_>>>()?;
        let sizes: Vec<[usize; 2]> = raw.iter().map(|image| image.plan().size()).collect();
        let prompt = self.prompt(&observation.instruction, &sizes)?;
        prompt.sort(&mut raw);
        self.put_prompt(&prompt, encoded);
        Ok(raw)
    }

    fn put_prompt(&self, prompt: &Prompt, encoded: &mut Encoded) {
        encoded.input_ids.clone_from(&prompt.input_ids);
        encoded.attention_mask.clear();
        encoded.attention_mask.resize(prompt.input_ids.len(), true);
        encoded.prompt.clone_from(&prompt.text);
        encoded.embodiment_id = self.embodiment_id;
    }

    /// The plan of a frame's size, made where it is not kept.
    fn plan(&self, field: &str, frame: &Image) -> Result<Arc<ImagePlan>> {
        check_frame(field, frame)?;
        self.plans.try_get((frame.width, frame.height), |size| ImagePlan::new(&self.images, field, *size))
    }

    /// The prompt for an instruction and images of these sizes. The last one is kept: a robot is told the same
    /// for a whole episode.
    fn prompt(&self, instruction: &str, sizes: &[[usize; 2]]) -> Result<Arc<Prompt>> {
        let last = || self.last_prompt.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = last().clone();
        if let Some(prompt) = kept
            && prompt.instruction == instruction
            && prompt.sizes == sizes
        {
            return Ok(prompt);
        }
        if instruction.len() > MAX_INSTRUCTION {
            let what = format!("expected at most {MAX_INSTRUCTION} bytes, found {}", instruction.len());
            return Err(Error::input("instruction", what));
        }
        let formal = self.formalize_language.then(|| language::formalize(instruction));
        let text = self.template.chat(formal.as_deref().unwrap_or(instruction), sizes.len())?;
        let grid = self.images.grid();
        let tokens: Vec<usize> = sizes.iter().map(|[height, width]| grid.tokens(*height, *width)).collect();
        let (expanded, order) = self.template.expand(&text, &tokens)?;
        let input_ids = self.tokenizer.encode(&expanded)?;
        if input_ids.len() > MAX_PROMPT {
            let what = format!("expected a prompt of at most {MAX_PROMPT} tokens, found {}", input_ids.len());
            return Err(Error::input("instruction", what));
        }
        let sizes = sizes.to_vec();
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

    /// The model's actions for physical ones, the inverse of [`Processor::decode`]: what real-time chunking starts the
    /// next chunk from.
    ///
    /// `chunk`: 1 to `action_horizon` steps of every group. `observation`: relative groups are taken relative to the
    /// last time step of its raw state. The result is `[max_action_horizon, max_action_dim]`, zero padded; its row `i`
    /// is the chunk's, scaled by the statistics of step `i`. As in training, values are clipped to `[-1, 1]` where
    /// `clip_outliers` is set, and a dimension without range is 0.
    ///
    /// # Errors
    /// [`Error::Input`] when a group is missing, has another shape or is not finite, or when a relative group's state
    /// is missing or wrong.
    pub fn encode_actions(&self, chunk: &ActionChunk, observation: &Observation) -> Result<Matrix> {
        self.actions.encode(chunk, observation, &self.state)
    }

    /// The frames of all views with their names for errors: time outer, view inner.
    fn frames<'a>(&self, observation: &'a Observation) -> Result<Vec<(String, &'a Arc<Image>)>> {
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
