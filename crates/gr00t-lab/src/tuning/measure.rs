//! Measurements: taken over where the state has them, made and recorded where it has not.

use super::error::{ActionError, Spread};
use super::ranges::{CalibrationSubject, Ranges, Scanner};
use super::state::{Header, Record, State};
use super::target::{BASELINE, Target};
use super::{Event, REFERENCE};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput, by_layout};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::{ActionChunk, Matrix, Observation};
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::Processor;
use steadyhand_gr00t::{Error, Result};

/// Frames that the reference takes as one batch: it reads the weights once for all of them.
const SCANNED_AT_ONCE: usize = 8;

/// What is tuned, and what it is measured on.
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its processor.
    pub processor: &'a Processor,
    /// One a frame.
    pub observations: Vec<Observation>,
    /// The same as model input, with the noise that all engines start from.
    pub inputs: Vec<ModelInput>,
    /// What errors are measured in; the spread of the f32 actions otherwise.
    pub spread: Option<Spread>,
    /// The weights' fingerprint.
    pub checkpoint: String,
    /// The dataset's hash, or what stands for one.
    pub dataset: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Euler steps.
    pub denoising_steps: usize,
}

impl Subject<'_> {
    /// What measurements of this on a target are of.
    pub fn header(&self, target: &dyn Target) -> Header {
        Header {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint: self.checkpoint.clone(),
            dataset: self.dataset.clone(),
            embodiment_tag: self.processor.embodiment_tag().to_owned(),
            target: target.name().to_owned(),
            device: target.device(),
            seed: self.seed,
            frames: self.inputs.len(),
            denoising_steps: self.denoising_steps,
        }
    }

    pub(super) fn calibration_subject(&self) -> CalibrationSubject {
        CalibrationSubject {
            checkpoint: self.checkpoint.clone(),
            embodiment_tag: self.processor.embodiment_tag().to_owned(),
            dataset: self.dataset.clone(),
            frames: self.inputs.len(),
            denoising_steps: self.denoising_steps,
        }
    }

    /// Physical actions of normalized ones; none where one is not finite.
    fn decode(&self, normalized: &[Matrix]) -> Result<Option<Vec<ActionChunk>>> {
        if normalized.iter().any(|matrix| matrix.data.iter().any(|value| !value.is_finite())) {
            return Ok(None);
        }
        let pairs = normalized.iter().zip(&self.observations);
        pairs
            .map(|(actions, observation)| self.processor.decode(actions, observation))
            .collect::<Result<_>>()
            .map(Some)
    }
}

/// When to stop measuring.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Option<Duration>,
    /// What had passed when shares began to count.
    spent: Duration,
}

impl Deadline {
    /// From now on; never without a limit.
    pub fn after(limit: Option<Duration>) -> Self {
        Deadline { start: Instant::now(), limit, spent: Duration::ZERO }
    }

    /// Lets shares count from now on: what came before is never left out, however long it takes.
    pub(super) fn share_what_is_left(&mut self) {
        self.spent = self.limit.map_or(Duration::ZERO, |limit| self.start.elapsed().min(limit));
    }

    /// Whether this share of the time that is shared has passed.
    pub fn passed(&self, share: f64) -> bool {
        let passes = |limit: Duration| self.spent + (limit - self.spent).mul_f64(share);
        self.limit.is_some_and(|limit| self.start.elapsed() >= passes(limit))
    }
}

/// Measures policies on a target.
pub(super) struct Measurer<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) target: &'a mut dyn Target,
    pub(super) state: State,
    pub(super) deadline: Deadline,
    progress: &'a mut dyn FnMut(Event),
    /// Policies that the target does not run, by name, and why.
    pub(super) refused: BTreeMap<String, String>,
    /// The error of the budget's preset, once it is measured.
    pub(super) allowance: Option<ActionError>,
    /// The actions of f32 on the target, and what one error is.
    reference: Option<(Vec<ActionChunk>, Spread)>,
}

