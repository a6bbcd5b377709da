//! A processor without files, and random observations: what measuring needs to pass through the same code as a
//! robot's data.
//!
//! Everything after construction is [`Processor`]'s own: the official evaluation transform of the images, the
//! scaling of states and actions (half of the action groups relative to the state, as published policies have
//! them) and the prompt's layout. Only the statistics are made up, and the tokenizer knows whole words instead
//! of Qwen's pieces.

use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

use super::grid::Grid;
use super::language::Template;
use super::statistics::Statistics;
use super::tokenizer::Tokenizer;
use super::{
    ActionConfig, ActionFormat, ActionRepresentation, ActionType, EmbodimentModalities, ModalityConfig,
    Parts, Processor, ProcessorConfig,
};
use crate::config::Config;
use crate::noise::gaussian;
use crate::{Error, Image, Matrix, Observation, Result, Version};

/// What errors name in place of a folder.
const ORIGIN: &str = "synthetic processor";
const TAG: &str = "new_embodiment";
/// Cameras of a robot.
const MAX_VIEWS: usize = 64;
/// Joint groups of the state and of the action.
const GROUPS: usize = 4;
/// Words of the made-up language: `w0`, `w1`, ….
const WORDS: usize = 256;
/// Spellings that the text of a version's chat template is made of.
fn spellings(version: Version) -> &'static [&'static str] {
    match version {
        Version::N1_6 => {
            &["system", "You", "are", "a", "helpful", "assistant", ".", "user", "<", "image", "1", "2", ">"]
        }
        Version::N1_7 => &["user"],
    }
}

/// Side of the square frames that become images of `image_side`: published checkpoints resize to 256, of which N1.6
/// makes 252 and N1.7 256.
pub(crate) fn frame_side(version: Version, image_side: usize) -> usize {
    match version {
        Version::N1_6 => image_side + 4,
        Version::N1_7 => image_side,
    }
}

impl Processor {
    /// A processor for a model of these sizes with `views` cameras, whose images become `image_side` pixels
    /// square. State and action fill the model's whole width.
    ///
    /// # Errors
    /// No view, or a side that is no multiple of a token's (28 from 56 on, or 32 from 256 on); a vocabulary too small for
    /// the prompt.
    pub fn synthetic(config: &Config, views: usize, image_side: usize) -> Result<Self> {
        let version = config.version;
        if !(1..=MAX_VIEWS).contains(&views) {
            return Err(Error::input("views", format!("expected 1 to {MAX_VIEWS}, found {views}")));
        }
        let grid = Grid::of(version);
        let (side, least) = (grid.token_side, grid.least_square());
        if !image_side.is_multiple_of(side) || image_side < least {
            let what = format!("expected a multiple of {side} from {least} on, found {image_side}");
            return Err(Error::input("image_size", what));
        }
        let action = widths(config.max_action_dim);
        let same = config.max_state_dim == config.max_action_dim;
        let relative: Vec<bool> = (0..action.len()).map(|group| same && group % 2 == 0).collect();
        let processor_config = ProcessorConfig {
            use_percentiles: true,
            use_relative_action: true,
            use_albumentations: true,
            shortest_image_edge: Some(frame_side(version, image_side)),
            max_state_dim: config.max_state_dim,
            max_action_dim: config.max_action_dim,
            max_action_horizon: config.action_horizon,
            ..ProcessorConfig::defaults(version)
        };
        let modalities = modalities(config, views, &relative);
        let statistics = Statistics::new(Path::new(ORIGIN), TAG, statistics(config, &relative));
        Processor::new(Parts {
            origin: Path::new(ORIGIN),
            config: &processor_config,
            tag: TAG,
            modalities: &modalities,
            embodiment_id: config.max_num_embodiments / 2,
            statistics,
            tokenizer: tokenizer(config)?,
        })
    }

