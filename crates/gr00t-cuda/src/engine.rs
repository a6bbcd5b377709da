//! The engine: weights on a device, and a program and a graph for each shape of inputs.

use super::action_head::Embodiment;
use super::builder::Builder;
use super::check::check;
use super::dit::{self, Times};
use super::dit_persistent::Persistent;
use super::images::covers;
use super::inference::{self, DeviceInputs, Parts, Weights};
use super::inputs::InputMemory;
use super::kernels::Kernels;
use super::program::{Program, Scratch, Tensor};
use super::sources::Sources;
use super::weights::Layout;
use crate::{Error, Result};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use steadyhand_cuda_driver::compile::Compiler;
use steadyhand_cuda_driver::{Device, Graph, Pinned, Stream};
use steadyhand_gr00t::engine::{Backend, Engine, ModelInput, Profile, infer_raw_by_layout, one, processed};
use steadyhand_gr00t::exchange::Patches;
use steadyhand_gr00t::model::{Batch, Model};
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::{ModelSite, cpu};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::processor::ImagePlan;

/// Shapes whose programs are kept.
const MAX_SHAPES: usize = 8;

/// How an engine is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Number of the GPU.
    pub device: usize,
    /// Where compiled kernels are kept; the user's cache folder otherwise.
    pub kernel_cache: Option<PathBuf>,
    /// A folder whose `.cu` and `.cuh` files are compiled instead of the embedded ones, with line information.
    pub kernel_dir: Option<PathBuf>,
}

/// Opens [`CudaEngine`]s on one GPU.
#[derive(Debug, Clone, Default)]
pub struct Cuda {
    /// How they are opened.
    pub options: Options,
}

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn device(&self) -> steadyhand_gr00t::Result<String> {
        Ok(Device::open(self.options.device).map_err(Error::from)?.properties().name.clone())
    }

    fn check(&self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> steadyhand_gr00t::Result<()> {
        let device = Device::open(self.options.device).map_err(Error::from)?;
        Ok(check(policy, sites, Some(device.properties().compute_capability))?)
    }

    fn open(
        &self,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
    ) -> steadyhand_gr00t::Result<Box<dyn Engine + Send>> {
        Ok(Box::new(CudaEngine::new(model, policy, denoising_steps, self.options.clone())?))
    }
}

/// Runs the model on a GPU, one CUDA graph an inference.
pub struct CudaEngine {
    model: Arc<Model>,
    policy: PrecisionPolicy,
    device: Device,
    stream: Stream,
    kernels: Kernels,
    weights: Weights,
    embodiments: HashMap<usize, Embodiment>,
    buckets: Vec<usize>,
    /// Computes `times` again, for probes.
    times_program: Program,
    times: Times,
    /// The most recently used last.
    shapes: VecDeque<Shape>,
    scratch: Scratch,
}

/// What makes two batches run the same program.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// Height, width and frames.
    images: Vec<[usize; 3]>,
    /// The way of each image, where the device processes frames.
    plans: Vec<Arc<ImagePlan>>,
    image_tokens: Vec<usize>,
    tokens: usize,
    state_horizon: usize,
    batch: usize,
    embodiment: usize,
    /// Whether it goes on from a chunk before.
    strength: bool,
}

/// One shape of inputs, ready to run.
struct Shape {
    key: Key,
    work: Work,
    graph: Graph,
}

/// The program of one shape with its memory for inputs and actions.
struct Work {
    program: Program,
    inputs: InputMemory,
    /// `[batch * action_horizon, max_action_dim]`.
    actions: Tensor,
    results: Pinned,
}

impl Work {
    /// Puts an inference on the stream: inputs to the device, all kernels, actions back.
    fn enqueue(&mut self, stream: &Stream) -> Result<()> {
        self.inputs.upload(stream)?;
        self.program.enqueue(stream)?;
        self.actions.read(stream, &mut self.results)
    }

    /// The same with a probe, kernel by kernel.
    fn probe(&mut self, stream: &Stream, scratch: &mut Scratch, probe: &mut dyn Probe) -> Result<()> {
        self.inputs.upload(stream)?;
        self.program.probe(stream, scratch, probe)?;
        self.actions.read(stream, &mut self.results)
    }

    /// The same with patches, step by step.
    fn patch(&mut self, stream: &Stream, patches: &mut dyn Patches) -> Result<()> {
        self.inputs.upload(stream)?;
        self.program.patch(stream, patches)?;
        self.actions.read(stream, &mut self.results)
    }
}

