//! Faults: the mistakes that deployments make, as values.
//!
//! A fault injected into the reference gives what an engine with that mistake would give. That serves two
//! ends: a suite that a diagnosis is tested on, and the diagnosis itself, which replays its hypotheses and
//! calls a cause only what reproduces the engine it was shown.
//!
//! A fault is declared once, by the function that makes it: a [`Fault`] has no defaults, so its name, place, reach,
//! effect and words stand together and none can be left out. The functions are grouped by what goes wrong; each group
//! also says which of its faults a suspicious place suggests (`candidates`) and which the suite plants (`cases`).

mod activations;
mod attention;
mod buffers;
mod computed;
mod engine;
mod formats;
mod handed;
mod images;
mod inject;
mod inputs;
mod layers;
mod linear;
mod norms;
mod operations;
mod otherwise;
mod pointwise;
mod residual;
mod rotary;
mod scores;
mod spots;
mod suspect;
mod time;
mod weights;

pub use attention::{masked_row, misgrouped_heads, not_causal, swapped_masks, transposed_heads};
pub use buffers::{misread, stale, unwritten_tail};
pub use computed::{Change, Handed, Modulation, Nonlinearity, Norm, Numbering, Rotation, Seen, Weighing};
pub use engine::FaultyEngine;
pub use formats::{narrow, stale_scale};
pub use images::{
    fewer_layers, late_deepstack, no_deepstack, normed_features, reversed_state, sectioned_rope,
    seen_padding, sequential_rope,
};
pub(crate) use inject::Injection;
pub use inject::Results;
pub(crate) use inputs::{Otherwise as OtherImages, PIXELS, made_otherwise};
pub use inputs::{channel_order, other_pixels, other_statistics, shifted_pixels, unpaired_noise};
pub(crate) use otherwise::Otherwise;
pub use pointwise::{eps, swapped_gelu};
pub(crate) use suspect::Suspect;
pub use time::{timestep_angle, timestep_folded, timestep_offset};
pub(crate) use weights::is_category_specific;
pub use weights::{embodiment, old_weights};

use std::fmt;
use std::sync::Arc;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::{Activation, Mask, Site};
use steadyhand_gr00t::precision::{Formats, Pattern, PrecisionPolicy, Rule, WeightFormat};

/// A mistake, and where it is made. It is made in every Euler step.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Stable name of the kind, for JSON and tables.
    pub kind: &'static str,
    /// Where the fault is made: a site's path as in [`Site::path`], or a part of the model and everything below it.
    pub place: String,
    /// The operations that may give something else on the same inputs.
    pub reach: Reach,
    /// What it does to an inference.
    pub effect: Effect,
    /// Whether the fault can only be recognised by its place, because what it did cannot be known from
    /// outside: the noise, the weights, the statistics that were used instead.
    pub opaque: bool,
    /// What happened, as the end of a sentence that begins "The engine".
    pub description: String,
    /// What to do about it.
    pub fix: String,
}

impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.place, &self.description) == (other.kind, &other.place, &other.description)
    }
}

/// The operations that a fault touches. Never leaves one out that may give something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// That of its place.
    Place,
    /// Its place and everything below.
    Below,
    /// The operations at and below its place whose paths end in one of these names.
    Named(&'static [&'static str]),
    /// The sums at the end of the layers at its place: the layers' own paths.
    Layers,
    /// These paths and everything below.
    Paths(&'static [&'static str]),
}

/// Changes the values of a result `[batch, tokens, features]`.
pub type OnResult = Arc<dyn Fn([usize; 3], &mut [f32]) + Send + Sync>;
/// Gives another mask for an attention.
pub type OnMask = Arc<dyn Fn(&Site, &Mask) -> Mask + Send + Sync>;

