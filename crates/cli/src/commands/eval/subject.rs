//! What is evaluated: policies that run here, a policy that a server has, or what a server answered.

use super::args::EvalArgs;
use crate::engines::{remote, trace};
use anyhow::{Context, Result, ensure};
use std::cell::RefCell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::time::Instant;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::engine::Backend;
use steadyhand_gr00t::policy::Parts;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::{EmbodimentModalities, modalities_of};
use steadyhand_gr00t::session::{Actor, CalibrationUsed, rollout};
use steadyhand_gr00t_lab::diagnosis::PRECISION_NAME;
use steadyhand_serve::{Remote, Replay};

/// What is evaluated.
pub enum Subject {
    /// It runs here.
    Checkpoint(Box<Checkpoint>),
    /// Its policy runs elsewhere.
    Server(Box<Server>),
    /// It was served.
    Recording(Box<Replayed>),
}

pub struct Replayed {
    pub replay: RefCell<Replay>,
    modalities: EmbodimentModalities,
    precision: String,
    embodiment_tag: String,
    opening_seconds: f64,
}

pub struct Server {
    pub remote: RefCell<Remote>,
    pub modalities: EmbodimentModalities,
    pub connecting_seconds: f64,
}

/// What a report says of its subject.
#[derive(Debug, Clone)]
pub struct About {
    /// The checkpoint or the server, as it was named.
    pub subject: String,
    pub engine: String,
    pub precision: String,
    pub embodiment_tag: String,
    /// None where a server chooses them.
    pub denoising_steps: Option<usize>,
    pub calibration: Option<CalibrationUsed>,
    pub model_loading_seconds: f64,
}

impl Subject {
    /// What it observes and does.
    pub fn modalities(&self) -> &EmbodimentModalities {
        match self {
            Subject::Checkpoint(checkpoint) => checkpoint.parts.processor.modalities(),
            Subject::Server(server) => &server.modalities,
            Subject::Recording(recording) => &recording.modalities,
        }
    }
}

pub struct Checkpoint {
    pub parts: Parts,
    /// Fits the model.
    pub precision: PrecisionPolicy,
    pub loading_seconds: f64,
    backend: Rc<dyn Backend>,
}

impl Checkpoint {
    /// A policy for each worker, opened, and what a report says of them.
    ///
    /// # Errors
    /// As [`Parts::policy`]; workers whose engines differ.
    pub fn policies(&self, args: &EvalArgs) -> Result<(Vec<Policy>, About)> {
        let opening = Instant::now();
        let Checkpoint { parts, precision, backend, .. } = self;
        let open = |backend: &dyn Backend| {
            Ok(parts.policy(backend, precision.clone(), args.denoising_steps(), args.seed)?)
        };
        let workers = args.workers_options()?;
        let policies = std::thread::scope(|scope| {
            let others = workers.iter().skip(1);
            let others: Vec<_> = others
                .map(|options| scope.spawn(move || open(args.engine.engine.backend(options)?.as_ref())))
                .collect();
            let first = open(backend.as_ref());
            let others =
                others.into_iter().map(|opened| opened.join().unwrap_or_else(|panic| resume_unwind(panic)));
            [first].into_iter().chain(others).collect::<Result<Vec<_>>>()
        })?;
        let engine = policies[0].engine();
        for (worker, other) in policies.iter().enumerate() {
            let (expected, found) = (engine.name(), other.engine().name());
            ensure!(
                expected == found,
                "--device: expected one engine for all, found {expected} and, of worker {worker}, {found}"
            );
        }
        let about = About {
            subject: parts.name(),
            engine: engine.name().to_owned(),
            precision: engine.precision().name().to_owned(),
            embodiment_tag: policies[0].processor().embodiment_tag().to_owned(),
            denoising_steps: Some(args.denoising_steps()),
            calibration: None,
            model_loading_seconds: self.loading_seconds + opening.elapsed().as_secs_f64(),
        };
        Ok((policies, about))
    }
}

