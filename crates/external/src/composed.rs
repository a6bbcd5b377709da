//! A policy of which another engine computes a component, and the reference everything else.

use crate::bindings::{Bindings, Runner, Tensor};
use crate::feeds::{Feeds, Tensors, in_step, part_of};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::engine::{Engine, ModelInput, infer_by_layout};
use steadyhand_gr00t::export::{Blocks, Component, Edge};
use steadyhand_gr00t::model::action_head::timestep_bucket;
use steadyhand_gr00t::model::{Batch, Model};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::ops::cpu::{self, Cpu, Intervention};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{Error, Matrix, Result};

/// A component on another engine, the rest of the policy on the reference.
///
/// The tensors at the component's edges pass through memory of the engine's own types: floats are rounded to those of its
/// inputs. An engine is called once for each observation of a batch; a part is computed by the reference too, and its result
/// replaced.
pub struct ComposedEngine {
    name: &'static str,
    model: Model,
    policy: PrecisionPolicy,
    denoising_steps: usize,
    component: Component,
    edges: Edges,
    /// Paths of the component's own sites.
    own: BTreeSet<String>,
    runner: Box<dyn Runner + Send>,
}

/// What an engine is given and gives of a model's tensors.
struct Edges {
    of_component: Vec<&'static Edge>,
    /// Taps between blocks, and whether they are outputs.
    of_blocks: Vec<(String, bool)>,
}

impl Edges {
    fn new(component: Component, bindings: &Bindings) -> Self {
        let has = |edge: &&Edge| bindings.iter().any(|binding| edge.is_called(&binding.name));
        // What is told of the time is not of one observation.
        let outputs = bindings.outputs().filter(|output| !Blocks::is_time(&output.name));
        let inputs = bindings.inputs().map(|input| (input, false));
        let own = inputs.chain(outputs.map(|output| (output, true)));
        Edges {
            of_component: component.edges().iter().filter(has).collect(),
            of_blocks: own
                .filter_map(|(binding, is_output)| Some((Blocks::tap(&binding.name)?, is_output)))
                .collect(),
        }
    }
}

impl ComposedEngine {
    /// A policy around `runner`, which says by its inputs what component it is. `name` is that of the kind of engine.
    ///
    /// # Errors
    /// Inputs of no component that this project exports; a precision that does not fit the model.
    pub fn new(
        name: &'static str,
        model: Model,
        policy: PrecisionPolicy,
        denoising_steps: usize,
        runner: Box<dyn Runner + Send>,
    ) -> Result<Self> {
        policy.check(&model.sites()?)?;
        let component = component_of(runner.bindings())?;
        let own = component.sites(&model)?.into_iter().map(|site| site.path).collect();
        let edges = Edges::new(component, runner.bindings());
        Ok(ComposedEngine { name, model, policy, denoising_steps, component, edges, own, runner })
    }
}

/// The component that takes these inputs.
fn component_of(bindings: &Bindings) -> Result<Component> {
    let inputs: Vec<&str> = bindings.inputs().map(|input| input.name.as_str()).collect();
    let takes = |name: &str| inputs.iter().any(|input| input.starts_with(name));
    match part_of(bindings) {
        Some(component) => Ok(component),
        None if takes("pixel_values.") && takes("noise") => Ok(Component::Policy),
        None if takes("pixel_values.") => Ok(Component::Backbone),
        None if takes("backbone_features") => Ok(Component::ActionHead),
        None => {
            let what =
                format!("expected those of a component that steady exports, found {}", inputs.join(", "));
            Err(Error::input("inputs", what))
        }
    }
}

impl Engine for ComposedEngine {
    fn name(&self) -> &str {
        self.name
    }

    fn precision(&self) -> &PrecisionPolicy {
        &self.policy
    }

    fn shows_tensors(&self) -> bool {
        self.component != Component::Policy
    }

    /// As the trait says; a probe sees nothing of what the other engine computes but its results.
    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let ComposedEngine { model, policy, denoising_steps, component, edges, own, runner, .. } = self;
        if probe.is_some() && *component == Component::Policy {
            return Err(Error::input("probe", "expected none: the engine gives no intermediate tensors"));
        }
        let feeds = Feeds {
            image_token_index: i64::from(model.config.image_token()),
            memory: model.topology.memory(),
            features: &model.topology.features,
        };
        infer_by_layout(model, inputs, *denoising_steps, probe, &mut |batch, probe| {
            if batch.strength.is_some() && matches!(component, Component::Policy | Component::ActionHead) {
                let what = "expected none: exported graphs do not go on from a chunk before";
                return Err(Error::input("rtc", what));
            }
            let tensors = (0..batch.len()).map(|item| of_item(model, batch, item)).collect::<Result<_>>()?;
            let outside = Outside {
                feeds,
                component: *component,
                edges,
                own,
                runner: RefCell::new(runner.as_mut()),
                tensors: RefCell::new(tensors),
                given: RefCell::default(),
                policy,
                failure: RefCell::new(None),
            };
            let actions = outside.infer(model, batch, probe);
            // What the reference says of what was not replaced is no reason.
            match outside.failure.into_inner() {
                Some(error) => Err(error),
                None => actions,
            }
        })
    }
}