/// What a fault does to an inference, at the sites that it touches.
#[derive(Clone)]
pub enum Effect {
    /// Changes a result `[batch, tokens, features]` after it was computed.
    Result(OnResult),
    /// Gives the result of the previous inference; zeros in the first, and behind one of another shape.
    Stale,
    /// The epsilon of norms.
    Eps(f64),
    /// The kind of non-linearities.
    Activation(fn(Activation) -> Activation),
    /// The mask of attentions.
    Mask(OnMask),
    /// The time, in buckets.
    Time(Arc<dyn Fn(usize) -> usize + Send + Sync>),
    /// The format of a time encoding's angles.
    Angles(Format),
    /// The slot of category-specific weights.
    Embodiment(usize),
    /// The model itself.
    Model(Arc<dyn Fn(&mut Model) + Send + Sync>),
    /// An operation that is computed otherwise.
    Operation(Change),
    /// Number formats.
    Formats(Formats),
    /// What the weights of linear layers are stored as.
    StoredWeights(WeightFormat),
    /// What the model is given.
    Input(Arc<dyn Fn(&mut ModelInput) + Send + Sync>),
    /// Nothing that can be made here: what the engine did is not known.
    Unknown,
}

impl fmt::Debug for Effect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Effect::Result(_) => "Result",
            Effect::Stale => "Stale",
            Effect::Eps(_) => "Eps",
            Effect::Activation(_) => "Activation",
            Effect::Mask(_) => "Mask",
            Effect::Time(_) => "Time",
            Effect::Angles(_) => "Angles",
            Effect::Embodiment(_) => "Embodiment",
            Effect::Model(_) => "Model",
            Effect::Operation(_) => "Operation",
            Effect::Formats(_) => "Formats",
            Effect::StoredWeights(_) => "StoredWeights",
            Effect::Input(_) => "Input",
            Effect::Unknown => "Unknown",
        })
    }
}

impl Fault {
    /// Makes the part of the fault that lies in the model and its precision.
    pub(crate) fn damage_model(&self, model: &mut Model, policy: &mut PrecisionPolicy) {
        match &self.effect {
            Effect::Model(change) => change(model),
            Effect::Formats(formats) => *policy = policy.clone().with(&self.place, *formats),
            Effect::StoredWeights(weights) => *policy = self.with_weights(policy, *weights),
            _ => {}
        }
    }

    /// The policy with weights that are stored otherwise where the fault is, and with everything else as it was.
    fn with_weights(&self, policy: &PrecisionPolicy, weights: WeightFormat) -> PrecisionPolicy {
        let of_names = |names: &[&str]| Pattern::parse(&format!("{}.*.{{{}}}", self.place, names.join(",")));
        let pattern = match self.reach {
            Reach::Named(names) => of_names(names).unwrap_or_else(|_| Pattern::path(&self.place)),
            _ => Pattern::path(&self.place),
        };
        policy.clone().with_rule(Rule {
            pattern,
            storage: None,
            compute: None,
            accumulate: None,
            scale: None,
            weights: Some(Some(weights)),
            activations: None,
        })
    }

    /// Makes the part of the fault that lies in the inputs.
    pub(crate) fn damage_inputs(&self, inputs: &mut [ModelInput]) {
        if let Effect::Input(change) = &self.effect {
            inputs.iter_mut().for_each(|input| change(input));
        }
    }

    /// Whether the operation at `at` may give something else on the same inputs. Never says no where it may.
    pub fn touches(&self, at: &Site) -> bool {
        match self.reach {
            Reach::Place => at.path() == self.place,
            Reach::Below => at.is_within(&self.place),
            Reach::Named(names) => {
                at.is_within(&self.place)
                    && at.path().rsplit('.').next().is_some_and(|name| names.contains(&name))
            }
            Reach::Layers => {
                let layer = at.path().strip_prefix(&self.place).and_then(|rest| rest.strip_prefix('.'));
                layer.is_some_and(|number| number.parse::<usize>().is_ok())
            }
            Reach::Paths(paths) => paths.iter().any(|path| at.is_within(path)),
        }
    }

    /// Whether the other one is the same mistake, wherever it is made.
    pub fn is_alike(&self, other: &Fault) -> bool {
        let same = match (&self.effect, &other.effect) {
            (Effect::Operation(one), Effect::Operation(other)) => one == other,
            (Effect::Eps(one), Effect::Eps(other)) => one == other,
            (Effect::StoredWeights(one), Effect::StoredWeights(other)) => one == other,
            _ => true,
        };
        self.kind == other.kind && same
    }