    /// An observation of random pixels and states, determined by `seed`: frames of `[height, width]` for every
    /// view. A group whose width the checkpoint does not tell gets one value.
    pub fn random_observation(&self, seed: u64, frame: [usize; 2], instruction: String) -> Observation {
        let [height, width] = frame;
        let level = |x: f32| (127.5 + 50.0 * x) as u8;
        let image = |view: usize, step: usize| {
            let noise = gaussian(seed, view as u32, step as u32, height, width * 3);
            Arc::new(Image { width, height, rgb: noise.data.into_iter().map(level).collect() })
        };
        let EmbodimentModalities { video, state, .. } = &self.modalities;
        let frames = |view: usize| (0..video.delta_indices.len()).map(|step| image(view, step)).collect();
        let views = video.modality_keys.iter().enumerate();
        let groups = state.modality_keys.iter().enumerate();
        let matrix = |group: usize, key: &String| {
            let cols = self.state.dim(key).unwrap_or(1);
            let noise = gaussian(seed, group as u32, u32::MAX, state.delta_indices.len(), cols);
            Matrix { data: noise.data.iter().map(|x| x.clamp(-1.0, 1.0)).collect(), ..noise }
        };
        Observation {
            images: views.map(|(view, key)| (key.clone(), frames(view))).collect(),
            state: groups.map(|(group, key)| (key.clone(), matrix(group, key))).collect(),
            instruction,
        }
    }
}

