//! ONNX Runtime: the exported policy, or a component with the reference around it.

mod backend;
mod graph;
mod library;
mod provider;
mod runner;

pub use backend::OnnxRuntime;
pub use library::{Located, locate};
pub use provider::{Provider, RuntimeOptions};
pub use runner::OnnxRunner;

use crate::composed::ComposedEngine;
use graph::{Feed, Graph};
use ort::environment::Environment;
use provider::tf32_is_off;
use std::path::{Path, PathBuf};
use steadyhand_files::scratch::Scratch;
use steadyhand_gr00t::engine::{Engine, ModelInput, infer_by_layout};
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout, Names};
use steadyhand_gr00t::model::{Batch, Model, Prompt};
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor};
use steadyhand_gr00t::ops::onnx::check;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{Error, Matrix, Result};

/// A policy in ONNX Runtime.
pub struct OnnxRuntimeEngine {
    model: Model,
    policy: PrecisionPolicy,
    denoising_steps: usize,
    sessions: Sessions,
    graphs: Graphs,
}

/// What sessions are made from.
struct Sessions {
    environment: Environment,
    provider: Provider,
}

impl Sessions {
    /// Loads the library for a provider that it has, and that keeps what the policy says of these sites.
    fn open(options: &RuntimeOptions, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<Self> {
        options.provider.check(policy, sites, tf32_is_off())?;
        let environment = library::load(options.library.as_deref())?;
        options.provider.expect_in_library()?;
        Ok(Sessions { environment, provider: options.provider })
    }
}

/// Where graphs come from.
enum Graphs {
    /// One that was made before, for whatever inputs it takes.
    Given(Box<Graph>),
    /// Exported when inputs of their image sizes and state horizon first come.
    Exported { folder: Scratch, fingerprint: String, made: Vec<(Vec<[usize; 2]>, usize, Graph)> },
}

impl OnnxRuntimeEngine {
    /// An engine that exports what it needs to a temporary folder. `fingerprint` is the checkpoint's.
    ///
    /// # Errors
    /// A site whose formats a graph has no form for or the provider does not keep; no library, with all places that
    /// were tried; a library without the provider.
    pub fn exporting(
        model: Model,
        fingerprint: &str,
        policy: PrecisionPolicy,
        denoising_steps: usize,
        runtime: &RuntimeOptions,
    ) -> Result<Self> {
        let sites = model.sites()?;
        check(&policy, &sites)?;
        let sessions = Sessions::open(runtime, &policy, &sites)?;
        let parent = std::env::temp_dir();
        let folder = Scratch::new("steady-onnx-", &parent).map_err(|source| Error::io(&parent, source))?;
        let graphs = Graphs::Exported { folder, fingerprint: fingerprint.to_owned(), made: Vec::new() };
        Ok(OnnxRuntimeEngine { model, policy, denoising_steps, sessions, graphs })
    }
}

/// An engine that runs the graph `file`, exported from the same checkpoint: a policy, or an action head or a part of it with
/// the reference around it.
///
/// # Errors
/// No library, or one without the provider; a site that the provider does not keep; a file that ONNX Runtime does not load; a
/// graph of another checkpoint, precision or number of Euler steps than asked for, naming both.
pub fn from_file(
    model: Model,
    fingerprint: &str,
    policy: PrecisionPolicy,
    denoising_steps: usize,
    runtime: &RuntimeOptions,
    file: &Path,
) -> Result<Box<dyn Engine + Send>> {
    let sessions = Sessions::open(runtime, &policy, &model.sites()?)?;
    let graph = Graph::load(&sessions, file)?;
    graph.expect_metadata("checkpoint", fingerprint)?;
    graph.expect_metadata("precision", &policy.identity())?;
    if !matches!(graph.component()?, Component::Policy | Component::ActionHead) {
        let runner = Box::new(graph.into_runner()?);
        return Ok(Box::new(ComposedEngine::new("onnxruntime", model, policy, denoising_steps, runner)?));
    }
    graph.expect_metadata("denoising_steps", &denoising_steps.to_string())?;
    let graphs = Graphs::Given(Box::new(graph));
    Ok(Box::new(OnnxRuntimeEngine { model, policy, denoising_steps, sessions, graphs }))
}

impl Engine for OnnxRuntimeEngine {
    fn name(&self) -> &str {
        "onnxruntime"
    }

    fn precision(&self) -> &PrecisionPolicy {
        &self.policy
    }

    fn shows_tensors(&self) -> bool {
        false
    }

    /// As the trait says, but a graph has no intermediate tensors to show: a probe is an error.
    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        if probe.is_some() {
            let what = "expected none: onnxruntime gives no intermediate tensors";
            return Err(Error::input("probe", what));
        }
        let OnnxRuntimeEngine { model, policy, denoising_steps, sessions, graphs } = self;
        infer_by_layout(model, inputs, *denoising_steps, None, &mut |batch, _| {
            check_inputs(batch)?;
            let prompt = model.prompt(batch)?;
            let graph = graphs.get(sessions, model, policy, batch)?;
            match graph.component()? {
                Component::ActionHead => run_action_head(graph, model, policy, &prompt, batch),
                _ => run_policy(graph, model, &prompt, batch),
            }
        })
    }
}