impl<'a> Measurer<'a> {
    pub(super) fn new(
        subject: &'a Subject<'a>,
        target: &'a mut dyn Target,
        state: State,
        deadline: Deadline,
        progress: &'a mut dyn FnMut(Event),
    ) -> Self {
        let (refused, allowance, reference) = (BTreeMap::new(), None, None);
        Measurer { subject, target, state, deadline, progress, refused, allowance, reference }
    }

    /// Begins a part of the work.
    pub(super) fn phase(&mut self, name: &'static str, total: usize) {
        (self.progress)(Event::Phase { name, total });
    }

    /// Ends a step of it.
    pub(super) fn done(&mut self) {
        (self.progress)(Event::Done);
    }

    /// An error as a multiple of that of the budget's preset.
    pub(super) fn level(&self, error: &ActionError) -> f64 {
        self.allowance.as_ref().map_or(f64::INFINITY, |allowance| error.relative_to(allowance))
    }

    /// Whether a policy fits the model and the target; what does not is noted.
    pub(super) fn runs(&mut self, policy: &PrecisionPolicy, sites: &[ModelSite]) -> bool {
        let checked = policy.check(sites).and_then(|()| self.target.check(policy));
        let why = checked.err().map(|error| error.to_string());
        let runs = why.is_none();
        self.refused.extend(why.map(|why| (policy.name().to_owned(), why)));
        runs
    }

    /// Whether the target refused to open a policy before.
    fn was_refused(&mut self, policy: &PrecisionPolicy) -> bool {
        let why = self.state.refused(&policy.identity()).map(str::to_owned);
        let refused = why.is_some();
        self.refused.extend(why.map(|why| (policy.name().to_owned(), why)));
        refused
    }

    /// The range scan: the f32 reference on every frame.
    ///
    /// # Errors
    /// The reference fails or gives values that are not finite; the state cannot be written.
    pub(super) fn ranges(&mut self) -> Result<Ranges> {
        self.phase("range scan", self.subject.inputs.len());
        if let Some(ranges) = self.state.ranges() {
            return Ok(ranges.clone());
        }
        let (model, steps) = (self.subject.model.clone(), self.subject.denoising_steps);
        let scanner = Scanner::default();
        let mut engine =
            CpuEngine::new(model, PrecisionPolicy::preset(REFERENCE)?, steps).with_intervention(&scanner);
        let inputs = &self.subject.inputs;
        for layout in by_layout(inputs) {
            for frames in layout.chunks(SCANNED_AT_ONCE) {
                scanner.begin(frames.len());
                engine.infer(&frames.iter().map(|frame| inputs[*frame].clone()).collect::<Vec<_>>(), None)?;
                frames.iter().for_each(|_| (self.progress)(Event::Done));
            }
        }
        let ranges = scanner.finish(self.subject.inputs.len())?;
        self.state.add(Record::Ranges(ranges.clone()))?;
        Ok(ranges)
    }

    /// A policy's error; none where the target refuses it.
    ///
    /// # Errors
    /// The reference or the baseline fails; the state cannot be written.
    pub(super) fn error(&mut self, policy: &PrecisionPolicy) -> Result<Option<ActionError>> {
        let identity = policy.identity();
        if let Some(error) = self.state.error(&identity) {
            return Ok(Some(error.clone()));
        }
        if self.was_refused(policy) {
            return Ok(None);
        }
        self.reference()?;
        let found = self.target.actions(policy, &self.subject.inputs);
        let Some(actions) = self.or_refused(policy, found)? else { return Ok(None) };
        let decoded = self.subject.decode(&actions)?;
        let (expected, spread) = self.reference()?;
        let error = match decoded {
            Some(found) => ActionError::between(&found, expected, spread)?,
            None => ActionError::infinite(spread),
        };
        self.state.add(Record::Error { policy: identity, error: error.clone() })?;
        Ok(Some(error))
    }