/// An instruction of `words` words, determined by `seed`, each of them a token to a synthetic processor.
pub fn random_instruction(seed: u64, words: usize) -> String {
    let word =
        |index: usize| format!("w{}", (seed as usize).wrapping_mul(31).wrapping_add(index * 17) % WORDS);
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

/// The columns of each group: `total` in up to [`GROUPS`] groups.
fn widths(total: usize) -> Vec<usize> {
    let groups = GROUPS.min(total);
    (0..groups).map(|group| total * (group + 1) / groups - total * group / groups).collect()
}

fn keys(total: usize) -> Vec<String> {
    (0..widths(total).len()).map(|group| format!("joints_{group}")).collect()
}

fn modalities(config: &Config, views: usize, relative: &[bool]) -> EmbodimentModalities {
    let modality = |delta_indices: Vec<i64>, modality_keys: Vec<String>| ModalityConfig {
        delta_indices,
        modality_keys,
        sin_cos_embedding_keys: None,
        mean_std_embedding_keys: None,
        action_configs: None,
        exclude_state: false,
    };
    let action_config = |relative: &bool| ActionConfig {
        rep: if *relative { ActionRepresentation::Relative } else { ActionRepresentation::Absolute },
        kind: ActionType::NonEef,
        format: ActionFormat::Default,
        state_key: None,
    };
    let horizon = (0..config.action_horizon as i64).collect();
    EmbodimentModalities {
        video: modality(vec![0], (0..views).map(|view| format!("view_{view}")).collect()),
        state: modality(vec![0], keys(config.max_state_dim)),
        action: ModalityConfig {
            action_configs: Some(relative.iter().map(action_config).collect()),
            ..modality(horizon, keys(config.max_action_dim))
        },
        language: modality(vec![0], vec!["task".to_owned()]),
    }
}

/// Bounds a little wider than the states that [`Processor::random_observation`] makes, different in each column.
fn statistics(config: &Config, relative: &[bool]) -> Value {
    let group = |width: usize| {
        let column = |column: usize| 1.25 + column as f64 / 64.0;
        let high: Vec<f64> = (0..width).map(column).collect();
        let low: Vec<f64> = high.iter().map(|value| -value).collect();
        json!({ "min": low, "max": high, "q01": low, "q99": high })
    };
    let groups = |total: usize| -> Map<String, Value> {
        keys(total).into_iter().zip(widths(total)).map(|(key, width)| (key, group(width))).collect()
    };
    let action = groups(config.max_action_dim);
    let kept = action.clone().into_iter().zip(relative).filter(|(_, relative)| **relative);
    json!({
        "state": groups(config.max_state_dim),
        "relative_action": kept.map(|(group, _)| group).collect::<Map<_, _>>(),
        "action": action,
    })
}

/// Whole words to ids spread over the vocabulary; the image token where the model expects it.
fn tokenizer(config: &Config) -> Result<Tokenizer> {
    let version = config.version;
    let template = Template::of(version);
    let (size, image) = (config.vocab_size(), config.image_token() as usize);
    let mut words: Vec<String> =
        spellings(version).iter().chain(template.special).map(|&word| word.to_owned()).collect();
    words.retain(|word| word != template.image_token());
    words.push("unknown".to_owned());
    words.extend((0..WORDS).map(|word| format!("w{word}")));
    let spread = size / (words.len() + 1);
    if spread == 0 || image >= size {
        let what = format!("expected above {} and above the image token {image}, found {size}", words.len());
        return Err(Error::input("text_config.vocab_size", what));
    }
    let ids = (0..).map(|index| index * spread).filter(|id| *id != image);
    let mut vocabulary: Map<String, Value> = words.into_iter().zip(ids.map(Value::from)).collect();
    vocabulary.insert(template.image_token().to_owned(), image.into());
    let added = template.special.iter().map(|&content| {
        json!({
            "id": vocabulary[content], "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let document = json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "unknown" },
    });
    Tokenizer::from_json(Path::new(ORIGIN), document.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn the_prompt_has_the_models_layout() {
        for (config, views, image_side) in [
            (synthetic::n1_6(), 1, 252),
            (synthetic::tiny(), 2, 56),
            (synthetic::n1_7(), 2, 256),
            (synthetic::tiny_n1_7(), 1, 320),
        ] {
            let processor = Processor::synthetic(&config, views, image_side).expect("a processor");
            let frame = [frame_side(config.version, image_side); 2];
            let encode = |words| {
                let observation = processor.random_observation(1, frame, random_instruction(1, words));
                processor.encode(&observation).expect("encoded")
            };
            let (none, ten) = (encode(0), encode(10));
            assert_eq!(ten.input_ids.len(), none.input_ids.len() + 10);
            assert_eq!(ten.pixel_values.len(), views);
            assert!(
                ten.pixel_values.iter().all(|image| (image.width, image.height) == (image_side, image_side))
            );
            let token = config.image_token();
            let images = ten.input_ids.iter().filter(|id| **id == token).count();
            assert_eq!(images, views * (image_side / processor.token_side()).pow(2));
            let size = config.vocab_size() as u32;
            assert!(ten.input_ids.iter().all(|id| *id < size));
            assert!(!ten.input_ids.contains(&processor.tokenizer().token_id("unknown").expect("a token")));
            assert_eq!((ten.state.rows, ten.state.cols), (1, config.max_state_dim));
            assert!(ten.state.data.iter().all(|value| *value != 0.0 && value.abs() <= 1.0));
        }
    }

    #[test]
    fn used_memory_gives_the_same_result() {
        let processor = Processor::synthetic(&synthetic::tiny(), 2, 56).expect("a processor");
        let observation = |seed, words, side| {
            processor.random_observation(seed, [side, side + 30], random_instruction(seed, words))
        };
        let mut used = processor.encode(&observation(1, 9, 90)).expect("encoded");
        for (seed, words, side) in [(2, 4, 60), (2, 4, 60), (2, 4, 120), (3, 4, 120), (3, 5, 120)] {
            let observation = observation(seed, words, side);
            processor.encode_into(&observation, &mut used).expect("encoded");
            let fresh = Processor::synthetic(&synthetic::tiny(), 2, 56).expect("a processor");
            assert_eq!(used, fresh.encode(&observation).expect("encoded"), "{seed} {words} {side}");
        }
    }

    #[test]
    fn actions_use_the_state_in_every_other_group() {
        let config = synthetic::tiny();
        let processor = Processor::synthetic(&config, 1, 56).expect("a processor");
        let observation = processor.random_observation(1, [60, 60], String::new());
        let zero = Matrix {
            rows: config.action_horizon,
            cols: config.max_action_dim,
            data: vec![0.0; config.action_horizon * config.max_action_dim],
        };
        let chunk = processor.decode(&zero, &observation).expect("decoded");
        assert_eq!(chunk.groups.iter().map(|(_, matrix)| matrix.cols).sum::<usize>(), config.max_action_dim);
        for (group, (key, matrix)) in chunk.groups.iter().enumerate() {
            let expected: Vec<f32> = match group % 2 {
                0 => observation.state[key].data.clone(),
                _ => vec![0.0; matrix.cols],
            };
            assert_eq!((matrix.rows, matrix.row(7)), (config.action_horizon, &expected[..]), "{key}");
        }
    }

    #[test]
    fn unusable_requests_are_refused() {
        let refused = |config, views, side| {
            Processor::synthetic(&config, views, side).err().expect("refused").to_string()
        };
        assert!(refused(synthetic::tiny(), 0, 252).starts_with("views"));
        assert!(refused(synthetic::tiny(), 1, 250).ends_with("a multiple of 28 from 56 on, found 250"));
        assert!(refused(synthetic::tiny_n1_7(), 1, 224).ends_with("a multiple of 32 from 256 on, found 224"));
    }
}
