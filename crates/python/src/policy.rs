//! A policy for Python: the same front door, the same reader of observations as the server's.

use crate::layout::Layout;
use crate::value::tree;
use crate::{arrays, config, error};
use anyhow::{Context, Result, ensure};
use numpy::{PyArray1, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use steadyhand_cli::{EngineOptions, EngineSpec, Pace, engine_precision, evaluate_episode};
use steadyhand_gr00t::policy::Group;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::session::Observations;
use steadyhand_gr00t::{ActionChunk, Observation, Session, session};
use steadyhand_lerobot::Dataset;
use steadyhand_serve::{Asked, Noise, Observed, Options, Robot, at_place, of_reset};

/// A policy and the robot that it moves.
#[pyclass(frozen, module = "steadyhand._native")]
pub struct Policy {
    /// Locked for an inference, so that threads take turns.
    running: Mutex<Running>,
    processor: Arc<Processor>,
    noise_shape: [usize; 2],
    engine: String,
    precision: String,
    precision_identity: String,
    fingerprint: Mutex<Option<String>>,
    parts: steadyhand_gr00t::policy::Parts,
    denoising_steps: usize,
    seed: u64,
    /// Set once the policy is Python's.
    layout: Option<Layout>,
    /// Observations that were read before, whose memory the next ones take.
    kept: Mutex<Vec<Observation>>,
}

/// Most observations whose memory is kept.
const MOST_KEPT: usize = 4;

/// A joint group: name, steps, values of a step where the checkpoint tells.
type NamedGroup = (String, usize, Option<usize>);

struct Running {
    policy: steadyhand_gr00t::Policy,
    robot: Robot,
}

/// How a policy is opened.
struct Wanted {
    path: PathBuf,
    engine: String,
    precision: Option<String>,
    session: session::Options,
    engines: EngineOptions,
    denoising_steps: usize,
}

/// What an inference gave.
struct Given {
    chunks: Vec<ActionChunk>,
    noise: Noise,
    rtc: bool,
    /// Of the engine.
    inference: Duration,
}

fn open(wanted: Wanted) -> Result<Policy> {
    let named = |text: String| anyhow::Error::msg(format!("--engine: {text}"));
    let spec = EngineSpec::running(&wanted.engine).map_err(named)?;
    let precision = engine_precision(wanted.precision.as_deref(), &spec)?;
    let seed = wanted.session.seed;
    let session = Session::open(&wanted.path, &wanted.session)?;
    let precision = session.precision(precision)?;
    let backend = spec.backend(&wanted.engines)?;
    let parts = session.parts;
    let policy = parts.policy(backend.as_ref(), precision, wanted.denoising_steps, seed)?;
    Ok(Policy {
        processor: Arc::clone(policy.processor()),
        noise_shape: policy.noise_shape(),
        engine: policy.engine().name().to_owned(),
        precision_identity: policy.engine().precision().identity(),
        precision: policy.engine().precision().name().to_owned(),
        fingerprint: Mutex::default(),
        parts,
        denoising_steps: wanted.denoising_steps,
        seed,
        layout: None,
        kept: Mutex::default(),
        running: Mutex::new(Running { policy, robot: Robot::new(seed) }),
    })
}

fn observe(processor: &Processor, dataset: &Path, episode: usize, step: usize) -> Result<Observation> {
    let dataset = Dataset::open(dataset)?;
    let episode = dataset.episode(episode)?;
    let of = episode.len();
    ensure!(step < of, "step: expected below {of}, the steps of the episode, found {step}");
    let mut observations = Observations::open(processor.modalities(), &episode, vec![step])?;
    Ok(observations.next().context("step: expected an observation, found none")??.1)
}

impl Running {
    /// The inference itself, which needs nothing of Python.
    fn act(
        &mut self,
        observed: &Observed,
        options: &Options,
        own_noise: Option<Vec<steadyhand_gr00t::Matrix>>,
    ) -> steadyhand_serve::Result<Given> {
        let Running { policy, robot } = self;
        let preparation = policy.preparation();
        let Observed { observations, form } = observed;
        let mut asked = robot.prepare(
            &preparation,
            policy.noise_shape(),
            observations,
            options,
            form.batched,
            &mut Vec::new(),
        )?;
        let named = own_noise.is_some();
        for (input, noise) in asked.inputs.iter_mut().zip(own_noise.into_iter().flatten()) {
            input.noise = noise;
        }
        let Asked { inputs, noise, rtc } = asked;
        let started = Instant::now();
        let actions = policy.engine_mut().infer(&inputs, None)?;
        let inference = started.elapsed();
        let members = actions.iter().zip(observations).enumerate();
        let chunks = members.map(|(place, (actions, observation))| {
            let decoded = preparation.processor().decode(actions, observation);
            decoded.map_err(|error| at_place(error, place, form.batched))
        });
        let chunks = chunks.collect::<steadyhand_serve::Result<Vec<_>>>()?;
        robot.given(options, named, chunks.clone());
        Ok(Given { chunks, noise, rtc, inference })
    }
}

fn failed(refused: steadyhand_serve::Error) -> PyErr {
    error(&refused.into())
}

/// What an option of `get_action` is called, and what it is.
type Named<'a, 'py> = (&'static str, Option<&'a Bound<'py, PyAny>>);

impl Policy {
    /// The observations of a request, copied.
    fn read(&self, observation: &Bound<'_, PyAny>) -> PyResult<Observed> {
        if let Some(layout) = &self.layout {
            // Not held while keys are compared, which may run any Python.
            let mut kept = std::mem::take(&mut *self.kept());
            let read = layout.read(observation, &mut kept);
            self.keep(kept);
            if let Some(observed) = read? {
                return Ok(observed);
            }
        }
        let observation = tree(observation)?;
        Observed::read(&observation.value(), self.processor.modalities()).map_err(failed)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Observation>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the memory of observations for those that follow.
    fn keep(&self, observations: Vec<Observation>) {
        let mut kept = self.kept();
        let room = MOST_KEPT.saturating_sub(kept.len());
        kept.extend(observations.into_iter().take(room));
    }

    /// The options of a request.
    fn options(
        &self,
        py: Python<'_>,
        options: Option<&Bound<'_, PyDict>>,
        named: [Named<'_, '_>; 4],
        observed: &Observed,
    ) -> PyResult<Options> {
        if options.is_none() && named.iter().all(|(_, value)| value.is_none()) {
            return Ok(Options::default());
        }
        let all = PyDict::new(py);
        if let Some(options) = options {
            all.update(options.as_mapping())?;
        }
        for (name, value) in named {
            if let Some(value) = value {
                all.set_item(name, value)?;
            }
        }
        let all = tree(all.as_any())?;
        let (modalities, count) = (self.processor.modalities(), observed.observations.len());
        let mut options =
            Options::read(Some(&all.value()), modalities, count, observed.form.batched).map_err(failed)?;
        if options.deadline.take().is_some() {
            options.ignored.push("deadline_ms".to_owned());
        }
        Ok(options)
    }
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (path, *, embodiment_tag, tokenizer, engine, precision, denoising_steps, seed, device, kernel_cache,
        onnxruntime, provider, onnx))]
    #[allow(clippy::too_many_arguments, reason = "the options that `Policy.open` has in Python")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        embodiment_tag: Option<String>,
        tokenizer: Option<PathBuf>,
        engine: String,
        precision: Option<String>,
        denoising_steps: usize,
        seed: u64,
        device: Option<usize>,
        kernel_cache: Option<PathBuf>,
        onnxruntime: Option<PathBuf>,
        provider: Option<String>,
        onnx: Option<PathBuf>,
    ) -> PyResult<Self> {
        let opened = py.detach(|| {
            let provider = provider.map(|name| name.parse()).transpose().context("--provider")?;
            open(Wanted {
                path,
                engine,
                precision,
                session: session::Options { embodiment_tag, tokenizer, seed, ..session::Options::default() },
                engines: EngineOptions {
                    device,
                    kernel_cache,
                    onnxruntime,
                    provider,
                    onnx,
                    ..EngineOptions::default()
                },
                denoising_steps,
            })
        });
        let opened = opened.map_err(|failed| error(&failed))?;
        Ok(Policy { layout: Layout::new(py, opened.processor.modalities()), ..opened })
    }

    /// Actions by joint group and what is said beside them, in the form of the observation. `options` is a dictionary or
    /// `None`; what is named beside it counts.
    #[pyo3(signature = (observation, options, noise, seed, episode, inference, rtc))]
    #[allow(clippy::too_many_arguments, reason = "the options that `Policy.get_action` has in Python")]
    fn get_action<'py>(
        &self,
        py: Python<'py>,
        observation: &Bound<'py, PyAny>,
        options: Option<&Bound<'py, PyDict>>,
        noise: Option<PyReadonlyArrayDyn<'py, f32>>,
        seed: Option<&Bound<'py, PyAny>>,
        episode: Option<&Bound<'py, PyAny>>,
        inference: Option<&Bound<'py, PyAny>>,
        rtc: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        // From here on frames are this call's own: Python may write to the arrays while the engine runs.
        let observed = self.read(observation)?;
        let count = observed.observations.len();
        let form = observed.form;
        let named = [("seed", seed), ("episode", episode), ("inference", inference), ("rtc", rtc)];
        let options = self.options(py, options, named, &observed)?;
        if let (Some(noise), Some(_)) = (&noise, options.noise) {
            let what = format!("noise: expected without options.seed, found {:?} with it", noise.shape());
            return Err(error(&anyhow::Error::msg(what)));
        }
        let own_noise = noise.map(|noise| arrays::noise(&noise, count, self.noise_shape)).transpose()?;
        let named = own_noise.is_some();
        let (given, call) = py.detach(|| {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let called = Instant::now();
            let given = running.act(&observed, &options, own_noise);
            (given, called.elapsed())
        });
        self.keep(observed.observations);
        let Given { chunks, noise, rtc, inference } = given.map_err(failed)?;

        let actions = PyDict::new(py);
        for (place, (name, _)) in chunks.first().map_or(&[][..], |chunk| &chunk.groups).iter().enumerate() {
            let name = match &self.layout {
                Some(layout) => layout.action(py, place, name, form.flat),
                None => PyString::new(py, name),
            };
            actions.set_item(name, arrays::actions(py, &chunks, place, form.batched)?)?;
        }
        let info = PyDict::new(py);
        if !named {
            info.set_item(intern!(py, "seed"), noise.seed)?;
            info.set_item(intern!(py, "episode"), noise.episode)?;
            info.set_item(intern!(py, "inference"), noise.inference)?;
        }
        info.set_item(intern!(py, "batch"), count)?;
        info.set_item(intern!(py, "inference_ms"), inference.as_secs_f64() * 1e3)?;
        info.set_item(intern!(py, "call_ms"), call.as_secs_f64() * 1e3)?;
        info.set_item(intern!(py, "rtc"), rtc)?;
        if !options.ignored.is_empty() {
            info.set_item(intern!(py, "ignored_options"), options.ignored)?;
        }
        Ok((actions, info))
    }

    /// Begins an episode, and gives its number.
    fn reset(&self, py: Python<'_>, options: &Bound<'_, PyAny>) -> PyResult<(u32, Vec<String>)> {
        let options = tree(options)?;
        let (episode, ignored) =
            of_reset(Some(&options.value())).map_err(|refused| error(&refused.into()))?;
        let reset = || self.running.lock().unwrap_or_else(PoisonError::into_inner).robot.reset(episode);
        Ok((py.detach(reset), ignored))
    }

    /// An episode of a dataset as `steady eval` evaluates it: its entry in the report as JSON, and the predicted actions,
    /// float32 in order of steps and columns.
    #[allow(clippy::too_many_arguments, reason = "the options of `steady eval`")]
    fn evaluate_episode<'py>(
        &self,
        py: Python<'py>,
        dataset: PathBuf,
        episode: usize,
        seed: u64,
        steps: usize,
        action_horizon: usize,
        skip_timing_steps: usize,
    ) -> PyResult<(String, Bound<'py, PyArray1<f32>>)> {
        let pace = Pace { steps, action_horizon, skip_timing_steps };
        let evaluated = py.detach(|| {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            evaluate_episode(&mut running.policy, &dataset, episode, seed, pace)
        });
        let (report, predicted) = evaluated.map_err(|failed| error(&failed))?;
        Ok((report, PyArray1::from_vec(py, predicted)))
    }

    /// What a dataset has at a step of an episode: frames uint8 `[T, H, W, 3]` by view, state float32 `[T, D]` by joint
    /// group, and the instruction.
    fn observation<'py>(
        &self,
        py: Python<'py>,
        dataset: PathBuf,
        episode: usize,
        step: usize,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>, String)> {
        let read = py.detach(|| observe(&self.processor, &dataset, episode, step));
        let observation = read.map_err(|failed| error(&failed))?;
        let (video, state) = (PyDict::new(py), PyDict::new(py));
        for (view, frames) in &observation.images {
            video.set_item(view, arrays::frames(py, frames)?)?;
        }
        for (group, rows) in &observation.state {
            state.set_item(group, arrays::matrix(py, rows)?)?;
        }
        Ok((video, state, observation.instruction))
    }

    fn modality_config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        config::modalities(py, self.processor.modalities())
    }

    /// Joint groups of the state and of the actions: name, steps, values of a step.
    fn groups(&self, py: Python<'_>) -> (Vec<NamedGroup>, Vec<NamedGroup>) {
        let described =
            py.detach(|| self.running.lock().unwrap_or_else(PoisonError::into_inner).policy.describe());
        let of = |groups: Vec<Group>| {
            groups.into_iter().map(|group| (group.name, group.delta_indices.len(), group.dim)).collect()
        };
        (of(described.state), of(described.actions))
    }

    #[getter]
    fn embodiment_tag(&self) -> &str {
        self.processor.embodiment_tag()
    }

    #[getter]
    fn engine(&self) -> &str {
        &self.engine
    }

    #[getter]
    fn precision(&self) -> &str {
        &self.precision
    }

    /// What tells its number formats from others, site by site.
    #[getter]
    fn precision_identity(&self) -> &str {
        &self.precision_identity
    }

    #[getter]
    fn noise_shape(&self) -> (usize, usize) {
        let [rows, cols] = self.noise_shape;
        (rows, cols)
    }

    #[getter]
    fn denoising_steps(&self) -> usize {
        self.denoising_steps
    }

    #[getter]
    fn seed(&self) -> u64 {
        self.seed
    }

    /// What tells the weights from others. The first call reads them all.
    fn fingerprint(&self, py: Python<'_>) -> String {
        py.detach(|| {
            let mut known = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
            known.get_or_insert_with(|| self.parts.fingerprint()).clone()
        })
    }
}