/// Tensors of one observation.
type ByTap = BTreeMap<String, Tensor>;

/// One inference of a batch.
struct Outside<'a> {
    feeds: Feeds<'a>,
    component: Component,
    edges: &'a Edges,
    own: &'a BTreeSet<String>,
    runner: RefCell<&'a mut (dyn Runner + Send)>,
    /// Of each observation, what the engine may be given.
    tensors: RefCell<Vec<ByTap>>,
    /// What it gave last, and for which Euler step: by observation and tap.
    given: RefCell<Option<(Option<usize>, Vec<ByTap>)>>,
    policy: &'a PrecisionPolicy,
    failure: RefCell<Option<Error>>,
}

impl Outside<'_> {
    fn infer(&self, model: &Model, batch: &Batch, probe: Option<&mut dyn Probe>) -> Result<cpu::Tensor> {
        let config = &model.config;
        let of_actions = [batch.len(), config.action_horizon, config.max_action_dim];
        let mut watch = Watch { outside: self, probe };
        if matches!(self.component, Component::Policy | Component::Backbone) {
            // A graph would take any features for a prompt with too few image tokens.
            model.check_image_tokens(&model.prompt(batch)?, &model.grids(&batch.images)?)?;
        }
        match self.component {
            Component::Policy => self.result("action_pred", of_actions),
            Component::ActionHead => {
                let prompt = model.prompt(batch)?;
                let features = model.backbone(&Cpu::new(self.policy, Some(&mut watch)), &prompt, batch)?;
                watch.tap("backbone_features", &features.shape(), features.values());
                let actions = self.result("action_pred", of_actions)?;
                watch.tap("action_pred", &of_actions, actions.values());
                Ok(actions)
            }
            Component::Backbone => {
                let (prompt, tokens) = (model.prompt(batch)?, batch.input_ids.first().map_or(0, Vec::len));
                let shape = [batch.len(), tokens, config.backbone_embedding_dim];
                let features = self.result("backbone_features", shape)?;
                watch.tap("backbone_features", &shape, features.values());
                model.actions(&Cpu::new(self.policy, Some(&mut watch)), &features, &prompt, batch)
            }
            _ => model.infer(&Cpu::new(self.policy, Some(&mut watch)).with_intervention(self), batch),
        }
    }

    /// The engine's output that is the tap `path`, of all observations, for what is called once in an inference.
    fn result(&self, path: &str, shape: [usize; 3]) -> Result<cpu::Tensor> {
        let mut values = vec![0.0; shape.iter().product()];
        self.replace(path, None, &mut values)?;
        cpu::Tensor::from_values(shape, values).ok_or_else(|| Error::input(path, "expected a whole tensor"))
    }

    /// Puts the engine's results at the tap `path` in the place of `values`, those of all observations.
    fn replace(&self, path: &str, step: Option<usize>, values: &mut [f32]) -> Result<()> {
        let mut given = self.given.borrow_mut();
        if given.as_ref().is_none_or(|(of, _)| *of != step) {
            *given = Some((step, self.call(step)?));
        }
        let Some((_, outputs)) = given.as_ref() else { return Ok(()) };
        let count = values.len() / outputs.len().max(1);
        for (outputs, own) in outputs.iter().zip(values.chunks_exact_mut(count.max(1))) {
            let tensor = outputs
                .get(path)
                .cloned()
                .ok_or_else(|| Error::input("outputs", format!("expected {path}, found none that is it")))?;
            let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype());
            let (tensor, _) = tensor.in_format(Dtype::F32);
            let (elements, _) = tensor.bytes().as_chunks();
            if tensor.dtype() != Dtype::F32 || elements.len() != own.len() {
                let what = format!("expected {} floats, found {dtype} {shape:?}", own.len());
                return Err(Error::input(format!("output {path}"), what));
            }
            own.iter_mut().zip(elements).for_each(|(own, bytes)| *own = f32::from_le_bytes(*bytes));
        }
        Ok(())
    }

    /// Calls the engine for every observation: its outputs by the taps that they are.
    fn call(&self, step: Option<usize>) -> Result<Vec<ByTap>> {
        let (mut runner, tensors) = (self.runner.borrow_mut(), self.tensors.borrow());
        let mut given = Vec::with_capacity(tensors.len());
        for item in tensors.iter() {
            let inputs = runner.bindings().inputs().map(|binding| {
                let (tensor, _) = self.feeds.input(&Item(item), binding, step)?.in_format(binding.dtype);
                Ok((binding.name.clone(), tensor))
            });
            let inputs = inputs.collect::<Result<_>>()?;
            let mut outputs = BTreeMap::new();
            for (name, tensor) in runner.run(inputs)? {
                outputs.extend(self.feeds.output(runner.bindings(), &name, tensor, step)?);
            }
            given.push(outputs);
        }
        Ok(given)
    }

    /// Whether the tap `name` is one that the component is given, or gives; of a stack of layers each is one.
    fn is_edge(&self, name: &str, outputs: bool) -> bool {
        let step = Site::of_tap(name).step();
        let mut of_blocks = self.edges.of_blocks.iter().filter(|(_, is_output)| *is_output == outputs);
        if of_blocks.any(|(tap, _)| in_step(tap, step) == name) {
            return true;
        }
        let mut edges = self.edges.of_component.iter().filter(|edge| edge.is_output == outputs);
        edges.any(|edge| {
            let rest = name.strip_prefix(&self.feeds.tap_of(edge, step));
            let layer =
                |rest: &str| rest.strip_prefix('.').is_some_and(|index| index.parse::<usize>().is_ok());
            rest.is_some_and(|rest| rest.is_empty() || layer(rest))
        })
    }
}