impl Replayed {
    /// What a report says of it.
    pub fn about(&self) -> About {
        About {
            subject: format!("trace:{}", self.replay.borrow().name()),
            engine: "trace".to_owned(),
            precision: self.precision.clone(),
            embodiment_tag: self.embodiment_tag.clone(),
            denoising_steps: None,
            calibration: None,
            model_loading_seconds: self.opening_seconds,
        }
    }
}

impl Server {
    /// What a report says of it.
    pub fn about(&self) -> About {
        About {
            subject: format!("remote:{}", self.remote.borrow().name()),
            engine: "remote".to_owned(),
            precision: "its own".to_owned(),
            embodiment_tag: String::new(),
            denoising_steps: None,
            calibration: None,
            model_loading_seconds: self.connecting_seconds,
        }
    }
}

/// Opens everything that the options name.
///
/// # Errors
/// A checkpoint or a recording that cannot be opened, a server that cannot be reached; a precision or a horizon that does
/// not fit.
pub fn open(args: &EvalArgs) -> Result<Vec<Subject>> {
    match args.engine.engine.name() {
        name if name == remote::KIND.name => Ok(vec![Subject::Server(Box::new(served(args)?))]),
        name if name == trace::KIND.name => Ok(vec![Subject::Recording(Box::new(replayed(args)?))]),
        _ => checkpoints(args),
    }
}

/// Checkpoints, each with what opens its engine.
fn checkpoints(args: &EvalArgs) -> Result<Vec<Subject>> {
    let options = args.workers_options()?;
    let backend: Rc<dyn Backend> = args.engine.engine.backend(&options[0])?.into();
    let wanted = args.engine.precision()?;
    let mut checkpoints = Vec::new();
    for folder in &args.checkpoint {
        let loading = Instant::now();
        let parts = Parts::load(folder, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
        let processor = &parts.processor;
        rollout::check_horizon(processor.modalities(), processor.embodiment_tag(), args.action_horizon)?;
        let precision = parts.precision(wanted.clone())?;
        let loading_seconds = loading.elapsed().as_secs_f64();
        let backend = Rc::clone(&backend);
        checkpoints.push(Subject::Checkpoint(Box::new(Checkpoint {
            parts,
            precision,
            loading_seconds,
            backend,
        })));
    }
    Ok(checkpoints)
}

/// Connects to the server, which must agree with the checkpoint where one is named.
fn served(args: &EvalArgs) -> Result<Server> {
    let connecting = Instant::now();
    let options = args.options()?.server;
    let address = options.address(args.engine.engine.argument())?;
    let checkpoint = args.checkpoint.first();
    let expected =
        checkpoint.map(|folder| modalities_of(folder, args.embodiment_tag.as_deref())).transpose()?;
    let remote = options.connect(address, expected.as_ref())?;
    let modalities = remote.modalities().clone();
    rollout::check_horizon(&modalities, remote.name(), args.action_horizon)?;
    let connecting_seconds = connecting.elapsed().as_secs_f64();
    Ok(Server { remote: RefCell::new(remote), modalities, connecting_seconds })
}

/// Opens what a server recorded of the checkpoint.
fn replayed(args: &EvalArgs) -> Result<Replayed> {
    let opening = Instant::now();
    args.options()?;
    let spec = &args.engine.engine;
    let recording = spec
        .recording()?
        .with_context(|| format!("--engine {spec}: expected what steady serve --record left"))?;
    let tag = args.embodiment_tag.clone().unwrap_or_else(|| recording.embodiment_tag().to_owned());
    let folder =
        args.checkpoint.first().context("--checkpoint: expected that which was served, found none")?;
    let modalities = modalities_of(folder, Some(&tag))?;
    let precision = recording.metadata(PRECISION_NAME).to_owned();
    let replay = Replay::new(recording, modalities.clone())?;
    rollout::check_horizon(&modalities, replay.name(), args.action_horizon)?;
    let opening_seconds = opening.elapsed().as_secs_f64();
    Ok(Replayed { replay: RefCell::new(replay), modalities, precision, embodiment_tag: tag, opening_seconds })
}
