//! What both engines are shown, and the engine under examination.

use crate::engines::{Asked, EngineSpec, Examined, Options};
use crate::options::ObservationArgs;
use anyhow::{Result, bail};
use std::rc::Rc;
use std::sync::Arc;
use steadyhand_gr00t::Observation;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::Precision;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::session;
use steadyhand_gr00t_lab::diagnosis::{Setup, Subject};

/// A model, a processor, and observations in both their terms.
pub struct Scene {
    opened: session::Scene,
    /// The checkpoint as it was named.
    pub checkpoint: String,
    /// The dataset's folder, or what was observed instead.
    pub dataset: String,
    pub model: Model,
    pub processor: Arc<Processor>,
    pub denoising_steps: usize,
    pub episode: usize,
    /// Steps of the episode that were observed.
    pub steps: Vec<usize>,
    pub observations: Vec<Observation>,
    pub inputs: Vec<ModelInput>,
    /// Recorded actions of the whole episode, one row a step; empty where nothing was recorded.
    pub recorded: Vec<Vec<f32>>,
    /// Joint names of the recorded actions.
    pub names: Vec<String>,
    /// Of the noise; none where it was recorded.
    seed: Option<u64>,
}

/// An engine, opened.
pub struct Opened(Examined);

impl Opened {
    /// The engine as a diagnosis takes it.
    pub fn subject(&mut self) -> Subject<'_> {
        match &mut self.0 {
            Examined::Running(engine) => match engine.shows_tensors() {
                true => Subject::Live(engine.as_mut()),
                false => Subject::Closed(engine.as_mut()),
            },
            Examined::Trace(trace) => Subject::Trace(Rc::clone(trace)),
            Examined::Actions(actions) => Subject::Actions(actions.clone()),
            Examined::Physical(chunks) => Subject::Physical(chunks.clone()),
        }
    }
}

impl Scene {
    /// Loads everything that these engines are shown: what clients sent, where one of them is a server's recording, else
    /// observations of an episode, with the noise that one of them came with.
    ///
    /// # Errors
    /// A file does not fit: named with the field. Two recordings.
    pub fn load(args: &ObservationArgs, engines: &[&EngineSpec]) -> Result<Self> {
        let mut recordings = Vec::new();
        for engine in engines {
            recordings.extend(engine.recording()?);
        }
        let (seed, opened) = match &recordings[..] {
            [] => {
                let noise = engines.iter().find_map(|engine| engine.noise());
                let seed = (args.noise.is_none() && noise.is_none()).then(|| args.seed());
                (seed, args.scene(noise)?)
            }
            [recording] => (None, args.scene_of(recording)?),
            [one, other, ..] => bail!(
                "{}: expected one recording of a server, found {} too, of other observations",
                one.path().display(),
                other.path().display()
            ),
        };
        let parts = &opened.session.parts;
        Ok(Scene {
            checkpoint: parts.name(),
            dataset: opened.session.observed(),
            model: parts.model.clone(),
            processor: Arc::clone(&parts.processor),
            denoising_steps: usize::from(args.denoising_steps),
            episode: opened.episode,
            steps: opened.steps.clone(),
            observations: opened.observations.clone(),
            inputs: opened.inputs.clone(),
            recorded: opened.recorded.clone(),
            names: opened.names.clone(),
            seed,
            opened,
        })
    }

    /// Number formats, by name or as a value.
    ///
    /// # Errors
    /// As [`steadyhand_gr00t::Session::precision`].
    pub fn policy(&self, wanted: impl Into<Precision>) -> Result<PrecisionPolicy> {
        Ok(self.opened.session.precision(wanted)?)
    }

    /// Opens an engine to examine. `precision` is what it says it runs at; of `options` it takes those of its kind.
    ///
    /// # Errors
    /// As [`EngineSpec::examine`].
    pub fn engine(
        &self,
        spec: &EngineSpec,
        precision: &PrecisionPolicy,
        options: &Options,
    ) -> Result<Opened> {
        let (scene, seed, denoising_steps) = (&self.opened, self.seed, self.denoising_steps);
        Ok(Opened(spec.examine(&Asked { scene, seed, denoising_steps, precision, options })?))
    }

    /// What a diagnosis shows both engines.
    pub fn setup(&self) -> Setup<'_> {
        Setup {
            model: &self.model,
            processor: &self.processor,
            denoising_steps: self.denoising_steps,
            observations: &self.observations,
            inputs: &self.inputs,
            steps: &self.steps,
            recorded: &self.recorded,
            names: &self.names,
            physical: false,
        }
    }
}