impl Intervention for Outside<'_> {
    fn result(&self, site: &Site, _: [usize; 3], values: &mut [f32]) {
        let name = site.to_string();
        if self.failure.borrow().is_some() || !self.is_edge(&name, true) {
            return;
        }
        if let Err(error) = self.replace(&name, site.step(), values) {
            *self.failure.borrow_mut() = Some(error);
        }
    }
}

/// Keeps what the engine is given of what passes by.
struct Watch<'o, 'a, 'p> {
    outside: &'o Outside<'a>,
    probe: Option<&'p mut dyn Probe>,
}

impl Probe for Watch<'_, '_, '_> {
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let outside = self.outside;
        if name == "backbone_features" || outside.is_edge(name, false) {
            let mut tensors = outside.tensors.borrow_mut();
            // What is the same for all observations each of them has.
            let count = if shape[0] == 1 { values.len() } else { values.len() / tensors.len().max(1) };
            let shape: Vec<usize> = [1].iter().chain(&shape[1..]).copied().collect();
            let own = values.chunks_exact(count.max(1)).cycle();
            for (item, own) in tensors.iter_mut().zip(own) {
                match Tensor::floats(&shape, own) {
                    Ok(tensor) => drop(item.insert(name.to_owned(), tensor)),
                    Err(error) => *outside.failure.borrow_mut() = Some(error),
                }
            }
        }
        // What the reference computed inside the component is not what made its result.
        let at_edge = outside.is_edge(name, false) || outside.is_edge(name, true);
        let hidden = outside.own.contains(Site::of_tap(name).path()) && !at_edge;
        if let Some(probe) = self.probe.as_mut().filter(|_| !hidden) {
            probe.tap(name, shape, values);
        }
    }
}

/// What the engine may be given for one observation.
struct Item<'i>(&'i ByTap);

impl Tensors for Item<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.0.get(name).cloned();
        tensor
            .ok_or_else(|| Error::input(name, "expected a tensor that an inference has by then, found none"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// What an inference of one observation is given, by the names of a recording.
fn of_item(model: &Model, batch: &Batch, item: usize) -> Result<ByTap> {
    let config = &model.config;
    let of = |values: &[f32], shape: &[usize]| {
        let count: usize = shape.iter().product();
        let own = values.get(item * count..(item + 1) * count).unwrap_or_default();
        Tensor::floats(&[&[1], shape].concat(), own)
    };
    let integers = |values: &mut dyn Iterator<Item = i64>, shape: &[usize]| {
        Tensor::new(Dtype::I64, shape, values.flat_map(i64::to_le_bytes).collect())
    };
    let ids = &batch.input_ids[item];
    let slot = batch.embodiment_ids[item] as i64;
    let mut tensors = BTreeMap::from([
        ("noise".to_owned(), of(&batch.noise, &[config.action_horizon, config.max_action_dim])?),
        ("action_head.state".to_owned(), of(&batch.state, &config.state_shape(batch.state_horizon))?),
        ("embodiment_id".to_owned(), integers(&mut std::iter::once(slot), &[1])?),
        ("input_ids".to_owned(), integers(&mut ids.iter().map(|id| i64::from(*id)), &[1, ids.len()])?),
    ]);
    if let Some(places) = model.token_places(batch)? {
        let axes = (0..3).flat_map(|axis| places.iter().map(move |place| place[axis] as i64));
        let places = integers(&mut axes.into_iter(), &[3, 1, places.len()])?;
        tensors.insert("position_ids".to_owned(), places);
    }
    for step in 0..batch.denoising_steps {
        let bucket = timestep_bucket(step, batch.denoising_steps, config.num_timestep_buckets) as i64;
        tensors.insert(format!("step.{step}.timestep"), integers(&mut std::iter::once(bucket), &[1])?);
    }
    for (index, image) in batch.images.iter().enumerate() {
        let pixels = of(&image.pixels, &[3, image.height, image.width]);
        // Graphs take one frame, which they repeat; of several none is given, and what asks for it says so.
        if image.frames == 1 {
            tensors.insert(format!("pixel_values.{index}"), pixels?);
        }
    }
    Ok(tensors)
}