    /// What an inference costs under a policy, and the noise of its difference from the baseline; none where the
    /// target refuses the policy.
    ///
    /// # Errors
    /// As [`Measurer::error`].
    pub(super) fn cost(
        &mut self,
        policy: &PrecisionPolicy,
        ranges: &Ranges,
        lasting: bool,
    ) -> Result<Option<(f64, f64)>> {
        let baseline = PrecisionPolicy::preset(BASELINE)?;
        let Some((of_baseline, _)) = self.raw_cost(&baseline, ranges, lasting)? else { return Ok(None) };
        if policy.identity() == baseline.identity() {
            return Ok(Some((of_baseline, 0.0)));
        }
        let Some((difference, noise)) =
            self.raw_cost(policy, ranges, lasting)?.map(|(value, cost)| (value - cost.baseline, cost.noise))
        else {
            return Ok(None);
        };
        // Differences are what turns measure well; the baseline is measured once for all of them.
        Ok(Some((of_baseline + difference, noise)))
    }

    fn raw_cost(
        &mut self,
        policy: &PrecisionPolicy,
        ranges: &Ranges,
        lasting: bool,
    ) -> Result<Option<(f64, super::target::Cost)>> {
        let identity = policy.identity();
        if let Some(cost) = self.state.cost(&identity, lasting) {
            return Ok(Some((cost.value, cost)));
        }
        if self.was_refused(policy) {
            return Ok(None);
        }
        let found = self.target.cost(policy, &self.subject.inputs, ranges, lasting);
        let Some(cost) = self.or_refused(policy, found)? else { return Ok(None) };
        self.state.add(Record::Cost { policy: identity, lasting, cost })?;
        Ok(Some((cost.value, cost)))
    }

    /// What a target gave; a policy that it refuses is noted. The reference and the baseline must run.
    fn or_refused<T>(&mut self, policy: &PrecisionPolicy, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if [REFERENCE, BASELINE].contains(&policy.identity().as_str()) => Err(error),
            Err(error) => {
                let why = error.to_string();
                self.refused.insert(policy.name().to_owned(), why.clone());
                self.state.add(Record::Refused { policy: policy.identity(), why })?;
                Ok(None)
            }
        }
    }

    /// The actions of f32 on the target, and what one error is.
    fn reference(&mut self) -> Result<&(Vec<ActionChunk>, Spread)> {
        let reference = match self.reference.take() {
            Some(known) => known,
            None => self.find_reference()?,
        };
        Ok(self.reference.insert(reference))
    }

    fn find_reference(&mut self) -> Result<(Vec<ActionChunk>, Spread)> {
        let actions = self.target.actions(&PrecisionPolicy::preset(REFERENCE)?, &self.subject.inputs)?;
        let chunks = self.subject.decode(&actions)?.ok_or_else(|| {
            Error::input("action", format!("expected finite actions of {REFERENCE}, found others"))
        })?;
        let spread = self.subject.spread.clone().unwrap_or_else(|| spread_of(&chunks));
        Ok((chunks, spread))
    }

    /// What one error is.
    ///
    /// # Errors
    /// The reference fails.
    pub(super) fn spread(&mut self) -> Result<Spread> {
        match &self.subject.spread {
            Some(spread) => Ok(spread.clone()),
            None => Ok(self.reference()?.1.clone()),
        }
    }
}

/// The spread of actions over all frames and positions.
fn spread_of(chunks: &[ActionChunk]) -> Spread {
    let first = chunks.first().map_or(&[][..], |chunk| &chunk.groups);
    let joined = |index: usize| -> Vec<f32> {
        chunks.iter().filter_map(|chunk| chunk.groups.get(index)).flat_map(|(_, m)| m.data.clone()).collect()
    };
    let values: Vec<(&str, Vec<f32>, usize)> =
        first.iter().enumerate().map(|(index, (name, m))| (name.as_str(), joined(index), m.cols)).collect();
    Spread::of(
        "standard deviation of the f32 actions",
        values.iter().map(|(name, values, cols)| (*name, &values[..], *cols)),
    )
}
