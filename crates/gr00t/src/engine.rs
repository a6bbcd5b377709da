//! Engines: what turns model inputs into normalized actions, and the backends that open them.

use crate::exchange::{Patched, Patches};
use crate::model::{Batch, Model};
use crate::observation::Matrix;
use crate::ops::cpu::{Cpu, Intervention, NoIntervention, Tensor};
use crate::ops::{ImageBatch, ModelSite};
use crate::precision::PrecisionPolicy;
use crate::probe::Probe;
use crate::processor::RawImage;
use crate::rtc::Rtc;
use crate::{Error, Result};
pub use images::ModelImages;
pub use profile::{DeviceReport, Profile, StageTimes};
use std::borrow::Cow;
use std::cell::RefCell;

mod images;
mod profile;

/// One observation in the model's terms, with the noise that the actions start from.
#[derive(Debug, Clone, Default)]
pub struct ModelInput {
    /// Images in the order of the prompt.
    pub images: ModelImages,
    /// Token ids of the prompt, without padding.
    pub input_ids: Vec<u32>,
    /// `[state_horizon, max_state_dim]`, normalized and zero-padded.
    pub state: Matrix,
    /// Slot of the category-specific weights.
    pub embodiment_id: usize,
    /// `[action_horizon, max_action_dim]`. Always an input: engines are compared on the same noise.
    pub noise: Matrix,
    /// The chunk to go on from, where there is one: real-time chunking.
    pub rtc: Option<Rtc>,
}

impl ModelInput {
    /// As [`Model::token_places`].
    ///
    /// # Errors
    /// An image that does not fit the model.
    pub fn token_places(&self, model: &Model) -> Result<Option<Vec<[usize; 3]>>> {
        model.token_places(&batch(&[self], model.config.num_inference_timesteps))
    }
}

/// Runs the model. An engine is made for one checkpoint, one precision policy and one number of Euler steps.
pub trait Engine {
    /// Short name for tables and file names, such as `cpu`.
    fn name(&self) -> &str;

    /// The number formats it runs at.
    fn precision(&self) -> &PrecisionPolicy;

    /// Normalized actions `[action_horizon, max_action_dim]` of each input, in order. The result for an
    /// input does not depend on what else is in the batch.
    ///
    /// `probe` sees the intermediate tensors; it needs inputs of one layout (the same image sizes and
    /// prompt length), which then form its batch dimension.
    ///
    /// # Errors
    /// An input that does not fit the model, named by field.
    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>>;

    /// Normalized actions of one input, for which every [`Part`](crate::topology::Part) hands its tensor
    /// over through `patches`, in the order of execution. With patches that change nothing the actions have the bits
    /// of [`Engine::infer`].
    ///
    /// # Errors
    /// As [`Engine::infer`]; an engine that takes no tensors between its components.
    fn infer_patched(&mut self, _input: &ModelInput, _patches: &mut dyn Patches) -> Result<Matrix> {
        let what = format!("expected none: {} takes no tensors between its components", self.name());
        Err(Error::input("patches", what))
    }

    /// Whether it processes camera frames itself, with the processor's bytes: its inputs are then best given raw images
    /// ([`ModelImages::Raw`]). Every engine takes both forms.
    fn takes_raw_images(&self) -> bool {
        false
    }

    /// Whether it takes tensors between its components: [`Engine::infer_patched`].
    fn takes_tensors(&self) -> bool {
        false
    }

    /// Whether it shows a probe its intermediate tensors. An engine that gives its actions only refuses probes.
    fn shows_tensors(&self) -> bool {
        true
    }

    /// What runs otherwise while a probe looks on, in words; `None` where a probed inference gives the bits of one without
    /// a probe. Both ways follow the policy, but may round apart: what is shown is then not all that runs.
    fn differs_when_probed(&self) -> Option<String> {
        None
    }

    /// What the engine can say of where its time goes; `None` where it cannot.
    fn profile(&mut self) -> Option<&mut dyn Profile> {
        None
    }
}

