//! What a model is made of, stated once by its version.
//!
//! A model version gives its [`Topology`]: the parts of the model, what one hands to the next, and the stages that are
//! timed and counted. Diagnosis, tuning, benchmarks, reports and the engines' places of exchange read it. Its sites,
//! with their operations, come from the model's own code: [`Model::sites`](crate::model::Model::sites).

mod action_head;
mod n1_6;
mod n1_7;

use crate::config::{self, Config};
use crate::ops::{Heads, Site};
use crate::version::Version;

/// A part of the model. What crosses from one part to another is a tensor or a few, whoever computes them: exchanging a
/// part of two engines means to hand over the other's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in tables, such as `state_encoder`.
    pub name: &'static str,
    /// Paths of its sites; everything below them belongs to the part too.
    pub sites: &'static [&'static str],
    /// What its tensors' names begin with in a checkpoint.
    pub weights: &'static [&'static str],
    /// The paths of the sites whose results are handed over, in the order of execution.
    pub outputs: Vec<String>,
    /// Whether everything behind it depends on it, and on what is before it, through `outputs` alone.
    pub separates: bool,
    /// The layers that it repeats.
    pub layers: Option<Layers>,
    /// Linear layers besides those, which get one format when precision is tuned: a name with paths of sites, with
    /// everything below them. Without layers the whole part is one.
    pub joined: Option<(&'static str, &'static [&'static str])>,
}

/// A stack of layers of one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// The path before a layer's number, such as `dit.block`.
    pub path: &'static str,
    /// How many there are.
    pub count: usize,
    /// Features of a token between them.
    pub hidden: usize,
    /// Heads of their attentions.
    pub heads: Heads,
    /// Features inside their MLP.
    pub feed_forward: usize,
    /// What the keys and values of each layer come from, such as `text`; empty where all attend to their own tokens.
    pub memory: Vec<&'static str>,
    /// What else there is to tell of their sizes.
    pub note: String,
}

impl Part {
    /// A part without layers, of these sites and weights, that hands over the result at `output`.
    fn new(
        name: &'static str,
        sites: &'static [&'static str],
        weights: &'static [&'static str],
        output: &str,
    ) -> Self {
        let outputs = vec![output.to_owned()];
        Part { name, sites, weights, outputs, separates: false, layers: None, joined: None }
    }

    /// Whether the result of the site `path` is handed over.
    pub fn hands_over(&self, path: &str) -> bool {
        self.outputs.iter().any(|output| output == path)
    }
}

impl Layers {
    /// The layers of a vision tower.
    fn of_vision(sizes: &config::Vision) -> Self {
        Layers {
            path: "vision.layer",
            count: sizes.layers,
            hidden: sizes.hidden_size,
            heads: sizes.heads,
            feed_forward: sizes.intermediate_size,
            memory: Vec::new(),
            note: String::new(),
        }
    }

    /// The first `count` language layers.
    fn of_language(sizes: &config::Text, count: usize) -> Self {
        Layers {
            path: "language.layer",
            count,
            hidden: sizes.hidden_size,
            heads: sizes.heads,
            feed_forward: sizes.intermediate_size,
            memory: Vec::new(),
            note: format!("{} key-value heads, vocabulary of {}", sizes.heads.kv_heads, sizes.vocab_size),
        }
    }

    /// The path of a layer.
    pub fn layer(&self, index: usize) -> String {
        format!("{}.{index}", self.path)
    }

    /// The numbers of heads that a projection of them may have: of the queries, and of the keys and values.
    pub fn head_counts(&self) -> Vec<usize> {
        let Heads { heads, kv_heads, .. } = self.heads;
        if heads == kv_heads { vec![heads] } else { vec![heads, kv_heads] }
    }
}

/// A stage of an inference: what is timed and counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Its name in tables, such as `action_prefix`.
    pub name: &'static str,
    /// Whether it runs in every Euler step, instead of once.
    pub in_steps: bool,
    /// Paths of its sites, with everything below them. `*` stands for one segment.
    pub sites: &'static [&'static str],
    /// The tap that is the last of the stage.
    pub end: &'static str,
    /// Whether it depends on the Euler step alone: an engine may compute it before any inference.
    pub constant: bool,
}

impl Stage {
    /// A stage without sites that runs once.
    const ONCE: Stage = Stage { name: "", in_steps: false, sites: &[], end: "", constant: false };
    /// The same, in every Euler step.
    const EACH: Stage = Stage { in_steps: true, ..Stage::ONCE };

    /// Whether the operation at `at` belongs to it, unless it belongs to an earlier stage of the list.
    fn has(&self, at: &Site) -> bool {
        at.step().is_some() == self.in_steps && self.sites.iter().any(|pattern| covers(pattern, at.path()))
    }
}

/// Whether `path` is `pattern` or lies below it.
fn covers(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('.');
    pattern.split('.').all(|wanted| segments.next().is_some_and(|found| wanted == "*" || wanted == found))
}