/// How a batch is run.
enum Run<'a> {
    /// The graph of its shape.
    Replay,
    /// Its kernels one by one, for a probe.
    Probe(&'a mut dyn Probe),
    /// Its kernels, components handing their tensors over.
    Patch(&'a mut dyn Patches),
}

impl<'a> Run<'a> {
    fn with(probe: Option<&'a mut dyn Probe>) -> Self {
        probe.map_or(Run::Replay, Run::Probe)
    }
}

impl CudaEngine {
    /// Loads a model's weights on a GPU and computes what depends on the Euler steps alone.
    ///
    /// # Errors
    /// A kernel's file that `kernel_dir` lacks, no driver, no GPU, no NVRTC, a GPU older than compute capability 8.0, too little memory (with how much is
    /// needed), or a policy that no kernel executes (with the site).
    pub fn new(
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
        options: Options,
    ) -> Result<Self> {
        if denoising_steps == 0 {
            return Err(
                steadyhand_gr00t::Error::input("denoising_steps", "expected at least 1, found 0").into()
            );
        }
        let sources = Sources::open(options.kernel_dir.as_deref())?;
        let sites = model.sites()?;
        check(&policy, &sites, None)?;
        let mut layout = Layout::new(&policy);
        let weights = Weights::lay_out(&mut layout, &model)?;
        let device = Device::open(options.device)?;
        let driver_version = Some(device.properties().driver_version);
        let capability = device.properties().compute_capability;
        check(&policy, &sites, Some(capability))?;
        let compiler = Compiler::open(driver_version, options.kernel_cache)?;
        let kernels = Kernels::new(&device, compiler, sources);
        layout.load(&device, &kernels, &format!("the model in {policy}"))?;
        let stream = device.stream()?;
        let buckets = inference::buckets(&model, denoising_steps);
        let mut builder = Builder::by_step(&device, &policy);
        let times = dit::times(&mut builder, &weights.action_head.dit, &buckets)?;
        let times_program = builder.finish(&kernels)?;
        times_program.enqueue(&stream)?;
        stream.synchronize()?;
        let dit = &weights.action_head.dit;
        let in_one = Persistent::prepare(&device, &kernels, &stream, &policy, (dit, &times))?;
        let times = times.in_one(in_one.map(Arc::new));
        let scratch = Scratch::new(&device)?;
        let (embodiments, shapes) = (HashMap::new(), VecDeque::new());
        Ok(CudaEngine {
            model: Arc::new(model),
            policy,
            device,
            stream,
            kernels,
            weights,
            embodiments,
            buckets,
            times_program,
            times,
            shapes,
            scratch,
        })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The queue that it works in.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Why the DiT's blocks are a chain of kernels; none where one kernel does them all in an inference that it takes.
    pub fn dit_obstacle(&self) -> Option<&str> {
        self.times.persistent().err().map(String::as_str)
    }

    /// Its kernels.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The most recently used program.
    pub(super) fn last_program(&self) -> Option<&Program> {
        self.shapes.back().map(|shape| &shape.work.program)
    }

    /// Kernels of the most recently used graph: all of it but the copy of the inputs and that of the actions.
    pub fn kernels_per_inference(&self) -> usize {
        self.shapes.back().map_or(0, |shape| shape.graph.nodes().saturating_sub(2))
    }

    /// Runs a batch of one embodiment.
    fn run(&mut self, batch: &Batch, how: Run) -> Result<cpu::Tensor> {
        self.check_ids(batch)?;
        self.shape(batch)?.work.inputs.fill(batch);
        let CudaEngine { stream, times_program, scratch, shapes, .. } = self;
        let Some(Shape { work, graph, .. }) = shapes.back_mut() else {
            return Err(Error::engine("run", "expected a program for these inputs"));
        };
        match how {
            Run::Replay => stream.replay(graph)?,
            Run::Probe(probe) => {
                times_program.probe(stream, scratch, probe)?;
                work.probe(stream, scratch, probe)?;
            }
            Run::Patch(patches) => work.patch(stream, patches)?,
        }
        stream.synchronize()?;
        let Tensor { rows, features, .. } = work.actions;
        let shape = [batch.len(), rows / batch.len(), features];
        cpu::Tensor::from_values(shape, work.results.as_f32()[..rows * features].to_vec())
            .ok_or_else(|| Error::engine("read actions", format!("expected {shape:?} values")))
    }

    fn check_ids(&self, batch: &Batch) -> Result<()> {
        let rows = self.model.config.vocab_size();
        match batch.input_ids.iter().flatten().find(|id| **id as usize >= rows) {
            Some(id) => Err(steadyhand_gr00t::Error::input(
                "input_ids",
                format!("expected ids below {rows}, found {id}"),
            )
            .into()),
            None => Ok(()),
        }
    }

    /// The program of a batch's shape, now the most recently used: found, or recorded and captured. The least
    /// recently used gives way.
    fn shape(&mut self, batch: &Batch) -> Result<&mut Shape> {
        let prompt = self.model.prompt(batch)?;
        let key = Key {
            images: batch.images.iter().map(|image| [image.height, image.width, image.frames]).collect(),
            plans: batch.raw.iter().filter_map(|items| Some(Arc::clone(items.first()?.plan()))).collect(),
            image_tokens: prompt.images.indices,
            tokens: batch.input_ids[0].len(),
            state_horizon: batch.state_horizon,
            batch: batch.len(),
            embodiment: batch.embodiment_ids[0],
            strength: batch.strength.is_some(),
        };
        let index = self.shapes.iter().position(|shape| shape.key == key);
        let shape = match index.and_then(|index| self.shapes.remove(index)) {
            Some(shape) => shape,
            None => {
                self.load_embodiment(key.embodiment)?;
                if self.shapes.len() == MAX_SHAPES {
                    self.shapes.pop_front();
                }
                self.record(key, batch)?
            }
        };
        self.shapes.push_back(shape);
        let last = self.shapes.len() - 1;
        Ok(&mut self.shapes[last])
    }

    fn load_embodiment(&mut self, slot: usize) -> Result<()> {
        if self.embodiments.contains_key(&slot) {
            return Ok(());
        }
        let mut layout = Layout::new(&self.policy);
        let embodiment = Embodiment::lay_out(&mut layout, &self.model.action_head, slot)?;
        layout.load(&self.device, &self.kernels, &format!("embodiment {slot}"))?;
        self.embodiments.insert(slot, embodiment);
        Ok(())
    }

    fn record(&self, key: Key, batch: &Batch) -> Result<Shape> {
        let mut work = self.program(&key, batch)?;
        let graph = self.stream.capture(&mut || work.enqueue(&self.stream))?;
        Ok(Shape { key, work, graph })
    }

    /// Records the program of a batch's shape.
    fn program(&self, key: &Key, batch: &Batch) -> Result<Work> {
        let CudaEngine { model, policy, device, kernels, weights, times, buckets, .. } = self;
        let inputs = InputMemory::new(device, batch)?;
        let embodiment = &self.embodiments[&key.embodiment];
        let parts = Parts { model, weights, embodiment, times, buckets };
        let mut b = Builder::new(device, policy, batch.len());
        let on_device = DeviceInputs {
            images: inputs.images(batch),
            frames: inputs.frames(batch),
            ids: inputs.ids(),
            state: inputs.state(),
            noise: inputs.noise(),
            strength: inputs.strength(batch),
        };
        let actions = inference::record(&mut b, &parts, batch, &on_device)?;
        let results = device.alloc_pinned(actions.rows * actions.features * 4)?;
        Ok(Work { program: b.finish(kernels)?, inputs, actions, results })
    }
}

impl Engine for CudaEngine {
    fn name(&self) -> &str {
        "cuda"
    }

    fn precision(&self) -> &PrecisionPolicy {
        &self.policy
    }

    fn takes_raw_images(&self) -> bool {
        true
    }

    fn infer(
        &mut self,
        inputs: &[ModelInput],
        probe: Option<&mut dyn Probe>,
    ) -> steadyhand_gr00t::Result<Vec<Matrix>> {
        let inputs = &*processed(inputs, |image| covers(image.plan()));
        let (model, steps) = (Arc::clone(&self.model), self.buckets.len());
        // An embodiment's layers are part of a program: inputs of several embodiments run one after the other.
        let mut slots: Vec<usize> = inputs.iter().map(|input| input.embodiment_id).collect();
        slots.sort_unstable();
        slots.dedup();
        if slots.len() <= 1 {
            return infer_raw_by_layout(&model, inputs, steps, probe, &mut |batch, probe| {
                Ok(self.run(batch, Run::with(probe))?)
            });
        }
        if probe.is_some() {
            return Err(steadyhand_gr00t::Error::input(
                "embodiment_id",
                "expected one in a probed inference, found several",
            ));
        }
        let mut actions = vec![Matrix::default(); inputs.len()];
        for slot in slots {
            let members: Vec<usize> =
                (0..inputs.len()).filter(|i| inputs[*i].embodiment_id == slot).collect();
            let group: Vec<ModelInput> = members.iter().map(|index| inputs[*index].clone()).collect();
            let found = infer_raw_by_layout(&model, &group, steps, None, &mut |batch, _| {
                Ok(self.run(batch, Run::Replay)?)
            })?;
            members.into_iter().zip(found).for_each(|(index, found)| actions[index] = found);
        }
        Ok(actions)
    }

    fn takes_tensors(&self) -> bool {
        true
    }

    fn infer_patched(
        &mut self,
        input: &ModelInput,
        patches: &mut dyn Patches,
    ) -> steadyhand_gr00t::Result<Matrix> {
        let (model, steps) = (Arc::clone(&self.model), self.buckets.len());
        let inputs = processed(std::slice::from_ref(input), |image| covers(image.plan()));
        one(infer_raw_by_layout(&model, &inputs, steps, None, &mut |batch, _| {
            Ok(self.run(batch, Run::Patch(patches))?)
        })?)
    }

    fn differs_when_probed(&self) -> Option<String> {
        let words = "the DiT runs as one kernel, under a probe as the chain of kernels that it stands for";
        self.dit_obstacle().is_none().then(|| words.to_owned())
    }

    fn profile(&mut self) -> Option<&mut dyn Profile> {
        Some(self)
    }
}