/// Opens engines of one kind. A new kind of engine implements this trait and is registered where engines are named.
pub trait Backend {
    /// Short name, that of its engines, such as `cpu`.
    fn name(&self) -> &'static str;

    /// The device that its engines compute on.
    ///
    /// # Errors
    /// There is none.
    fn device(&self) -> Result<String>;

    /// Whether its engines can execute a policy on a model that has these sites. Nothing is loaded; what this admits,
    /// [`Backend::open`] does not refuse for its number formats.
    ///
    /// # Errors
    /// The first site with what no engine of this kind executes.
    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()>;

    /// An engine that integrates over `denoising_steps` Euler steps. Whoever opened it may hand it to another thread.
    ///
    /// # Errors
    /// Those of [`Backend::check`]; a device or a library that is missing, or has too little memory.
    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>>;
}

/// Opens the reference: [`CpuEngine`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference;

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> Result<String> {
        Ok("emulation on the CPU".to_owned())
    }

    /// The reference emulates every policy that fits the model.
    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
        policy.check(sites)
    }

    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>> {
        self.check(&policy, &model.sites()?)?;
        Ok(Box::new(CpuEngine::new(model, policy, denoising_steps)))
    }
}

/// The reference: [`Model`] over [`Cpu`] operations.
pub struct CpuEngine<'e, I = NoIntervention> {
    model: Model,
    policy: PrecisionPolicy,
    denoising_steps: usize,
    intervention: &'e I,
}

impl CpuEngine<'static> {
    /// An engine that integrates over `denoising_steps` Euler steps.
    pub fn new(model: Model, policy: PrecisionPolicy, denoising_steps: usize) -> Self {
        CpuEngine { model, policy, denoising_steps, intervention: &NoIntervention }
    }
}

impl<I> CpuEngine<'_, I> {
    /// What it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The same engine with `intervention` interfering in its inferences.
    #[must_use]
    pub fn with_intervention<J: Intervention>(self, intervention: &J) -> CpuEngine<'_, J> {
        let CpuEngine { model, policy, denoising_steps, .. } = self;
        CpuEngine { model, policy, denoising_steps, intervention }
    }
}

impl<I: Intervention> Engine for CpuEngine<'_, I> {
    fn name(&self) -> &str {
        "cpu"
    }

    fn precision(&self) -> &PrecisionPolicy {
        &self.policy
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let CpuEngine { model, policy, denoising_steps, intervention } = self;
        infer_by_layout(model, inputs, *denoising_steps, probe, &mut |batch, probe| {
            model.infer(&Cpu::new(policy, probe).with_intervention(*intervention), batch)
        })
    }

    fn takes_tensors(&self) -> bool {
        true
    }

    fn infer_patched(&mut self, input: &ModelInput, patches: &mut dyn Patches) -> Result<Matrix> {
        let CpuEngine { model, policy, denoising_steps, intervention } = self;
        let intervention = Patched {
            inner: *intervention,
            patches: RefCell::new(patches),
            policy,
            topology: &model.topology,
        };
        one(infer_by_layout(model, std::slice::from_ref(input), *denoising_steps, None, &mut |batch, _| {
            model.infer(&Cpu::new(policy, None).with_intervention(&intervention), batch)
        })?)
    }

    fn profile(&mut self) -> Option<&mut dyn Profile> {
        Some(self)
    }
}

/// The actions of the only input.
///
/// # Errors
/// There are none.
pub fn one(mut actions: Vec<Matrix>) -> Result<Matrix> {
    actions.pop().ok_or_else(|| Error::input("inputs", "expected one, found none"))
}

/// Runs a batch and gives its normalized actions.
pub type RunBatch<'a> = &'a mut dyn FnMut(&Batch, Option<&mut dyn Probe>) -> Result<Tensor>;