impl Graphs {
    /// The graph that takes the batch, exported where there is none yet.
    fn get(
        &mut self,
        sessions: &Sessions,
        model: &Model,
        policy: &PrecisionPolicy,
        batch: &Batch,
    ) -> Result<&mut Graph> {
        let (folder, fingerprint, made) = match self {
            Graphs::Given(graph) => return Ok(graph),
            Graphs::Exported { folder, fingerprint, made } => (folder, fingerprint, made),
        };
        let images: Vec<[usize; 2]> = batch.images.iter().map(|image| [image.height, image.width]).collect();
        let fits = |(sizes, rows, _): &(Vec<[usize; 2]>, usize, Graph)| {
            *sizes == images && *rows == batch.state_horizon
        };
        let index = match made.iter().position(fits) {
            Some(index) => index,
            None => {
                let path: PathBuf = folder.path().join(format!("policy_{}.onnx", made.len()));
                let export = Export {
                    component: Component::Policy,
                    policy,
                    products: sessions.provider.products(),
                    opset: DEFAULT_OPSET,
                    names: Names::Steady,
                    layout: Layout {
                        images: images.clone(),
                        state_horizon: batch.state_horizon,
                        denoising_steps: batch.denoising_steps,
                    },
                };
                export.write(model, fingerprint, &path)?;
                made.push((images, batch.state_horizon, Graph::load(sessions, &path)?));
                made.len() - 1
            }
        };
        Ok(&mut made[index].2)
    }
}

/// Whether a graph has inputs for what is asked.
fn check_inputs(batch: &Batch) -> Result<()> {
    if batch.strength.is_some() {
        return Err(Error::input("rtc", "expected none: exported graphs do not go on from a chunk before"));
    }
    match batch.images.iter().find(|image| image.frames != 1) {
        Some(image) => {
            let what = format!("expected one frame, which graphs repeat, found {}", image.frames);
            Err(Error::input("pixel_values", what))
        }
        None => Ok(()),
    }
}

fn run_policy(graph: &mut Graph, model: &Model, prompt: &Prompt, batch: &Batch) -> Result<Tensor> {
    // The graph would take any features for a prompt with too few image tokens.
    let unit = model.config.image_token_side();
    let features: usize = batch.images.iter().map(|image| image.height / unit * (image.width / unit)).sum();
    let found = prompt.images.indices.len();
    if features != found {
        let what = format!("expected {features} image tokens for these images, found {found}");
        return Err(Error::input("input_ids", what));
    }
    let mut feeds = head_feeds(model, batch);
    for (index, image) in batch.images.iter().enumerate() {
        let shape = [batch.len(), 3, image.height, image.width];
        feeds.push(Feed::floats(format!("pixel_values.{index}"), &shape, image.pixels.to_vec()));
    }
    let ids = batch.input_ids.iter().flatten().map(|id| i64::from(*id)).collect();
    let tokens = batch.input_ids.first().map_or(0, Vec::len);
    feeds.push(Feed::integers("input_ids", &[batch.len(), tokens], ids));
    graph.run(feeds, "action_pred", actions_shape(model, batch))
}

/// Runs the backbone on the reference engine, at the graph's precision, and the rest in the graph.
fn run_action_head(
    graph: &mut Graph,
    model: &Model,
    policy: &PrecisionPolicy,
    prompt: &Prompt,
    batch: &Batch,
) -> Result<Tensor> {
    let features = model.backbone(&Cpu::new(policy, None), prompt, batch)?;
    let [items, tokens, _] = features.shape();
    let mut image_mask = vec![false; tokens];
    prompt.images.indices.iter().for_each(|index| image_mask[*index] = true);
    let mut feeds = head_feeds(model, batch);
    feeds.push(Feed::floats("backbone_features".to_owned(), &features.shape(), features.values().to_vec()));
    feeds.push(Feed::bools("image_mask", &[items, tokens], image_mask.repeat(items)));
    feeds.push(Feed::bools("backbone_attention_mask", &[items, tokens], vec![true; items * tokens]));
    graph.run(feeds, "action_pred", actions_shape(model, batch))
}

fn actions_shape(model: &Model, batch: &Batch) -> [usize; 3] {
    [batch.len(), model.config.action_horizon, model.config.max_action_dim]
}

/// What every graph with an action head takes.
fn head_feeds(model: &Model, batch: &Batch) -> Vec<Feed> {
    let config = &model.config;
    let slots = batch.embodiment_ids.iter().map(|slot| *slot as i64).collect();
    let [tokens, values] = config.state_shape(batch.state_horizon);
    let state = [batch.len(), tokens, values];
    vec![
        Feed::floats("state".to_owned(), &state, batch.state.clone()),
        Feed::floats("noise".to_owned(), &actions_shape(model, batch), batch.noise.clone()),
        Feed::integers("embodiment_id", &[batch.len()], slots),
    ]
}
