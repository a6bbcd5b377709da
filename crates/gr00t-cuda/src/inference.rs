//! A whole inference: the weights of a model laid out, and the program of a shape of inputs recorded. Neither needs a GPU.

use super::action_head::{self, ActionHead, Embodiment, Inputs};
use super::builder::Builder;
use super::connector::{self, Connector};
use super::dit::{self, Times};
use super::images::DeviceFrames;
use super::kernels::Variant;
use super::language::{self, Images, Language};
use super::program::Tensor;
use super::tokens::DeviceImage;
use super::vision::{self, Vision};
use super::weights::Layout;
use crate::Result;
use steadyhand_cuda_driver::{Device, DevicePtr, Properties};
use steadyhand_gr00t::model::action_head::timestep_bucket;
use steadyhand_gr00t::model::{Batch, Model};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The weights that every inference needs.
pub(super) struct Weights {
    vision: Vision,
    connector: Connector,
    /// By the layer of the vision tower that each looks at.
    deepstack: Vec<(usize, Connector)>,
    language: Language,
    pub(super) action_head: ActionHead,
}

impl Weights {
    pub(super) fn lay_out(layout: &mut Layout, model: &Model) -> Result<Self> {
        let at = &Site::new(model.topology.image_tokens);
        let deepstack = model.deepstack.iter().enumerate();
        Ok(Weights {
            vision: Vision::lay_out(layout, &model.vision)?,
            connector: Connector::lay_out(layout, &model.connector, at)?,
            deepstack: deepstack
                .map(|(index, (layer, w))| Ok((*layer, Connector::lay_out(layout, w, &deeper(index))?)))
                .collect::<Result<_>>()?,
            language: Language::lay_out(layout, &model.language)?,
            action_head: ActionHead::lay_out(layout, &model.action_head)?,
        })
    }
}

/// The stage that comes before those of the topology where frames are processed.
const IMAGES: &str = "images";

/// The site of a deeper look at the images.
fn deeper(index: usize) -> Site {
    &Site::new("vision.deepstack") / index
}

/// Timestep buckets of the Euler steps.
pub(super) fn buckets(model: &Model, denoising_steps: usize) -> Vec<usize> {
    let bucket = |step| timestep_bucket(step, denoising_steps, model.config.num_timestep_buckets);
    (0..denoising_steps).map(bucket).collect()
}

/// What an inference computes with.
pub(super) struct Parts<'a> {
    pub(super) model: &'a Model,
    pub(super) weights: &'a Weights,
    pub(super) embodiment: &'a Embodiment,
    pub(super) times: &'a Times,
    pub(super) buckets: &'a [usize],
}

/// Where a batch's inputs lie on the device.
pub(super) struct DeviceInputs<'a> {
    pub(super) images: Vec<DeviceImage>,
    /// What the images are made of, where they are not there yet.
    pub(super) frames: Option<DeviceFrames<'a>>,
    /// Token ids, `[batch * tokens]`, u32.
    pub(super) ids: DevicePtr,
    /// `[batch * state_horizon, max_state_dim]`, f32.
    pub(super) state: DevicePtr,
    /// `[batch * action_horizon, max_action_dim]`, f32.
    pub(super) noise: DevicePtr,
    /// By how much each value follows the velocity, as `noise`; wholly where there is none.
    pub(super) strength: Option<DevicePtr>,
}

/// Records the inference of a batch's shape; normalized actions, `[batch * action_horizon, max_action_dim]`, f32.
pub(super) fn record(b: &mut Builder, parts: &Parts, batch: &Batch, inputs: &DeviceInputs) -> Result<Tensor> {
    let Parts { model, weights, embodiment, times, buckets } = *parts;
    let prompt = model.prompt(batch)?;
    let grids = model.grids(&batch.images)?;
    model.check_image_tokens(&prompt, &grids)?;
    let mut deepstack = Vec::with_capacity(weights.deepstack.len());
    let look_deeper = |b: &mut Builder, layer: usize, patches: &Tensor| {
        for (_, connector) in weights.deepstack.iter().filter(|(from, _)| *from == layer) {
            let at = &deeper(deepstack.len());
            let tokens = connector::forward(b, connector, patches, &grids, at)?;
            b.hand_over(at, vec![vec![tokens.clone()]])?;
            deepstack.push(tokens);
        }
        Ok(())
    };
    if let Some(frames) = &inputs.frames {
        b.stage(IMAGES, |b| b.images(frames, &inputs.images))?;
    }
    let vision = |b: &mut Builder| vision::forward(b, &weights.vision, &inputs.images, &grids, look_deeper);
    let patches = b.stage("vision", vision)?;
    let at = &Site::new(model.topology.image_tokens);
    let stage = model.topology.stage_of(at).map_or("vision", |stage| stage.name);
    let tokens = b.stage(stage, |b| connector::forward(b, &weights.connector, &patches, &grids, at))?;
    b.hand_over(at, vec![vec![tokens.clone()]])?;
    let images = Images { embeddings: &tokens, deepstack: &deepstack, grids: &grids };
    let language = |b: &mut Builder| language::forward(b, &weights.language, inputs.ids, &prompt, &images);
    let features = b.stage("language", language)?;
    b.hand_over(&Site::new(&model.topology.features), vec![vec![features.clone()]])?;
    let DeviceInputs { state, noise, strength, .. } = *inputs;
    let from = Inputs { state, noise, strength, state_horizon: batch.state_horizon };
    let head = (&weights.action_head, embodiment, times);
    action_head::forward(b, head, &features, &prompt, from, buckets)
}

/// The kernels that an inference of a batch's shape launches on a device of these properties, in order; those that
/// compute what depends on the Euler steps alone come first. What it would load and launch is planned as an engine
/// does, without a GPU.
///
/// # Errors
/// A policy that no kernel executes; inputs that do not fit the model.
pub fn plan(
    model: &Model,
    policy: &PrecisionPolicy,
    batch: &Batch,
    properties: Properties,
) -> Result<Vec<Variant>> {
    let device = Device::planned(properties);
    let mut layout = Layout::new(policy);
    let weights = Weights::lay_out(&mut layout, model)?;
    let embodiment = Embodiment::lay_out(&mut layout, &model.action_head, batch.embodiment_ids[0])?;
    layout.place(&device)?;
    let buckets = buckets(model, batch.denoising_steps);
    let mut before = Builder::by_step(&device, policy);
    let times = dit::times(&mut before, &weights.action_head.dit, &buckets)?;
    let images = batch.images.iter();
    let inputs = DeviceInputs {
        images: images
            .map(|image| DeviceImage {
                pixels: DevicePtr::NULL,
                frames: image.frames,
                height: image.height,
                width: image.width,
            })
            .collect(),
        frames: DeviceFrames::of(batch, |_, _| DevicePtr::NULL),
        ids: DevicePtr::NULL,
        state: DevicePtr::NULL,
        noise: DevicePtr::NULL,
        strength: batch.strength.as_ref().map(|_| DevicePtr::NULL),
    };
    let parts = Parts { model, weights: &weights, embodiment: &embodiment, times: &times, buckets: &buckets };
    let mut b = Builder::new(&device, policy, batch.len());
    record(&mut b, &parts, batch, &inputs)?;
    Ok(before.variants().chain(b.variants()).cloned().collect())
}