/// Checks inputs, puts those of one layout into a batch, runs each batch and sorts the actions back. Actions that are
/// not finite are an error where weights of the checkpoint are not. Raw images are processed first.
pub fn infer_by_layout(
    model: &Model,
    inputs: &[ModelInput],
    denoising_steps: usize,
    probe: Option<&mut dyn Probe>,
    run: RunBatch,
) -> Result<Vec<Matrix>> {
    infer_raw_by_layout(model, &processed(inputs, |_| false), denoising_steps, probe, run)
}

/// The inputs with their images processed, but for raw images that the engine takes.
pub fn processed(inputs: &[ModelInput], takes: impl Fn(&RawImage) -> bool) -> Cow<'_, [ModelInput]> {
    let stays = |input: &ModelInput| input.images.raw().is_none_or(|raw| raw.iter().all(&takes));
    if inputs.iter().all(stays) {
        return Cow::Borrowed(inputs);
    }
    let mut inputs = inputs.to_vec();
    for input in inputs.iter_mut().filter(|input| !stays(input)) {
        input.images = std::mem::take(&mut input.images).into_pixels().into();
    }
    Cow::Owned(inputs)
}

/// [`infer_by_layout`] for an engine that processes raw images: batches have them as they are ([`Batch::raw`]).
pub fn infer_raw_by_layout(
    model: &Model,
    inputs: &[ModelInput],
    denoising_steps: usize,
    mut probe: Option<&mut dyn Probe>,
    run: RunBatch,
) -> Result<Vec<Matrix>> {
    inputs.iter().try_for_each(|input| check(input, model))?;
    check_steps(model, denoising_steps)?;
    let groups = by_layout(inputs);
    if probe.is_some() && groups.len() > 1 {
        return Err(Error::input("inputs", "expected one layout in a probed inference, found several"));
    }
    let mut actions = vec![Matrix::default(); inputs.len()];
    for group in groups {
        let members: Vec<&ModelInput> = group.iter().map(|index| &inputs[*index]).collect();
        let result = run(&batch(&members, denoising_steps), probe.take())?;
        let [_, rows, cols] = result.shape();
        for (index, values) in group.iter().zip(result.values().chunks_exact(rows * cols)) {
            actions[*index] = Matrix { rows, cols, data: values.to_vec() };
        }
    }
    let is_finite = |actions: &Matrix| actions.data.iter().all(|value| value.is_finite());
    if let (false, Some(checkpoint)) = (actions.iter().all(is_finite), model.checkpoint()) {
        // Weights are not looked through beforehand; where they explain the actions, they are what is wrong.
        checkpoint.check_finite()?;
    }
    Ok(actions)
}

/// Whether the model can be integrated over so many Euler steps: each has a timestep bucket of its own.
///
/// # Errors
/// None, or more than there are buckets.
pub fn check_steps(model: &Model, denoising_steps: usize) -> Result<()> {
    let buckets = model.config.num_timestep_buckets;
    if (1..=buckets).contains(&denoising_steps) {
        return Ok(());
    }
    let what = format!("expected 1 to {buckets}, the model's timestep buckets, found {denoising_steps}");
    Err(Error::option("denoising_steps", what))
}