    /// How many times as much as otherwise rounding shows in the result at `at`.
    pub(crate) fn spread(&self, at: &Site) -> f64 {
        match self.effect {
            Effect::Operation(Change::Handed(handed)) => handed::spread(handed, at.path()),
            _ => 1.0,
        }
    }

    /// Whether it names a tensor that is handed on under another name than that of the operation that made it.
    pub(crate) fn reaches_copy(&self, path: &str) -> bool {
        matches!(self.reach, Reach::Paths(paths) if paths.contains(&path))
    }

    /// Whether all that the fault does is to change the result at its place after it was computed.
    pub fn changes_a_result(&self) -> bool {
        self.reach == Reach::Place && matches!(self.effect, Effect::Result(_) | Effect::Stale)
    }
}

/// One fault of the suite in two strengths.
#[derive(Debug, Clone)]
pub struct Case {
    /// What goes wrong, in the words of the people it happens to.
    pub name: &'static str,
    /// Hard to miss.
    pub strong: Fault,
    /// Near what rounding does, or in one place only.
    pub weak: Fault,
}

/// The faults that a diagnosis of this model is tested on.
pub fn suite(model: &Model) -> Vec<Case> {
    let (config, sites) = (&model.config, Sites::new(model));
    let groups = [
        buffers::cases(&sites),
        formats::cases(&sites),
        time::cases(),
        attention::cases(config, &sites),
        pointwise::cases(&sites),
        weights::cases(config, &sites),
        inputs::cases(),
        images::cases(model),
    ];
    groups.concat()
}

/// Faults that touch exactly such places as the suspect's, those that other ones resemble last.
pub(crate) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    let groups = [
        inputs::candidates(suspect),
        images::candidates(suspect),
        weights::embodiments(suspect),
        time::candidates(suspect),
        pointwise::candidates(suspect),
        operations::candidates(suspect),
        attention::candidates(suspect),
        buffers::candidates(suspect),
        handed::candidates(suspect),
        formats::candidates(suspect),
        weights::candidates(suspect),
    ];
    groups.concat()
}

/// What the operation at `site` may do otherwise, alone or with all of its kind; `declared`: its formats.
pub fn of_operation(model: &Model, site: &str, declared: Formats) -> Vec<Fault> {
    operations::at(model, site, declared)
}

/// Weights of the linear layer at `site` that are cut off at a share of their largest magnitude.
pub(crate) fn clipped_weights(site: &str, share: f32) -> Fault {
    linear::clipped(site, share)
}

/// Faults worth trying where nothing but the actions is known: those of whole parts, and of the buffers
/// between the parts that deployments cut the model into. `declared`: the formats that a path should run in.
pub fn catalogue(model: &Model, declared: &dyn Fn(&str) -> Formats) -> Vec<Fault> {
    let config = &model.config;
    let groups = [
        inputs::of_any_engine(model),
        time::of_any_engine(config.num_timestep_buckets),
        attention::of_any_engine(),
        weights::of_any_engine(config),
        buffers::of_any_engine(model),
        handed::of_any_engine(model),
        pointwise::of_any_engine(model),
        operations::of_any_engine(model, declared),
        images::of_any_engine(model),
        formats::of_any_engine(model, declared),
    ];
    groups.concat()
}

/// Places in the middle of the model, for the suite.
struct Sites {
    /// An even DiT block, which cross-attends.
    cross: String,
    /// The odd block after it, which attends to itself.
    own: String,
    language: String,
    vision: String,
    /// What takes the places of image tokens.
    image_tokens: &'static str,
    /// The backbone's features.
    features: String,
}

impl Sites {
    fn new(model: &Model) -> Self {
        let config = &model.config;
        let middle = config.diffusion_model_cfg.num_layers / 4 * 2;
        Sites {
            cross: format!("dit.block.{middle}"),
            own: format!("dit.block.{}", middle + 1),
            language: format!("language.layer.{}", config.select_layer / 2),
            vision: format!("vision.layer.{}", model.vision.layers.len() / 2),
            image_tokens: model.topology.image_tokens,
            features: model.topology.features.clone(),
        }
    }
}

/// A fixed value in [-1, 1] for each index.
fn wobble(index: usize) -> f32 {
    let mixed = (index as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b);
    (mixed >> 8) as f32 / 8_388_608.0 - 1.0
}