/// The parts and stages of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// In the order of execution.
    pub parts: Vec<Part>,
    /// In the order of execution.
    pub stages: Vec<Stage>,
    /// The site whose result takes the places of the prompt's image tokens.
    pub image_tokens: &'static str,
    /// The site whose result is the backbone's features.
    pub features: String,
    /// Paths of tensors that are handed on as they are, under another name than that of the operation that made them.
    pub copies: &'static [&'static str],
    /// Paths of what enters pieces of the backbone that deployments build as engines of their own, and that no part hands
    /// over.
    cuts: &'static [&'static str],
}

/// What every version hands on as it is.
const COPIES: [&str; 5] = ["language.inputs", "backbone_features", "actions_in", "dit.tokens", "action_pred"];

impl Topology {
    /// The topology of the model of this configuration.
    pub fn of(config: &Config) -> Self {
        let (backbone, stages) = match config.version {
            Version::N1_6 => (n1_6::backbone(config), n1_6::STAGES.to_vec()),
            Version::N1_7 => (n1_7::backbone(config), n1_7::STAGES.to_vec()),
        };
        let (image_tokens, cuts): (_, &[&str]) = match config.version {
            Version::N1_6 => (n1_6::IMAGE_TOKENS, &n1_6::CUTS),
            Version::N1_7 => (n1_7::IMAGE_TOKENS, &n1_7::CUTS),
        };
        let features = backbone.last().and_then(|part| part.outputs.last()).cloned().unwrap_or_default();
        let parts = [backbone, action_head::parts(config)].concat();
        let stages = [&stages[..], &action_head::STAGES].concat();
        Topology { parts, stages, image_tokens, features, copies: &COPIES, cuts }
    }

    /// The parts that everything behind them depends on through what they hand over, in the order of execution.
    pub fn separating(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.separates)
    }

    /// Paths of what leaves the pieces that deployments build as engines of their own, in the order of execution: what
    /// the next piece is given where each runs on recorded inputs.
    pub fn cut_outputs(&self) -> impl Iterator<Item = &str> {
        let pieces =
            self.parts.iter().filter(|part| part.separates || action_head::PIECES.contains(&part.name));
        pieces.flat_map(|part| part.outputs.iter().map(String::as_str))
    }

    /// Whether the tensor at `path` enters or leaves such a piece.
    pub fn is_cut(&self, path: &str) -> bool {
        // The features are handed on under another name, which is that of the action head's input.
        let handed_over = self.separating().any(|part| part.hands_over(path)) && path != self.features;
        handed_over || self.cuts.contains(&path) || action_head::CUTS.contains(&path)
    }

    /// Whether the vision tower gives image tokens by itself; a part behind it does otherwise.
    pub fn vision_gives_tokens(&self) -> bool {
        self.part_of(self.image_tokens)
            .is_some_and(|part| part.hands_over(self.image_tokens) && part.layers.is_some())
    }

    /// The site whose result the DiT attends to.
    pub fn memory(&self) -> &str {
        let last = self.separating().last().and_then(|part| part.outputs.last());
        last.filter(|path| **path != self.features).map_or("action_head.vl_norm", String::as_str)
    }

    /// The part of this name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// The part that the site `path` belongs to.
    pub fn part_of(&self, path: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.sites.iter().any(|site| covers(site, path)))
    }

    /// The part whose result is that of the site `path`.
    pub fn part_with_output(&self, path: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.hands_over(path))
    }

    /// How many parts that separate come before the operations at the site `path`.
    pub fn separated(&self, path: &str) -> usize {
        let of = self.part_of(path);
        let before = self.parts.iter().take_while(|part| Some(*part) != of);
        before.filter(|part| part.separates).count()
    }

    /// The part that a tensor of a checkpoint belongs to.
    pub fn part_of_weight(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.weights.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// The layer that the site `path` belongs to, as its own path: `dit.block.7` for `dit.block.7.fc1`.
    pub fn layer_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let (layers, index) = self.layers_of(path)?;
        path.get(..layers.path.len() + 1 + index.to_string().len())
    }

    /// The layers that the site `path` belongs to, and the number of its layer.
    pub fn layers_of(&self, path: &str) -> Option<(&Layers, usize)> {
        self.parts.iter().filter_map(|part| part.layers.as_ref()).find_map(|layers| {
            let number = path.strip_prefix(layers.path)?.strip_prefix('.')?.split('.').next()?;
            Some((layers, number.parse().ok()?))
        })
    }

    /// What the linear layer at the site `path`, which is in no layer of a stack, shares its format with when precision
    /// is tuned: the name of the part or of some of its sites, or the path alone.
    pub fn joined_with<'p>(&self, path: &'p str) -> &'p str
    where
        Self: 'p,
    {
        match self.part_of(path) {
            Some(Part { layers: None, name, .. }) => name,
            Some(Part { joined: Some((name, sites)), .. }) if sites.iter().any(|site| covers(site, path)) => {
                name
            }
            _ => path,
        }
    }

    /// The stage that the operation at `at` belongs to.
    pub fn stage_of(&self, at: &Site) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.has(at))
    }
}

#[cfg(test)]
mod tests;