/// Everything about an input that its shapes and values alone can tell.
fn check(input: &ModelInput, model: &Model) -> Result<()> {
    let config = &model.config;
    let expect = |field: &str, expected: [usize; 2], found: &Matrix| {
        let whole = found.data.len() == found.rows * found.cols;
        if [found.rows, found.cols] == expected && whole {
            return finite(field, &found.data);
        }
        Err(Error::input(field, format!("expected {expected:?}, found [{}, {}]", found.rows, found.cols)))
    };
    expect("noise", [config.action_horizon, config.max_action_dim], &input.noise)?;
    let state_rows = config.state_rows().unwrap_or(input.state.rows.max(1));
    expect("state", [state_rows, config.max_state_dim], &input.state)?;
    if let Some(rtc) = &input.rtc {
        rtc.check([config.action_horizon, config.max_action_dim])?;
        finite("rtc.previous", &rtc.previous.data)?;
    }
    if input.embodiment_id >= config.max_num_embodiments {
        let what = format!("expected below {}, found {}", config.max_num_embodiments, input.embodiment_id);
        return Err(Error::input("embodiment_id", what));
    }
    if input.input_ids.is_empty() || input.images.is_empty() {
        return Err(Error::input("input_ids", "expected at least one token and one image"));
    }
    let ModelImages::Pixels(images) = &input.images else { return Ok(()) };
    for (index, image) in images.iter().enumerate() {
        let field = format!("pixel_values.{index}");
        if image.frames() == 0 || image.data.len() != image.frames() * 3 * image.height * image.width {
            let what =
                format!("expected 3x{}x{} values, found {}", image.height, image.width, image.data.len());
            return Err(Error::input(field, what));
        }
        finite(&field, &image.data)?;
    }
    Ok(())
}

fn finite(field: &str, values: &[f32]) -> Result<()> {
    // Without a way out of the loop it takes many values at a time: an image has hundreds of thousands.
    if values.iter().fold(true, |all, value| all & value.is_finite()) {
        return Ok(());
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => {
            Err(Error::input(field, format!("expected finite values, found {} at {index}", values[index])))
        }
        None => Ok(()),
    }
}

/// Indices of inputs that can share a batch, in the order of their first member.
pub fn by_layout(inputs: &[ModelInput]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        match groups.iter_mut().find(|group| same_layout(&inputs[group[0]], input)) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn same_layout(a: &ModelInput, b: &ModelInput) -> bool {
    let options = |input: &ModelInput| input.rtc.as_ref().map(|rtc| rtc.options);
    a.input_ids.len() == b.input_ids.len()
        && a.state.rows == b.state.rows
        && a.images.is_like(&b.images)
        && options(a) == options(b)
}

/// The actions that an inference starts from.
fn start(input: &ModelInput) -> Cow<'_, [f32]> {
    match &input.rtc {
        Some(rtc) => Cow::Owned(rtc.start(&input.noise)),
        None => Cow::Borrowed(&input.noise.data),
    }
}

/// The values of one of its images; none where it is raw.
fn pixels(input: &ModelInput, index: usize) -> &[f32] {
    match &input.images {
        ModelImages::Pixels(images) => &images[index].data,
        ModelImages::Raw(_) => &[],
    }
}

fn batch<'i>(members: &[&'i ModelInput], denoising_steps: usize) -> Batch<'i> {
    let concat = |values: &dyn for<'m> Fn(&'m ModelInput) -> &'m [f32]| {
        members.iter().map(|member| values(member)).collect::<Vec<_>>().concat()
    };
    let images = members[0].images.sizes().into_iter().enumerate();
    let raw: Vec<&[RawImage]> = members.iter().filter_map(|member| member.images.raw()).collect();
    Batch {
        images: images
            .map(|(index, [frames, height, width])| ImageBatch {
                height,
                width,
                frames,
                pixels: match members {
                    [member] => Cow::Borrowed(pixels(member, index)),
                    _ => Cow::Owned(concat(&|member| pixels(member, index))),
                },
            })
            .collect(),
        raw: raw.first().map_or(Vec::new(), |first| {
            (0..first.len()).map(|index| raw.iter().map(|images| &images[index]).collect()).collect()
        }),
        input_ids: members.iter().map(|member| member.input_ids.clone()).collect(),
        state: concat(&|member| &member.state.data),
        state_horizon: members[0].state.rows,
        embodiment_ids: members.iter().map(|member| member.embodiment_id).collect(),
        noise: members.iter().flat_map(|member| start(member).into_owned()).collect(),
        strength: members[0].rtc.as_ref().map(|rtc| rtc.options.strength(members[0].noise.rows)),
        denoising_steps,
    }
}
