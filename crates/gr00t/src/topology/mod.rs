//! What a model is made of, stated once by its version.
//!
//! A model version gives its [`Topology`]: the parts of the model, what one hands to the next, and the stages that are
//! timed and counted. Diagnosis, tuning, benchmarks, reports and the engines' places of exchange read it. Its sites,
//! with their operations, come from the model's own code: [`Model::sites`](crate::model::Model::sites).

mod n1_6;

use crate::config::Config;
use crate::ops::{Heads, Site};

/// A part of the model. What crosses from one part to another is one tensor, whoever computes them: exchanging a part
/// of two engines means to hand over the other's tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in tables, such as `state_encoder`.
    pub name: &'static str,
    /// Paths of its sites; everything below them belongs to the part too.
    pub sites: &'static [&'static str],
    /// What its tensors' names begin with in a checkpoint.
    pub weights: &'static [&'static str],
    /// The path of the site whose result is handed over.
    pub output: &'static str,
    /// Whether everything behind it depends on it, and on what is before it, through `output` alone.
    pub separates: bool,
    /// The layers that it repeats.
    pub layers: Option<Layers>,
    /// Linear layers besides those, which get one format when precision is tuned: a name with the paths of the sites.
    /// Without layers the whole part is one.
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

impl Layers {
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

/// Where deployments cut the model, by the paths of taps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// What leaves each piece that is built as an engine of its own: what the next one is given where pieces run on
    /// recorded inputs.
    pub outputs: &'static [&'static str],
    /// Everything that enters or leaves a piece.
    pub tensors: &'static [&'static str],
    /// Tensors that are handed on as they are, under another name than that of the operation that made them.
    pub copies: &'static [&'static str],
}

/// The parts and stages of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// In the order of execution.
    pub parts: Vec<Part>,
    /// In the order of execution.
    pub stages: Vec<Stage>,
    /// Where deployments cut it.
    pub cuts: Cuts,
}

impl Topology {
    /// The topology of the model of this configuration.
    pub fn of(config: &Config) -> Self {
        Topology { parts: n1_6::parts(config), stages: n1_6::stages().to_vec(), cuts: n1_6::CUTS }
    }

    /// The parts that hand everything behind them one tensor each, in the order of execution.
    pub fn separating(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.separates)
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
        self.parts.iter().find(|part| part.output == path)
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
            Some(Part { joined: Some((name, sites)), .. }) if sites.contains(&path) => name,
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
