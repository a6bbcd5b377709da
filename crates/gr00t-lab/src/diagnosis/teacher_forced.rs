//! Local errors: what each operation of an engine adds to the error it was handed.

use super::Observed;
use super::reuse::{Plan, Reuse, Visit};
use crate::fault::{Change, Effect, Fault, Injection, Otherwise, Reach, Results};
use std::cell::RefCell;
use std::collections::BTreeMap;
use steadyhand_fidelity::{Format, relative_l2};
use steadyhand_gr00t::Result;
use steadyhand_gr00t::engine::{ModelInput, infer_by_layout};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::cpu::Intervention;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor};
use steadyhand_gr00t::ops::{Activation, Mask, Site};
use steadyhand_gr00t::precision::{Formats, PrecisionPolicy};
use steadyhand_gr00t::probe::{Probe, Recorder};

/// An operation's error when it is given the engine's own inputs.
#[derive(Debug, Clone)]
pub struct LocalError {
    /// The tap's name, with its Euler step.
    pub name: String,
    /// The site's path, without the step.
    pub path: String,
    /// Relative L2 between the engine's result and the reference's on the same inputs. Infinite where they
    /// differ in shape or in which values are finite.
    pub error: f64,
    /// What a healthy engine of this precision may show here.
    pub expected: f64,
    /// The engine's largest absolute value, relative to the reference's.
    pub peak: f64,
    /// Whether no value was compared, as none is finite in both: the error then says nothing of what was computed.
    pub blank: bool,
    /// Paths of the operations between the tensors shown before and this one whose results the engine does not show:
    /// the error may be any of theirs.
    pub unshown: Vec<String>,
}

impl LocalError {
    /// Whether rounding cannot explain the error.
    pub fn is_fault(&self) -> bool {
        self.error > self.expected
    }
}

/// Sums in f32 in another order differ by up to this, relative to the result. Measured between the official
/// f32 code and the reference over the taps of the goldens, up to a whole layer each: 5.0e-7; times 2.
const F32_LOCAL: f64 = 1e-6;

/// The same for several operations whose results in between are not shown, up to a whole stage. Measured between the
/// official f32 code and the reference over the taps of the goldens, everything before them included: 1.1e-6; times 6.
const F32_STAGE: f64 = 6.6e-6;

/// A healthy engine may round once more or once less than the reference within an operation, which moves
/// results by up to half a unit in the last place: its relative L2 stays below the unit roundoff. Times 1.25.
const ROUNDING_MARGIN: f64 = 1.25;

/// Attention that walks over its keys rounds a row's exponentials against the largest score so far, the reference
/// against the largest of all: both are right. Where the exponentials are narrower than the result, what that moves is
/// a share of their unit roundoff, as the errors of a row's many exponentials average out. Measured on the demo with
/// the CUDA engine's `mixed`: 0.055; times 4.
const RUNNING_MAXIMUM: f64 = 0.22;

/// Tensor cores sum products of 8-bit operands with fewer bits than f32 has, which no policy can ask them for. Measured
/// on the demo with the CUDA engine's `fp8` on an H200, worst over its layers: 5.7e-4; times 2.
const FP8_SUMS: f64 = 1.2e-3;

/// What a run with the engine's tensors gives.
#[derive(Debug, Clone)]
pub struct Localization {
    /// The local error of every tap that the engine gave, in the order of execution.
    pub errors: Vec<LocalError>,
    /// The normalized actions at the end.
    pub actions: Matrix,
    /// The errors among them of tensors that are only handed on, see [`steadyhand_gr00t::topology::Topology::copies`].
    pub(super) copies: Vec<LocalError>,
    /// What was done at each site, by tap name: what replays start from.
    pub(super) visits: BTreeMap<String, Visit>,
}

/// Whose inputs the engine's tensors were computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// Its own: the tensors are those of one run, and take the place of the reference's as it goes.
    Own,
    /// The reference's own run: each stage was run by itself on recorded inputs, so nothing is handed on.
    Recorded,
}

/// One inference of an engine under examination.
#[derive(Clone, Copy)]
pub struct Examination<'a> {
    /// The model that the engine should compute.
    pub model: &'a Model,
    /// What the engine says it runs at.
    pub policy: &'a PrecisionPolicy,
    /// Euler steps.
    pub denoising_steps: usize,
    /// What the engine should have been given.
    pub input: &'a ModelInput,
    /// What it gave.
    pub observed: &'a dyn Observed,
    /// What its tensors were computed from.
    pub inputs: Inputs,
    /// What a healthy engine may show at a tap, where it is not one operation's rounding: a stage that ran by
    /// itself shows the rounding of all its operations.
    pub expected: &'a BTreeMap<String, f64>,
    /// Other ways in which the images may have been made, [`Setup::images_made_otherwise`](super::Setup::images_made_otherwise).
    pub made_otherwise: &'a [Fault],
}

impl Examination<'_> {
    /// Runs the reference on the engine's tensors.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn localize(&self) -> Result<Localization> {
        let boundaries = match self.inputs {
            Inputs::Own => Results::new(),
            Inputs::Recorded => self.boundaries()?,
        };
        let run = TeacherForced { boundaries, ..TeacherForced::new(self) };
        let actions = run.run(self.model, self.policy, self.input.clone())?;
        let (errors, copies) = (run.errors.into_inner(), run.copies.into_inner());
        Ok(Localization { errors, actions, copies, visits: run.visits.into_inner() })
    }

    /// The local errors of a run in which the reference makes `fault` too, together with what buffers hold from the
    /// inference before. `base`: the run without it.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub(super) fn replay(
        &self,
        base: &Localization,
        fault: &Fault,
        previous: &Results,
    ) -> Result<Vec<LocalError>> {
        let (boundaries, plan) = match self.inputs {
            Inputs::Own => {
                (Results::new(), Some(Plan::new(&self.model.topology, &base.visits, |at| fault.touches(at))))
            }
            // What a stage made is not handed on here, so nothing of the engine's can be started from.
            Inputs::Recorded => (self.boundaries()?, None),
        };
        let mut errors = self.run_with(fault, previous, boundaries, plan)?;
        // Those that the fault does not reach are as they were.
        errors.extend(base.copies.iter().filter(|copy| !fault.reaches_copy(&copy.path)).cloned());
        Ok(errors)
    }

    /// A run that only computes the tensor of `first` and what of the tensors that lead to it is not shown; none where stages
    /// ran by themselves, or where no operation makes it.
    pub(super) fn plan_at<'b>(&'b self, base: &'b Localization, first: &LocalError) -> Option<Plan<'b>> {
        let own = self.inputs == Inputs::Own;
        Plan::of_one(&self.model.topology, &base.visits, &first.name).filter(|_| own)
    }

    /// Whether `fault` touches the operation of `first` and none of the others that such a run computes.
    pub(super) fn is_alone(&self, base: &Localization, first: &LocalError, fault: &Fault) -> bool {
        let plan = self.plan_at(base, first);
        let touched = |plan: Plan| plan.computes(|at| fault.touches(at)) == 1;
        fault.touches(&Site::of_tap(&first.name)) && plan.is_some_and(touched)
    }

    /// The error that a run with `fault` in it leaves of the tensor of `first`, which is all that is computed; none where
    /// that says nothing: it has to be replayed.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub(super) fn replay_at(
        &self,
        base: &Localization,
        first: &LocalError,
        fault: &Fault,
        previous: &Results,
    ) -> Result<Option<f64>> {
        let Some(plan) = self.plan_at(base, first) else { return Ok(None) };
        if plan.computes(|at| fault.touches(at)) == 0 {
            return Ok(Some(first.error));
        }
        // An operation that is the only one to be computed otherwise need not be so anywhere else.
        let operation = matches!(fault.effect, Effect::Operation(change) if change != Change::PostNorm);
        let fault = match operation && self.is_alone(base, first, fault) {
            true => &Fault { place: first.path.clone(), reach: Reach::Place, ..fault.clone() },
            false => fault,
        };
        let errors = self.run_with(fault, previous, Results::new(), Some(plan))?;
        Ok(errors.iter().rev().find(|error| error.name == first.name).map(|error| error.error))
    }

    /// A run in which the reference makes `fault` too.
    fn run_with(
        &self,
        fault: &Fault,
        previous: &Results,
        boundaries: Results,
        plan: Option<Plan>,
    ) -> Result<Vec<LocalError>> {
        let injection = Some(Injection::new(fault, previous));
        let (mut model, mut policy) = (self.model.clone(), self.policy.clone());
        fault.damage_model(&mut model, &mut policy);
        let mut input = [self.input.clone()];
        fault.damage_inputs(&mut input);
        let run = TeacherForced { boundaries, injection, plan, ..TeacherForced::new(self) };
        let [input] = input;
        run.run(&model, &policy, input)?;
        Ok(run.errors.into_inner())
    }

    /// What the engine should have given at `path`, by tap name: the reference's results on the engine's own
    /// inputs to it. A buffer that is not written in the next inference still holds them. `base`: an earlier run of the
    /// same examination, if there was one.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn results_at(&self, path: &str, base: Option<&Localization>) -> Result<Results> {
        self.results_where(self.policy, &|at| at.path() == path, base)
    }

    /// What the reference at `policy` computes at the `wanted` sites on the engine's own inputs to them.
    pub(super) fn results_where(
        &self,
        policy: &PrecisionPolicy,
        wanted: &dyn Fn(&Site) -> bool,
        base: Option<&Localization>,
    ) -> Result<Results> {
        let kept = Some((wanted, RefCell::default()));
        let base = base.filter(|_| self.inputs == Inputs::Own);
        let plan = base.map(|base| Plan::new(&self.model.topology, &base.visits, wanted));
        let run = TeacherForced { kept, plan, ..TeacherForced::new(self) };
        run.run(self.model, policy, self.input.clone())?;
        Ok(run.kept.map(|(_, results)| results.into_inner()).unwrap_or_default())
    }
}

impl Examination<'_> {
    /// What the reference hands from stage to stage, by tap name.
    fn boundaries(&self) -> Result<Results> {
        let in_steps = |path: &str| {
            (0..self.denoising_steps).map(move |step| format!("step.{step}.{path}")).collect::<Vec<_>>()
        };
        let outputs: Vec<&str> = self.model.topology.cut_outputs().collect();
        let once = outputs.iter().map(|path| (*path).to_owned());
        let mut taps = Recorder::only(once.chain(outputs.iter().flat_map(|path| in_steps(path))));
        let input = std::slice::from_ref(self.input);
        infer_by_layout(self.model, input, self.denoising_steps, Some(&mut taps), &mut |batch, probe| {
            self.model.infer(&Cpu::new(self.policy, probe), batch)
        })?;
        Ok(taps.tensors.into_iter().map(|(name, (_, values))| (name, values)).collect())
    }
}

/// Chooses sites.
type Wanted<'a> = &'a dyn Fn(&Site) -> bool;

/// Puts the engine's tensors in the place of the reference's, after comparing the two.
struct TeacherForced<'a> {
    examination: &'a Examination<'a>,
    injection: Option<Injection<'a>>,
    errors: RefCell<Vec<LocalError>>,
    /// The sites whose results are kept, and those results.
    kept: Option<(Wanted<'a>, RefCell<Results>)>,
    copies: RefCell<Vec<LocalError>>,
    /// Paths of the operations so far that the engine did not show, since the last one that it did.
    unshown: RefCell<Vec<String>>,
    /// What stages that run by themselves are given instead of what the stage before them made.
    boundaries: Results,
    /// What need not be computed.
    plan: Option<Plan<'a>>,
    visits: RefCell<BTreeMap<String, Visit>>,
}

impl<'a> TeacherForced<'a> {
    fn new(examination: &'a Examination<'a>) -> Self {
        TeacherForced {
            examination,
            injection: None,
            errors: RefCell::default(),
            kept: None,
            copies: RefCell::default(),
            unshown: RefCell::default(),
            boundaries: Results::new(),
            plan: None,
            visits: RefCell::default(),
        }
    }

    fn run(&self, model: &Model, policy: &PrecisionPolicy, input: ModelInput) -> Result<Matrix> {
        let steps = self.examination.denoising_steps;
        let mut copies = Copies(self);
        let probe: Option<&mut dyn Probe> = Some(&mut copies);
        let actions = infer_by_layout(model, &[input], steps, probe, &mut |batch, probe| {
            let cpu = Cpu::new(policy, probe).with_intervention(self);
            let fault = self.injection.as_ref().and_then(Injection::fault);
            model.infer(&Otherwise::new(cpu, policy, fault, model), batch)
        })?;
        Ok(actions.into_iter().next().unwrap_or_default())
    }

    /// Where a result that need not be computed comes from; notes its error, which is that of the run before.
    fn reuse(&self, at: &Site, name: &str) -> Option<(Reuse, &Visit)> {
        let (reuse, visit) = self.plan.as_ref()?.reuse(at, name)?;
        self.errors.borrow_mut().extend(visit.error.clone());
        Some((reuse, visit))
    }
}

impl Intervention for TeacherForced<'_> {
    fn known(&self, at: &Site) -> Option<Tensor> {
        let name = at.to_string();
        let (reuse, visit) = self.reuse(at, &name)?;
        let values = match reuse {
            Reuse::Engines => self.examination.observed.read(&name).map(|(_, values)| values)?,
            Reuse::Unread => vec![0.0; visit.shape.iter().product()],
        };
        Tensor::from_values(visit.shape, values)
    }

    fn result(&self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        let name = at.to_string();
        if let Some((reuse, _)) = self.reuse(at, &name) {
            let found = (reuse == Reuse::Engines).then(|| self.examination.observed.read(&name)).flatten();
            if let Some((_, found)) = found.filter(|(_, found)| found.len() == values.len()) {
                values.copy_from_slice(&found);
            }
            return;
        }
        if let Some(injection) = &self.injection {
            injection.result(at, shape, values);
        }
        if let Some((_, results)) = self.kept.as_ref().filter(|(wanted, _)| wanted(at)) {
            results.borrow_mut().insert(name.clone(), values.to_vec());
        }
        let found = self.examination.observed.read(&name);
        let (error, taken) = match &found {
            Some((_, found)) => {
                let mut error = self.compare(at, name.clone(), found, values);
                let taken = self.examination.inputs == Inputs::Own && found.len() == values.len();
                error.unshown = self.unshown.take();
                error.unshown.extend(self.unseen_feed(at));
                if taken {
                    values.copy_from_slice(found);
                }
                self.errors.borrow_mut().push(error.clone());
                (Some(error), taken)
            }
            None => {
                self.unshown.borrow_mut().push(at.path().to_owned());
                (None, false)
            }
        };
        if let Some(right) = self.boundaries.get(&name).filter(|right| right.len() == values.len()) {
            values.copy_from_slice(right);
        }
        self.visits.borrow_mut().insert(name, Visit { site: at.clone(), shape, error, taken });
    }

    fn eps(&self, at: &Site, eps: f64) -> f64 {
        self.injection.as_ref().map_or(eps, |injection| injection.eps(at, eps))
    }

    fn activation(&self, at: &Site, kind: Activation) -> Activation {
        self.injection.as_ref().map_or(kind, |injection| injection.activation(at, kind))
    }

    fn mask(&self, at: &Site, mask: &Mask) -> Mask {
        self.injection.as_ref().map_or_else(|| mask.clone(), |injection| injection.mask(at, mask))
    }

    fn time(&self, at: &Site, bucket: usize) -> usize {
        self.injection.as_ref().map_or(bucket, |injection| injection.time(at, bucket))
    }

    fn angles(&self, at: &Site) -> Format {
        self.injection.as_ref().map_or(Format::F32, |injection| injection.angles(at))
    }

    fn embodiment(&self, at: &Site, slot: usize) -> usize {
        self.injection.as_ref().map_or(slot, |injection| injection.embodiment(at, slot))
    }
}

impl TeacherForced<'_> {
    /// What leads to an operation, is no operation's result, and was not shown: inputs of the model, and tokens that
    /// are moved without being computed.
    fn unseen_feed(&self, at: &Site) -> Option<String> {
        let shown = |name: String| self.examination.observed.read(&name).is_some();
        let feed = match at.path() {
            "language.embedding" if !shown("input_ids".to_owned()) => "input_ids",
            "dit.timestep_projection" | "action_encoder.time" => {
                let step = at.step().unwrap_or_default();
                (!shown(format!("step.{step}.timestep"))).then_some("timestep")?
            }
            "language.layer.0.norm1" | "language.layer.0.residual1" => "image_tokens",
            "dit.block.0.norm1" | "dit.block.0.residual1" => {
                let step = at.step().unwrap_or_default();
                (!shown(format!("step.{step}.dit.tokens"))).then_some("concat_tokens")?
            }
            "connector.norm" => "pixel_unshuffle",
            "vision.merger.fc1" => "join_tokens",
            path if path.starts_with("vision.deepstack.") && path.ends_with(".norm") => "join_tokens",
            "euler" => "last_tokens",
            _ => return None,
        };
        Some(feed.to_owned())
    }

    /// Whether a part that the engine does not show the inside of was handed values that its format does not hold: what it
    /// makes of them says nothing. Such values come from a fault before it.
    fn is_beyond_range(&self, at: &Site, storage: Format) -> bool {
        let hidden = self.unshown.borrow().iter().any(|path| path.starts_with("dit.block."));
        let (true, Some(step)) = (hidden && at.is_within("dit"), at.step()) else { return false };
        let handed = ["dit.tokens", "action_tokens", "action_features"];
        let mut handed = handed.iter().map(|path| Site::in_step(path, step).to_string());
        let tokens = handed.find_map(|name| self.examination.observed.read(&name));
        tokens.is_some_and(|(_, values)| values.iter().any(|value| !storage.round(*value).is_finite()))
    }

    /// The error of `found` against what the reference computed.
    fn compare(&self, at: &Site, name: String, found: &[f32], values: &[f32]) -> LocalError {
        let error = distance(found, values);
        let Formats { storage, compute, .. } = self.examination.policy.formats(at);
        let roundoff = |format: Format| f64::from(format.epsilon()) / 2.0;
        let exponentials = if at.path().ends_with(".attention") { RUNNING_MAXIMUM } else { 0.0 };
        let rounding = roundoff(storage) * ROUNDING_MARGIN;
        let sums = if compute.bits() == 8 { FP8_SUMS } else { F32_LOCAL };
        let alone = self.unshown.borrow().is_empty();
        let sums = if alone { sums } else { sums.max(F32_STAGE) };
        let rounding = rounding.max(roundoff(compute) * exponentials).max(sums);
        let expected = match self.is_beyond_range(at, storage) {
            true => f64::INFINITY,
            false => {
                let fault = self.injection.as_ref().and_then(Injection::fault);
                let spread = fault.map_or(1.0, |fault| fault.spread(at));
                spread * self.examination.expected.get(&name).copied().unwrap_or(rounding)
            }
        };
        let path = at.path().to_owned();
        let peak = peak(found) / peak(values).max(f64::MIN_POSITIVE);
        let blank = is_blank(found, values);
        LocalError { name, path, error, expected, peak, blank, unshown: Vec::new() }
    }
}

/// Compares the tensors that are only handed on, which no operation makes.
struct Copies<'a, 'r>(&'r TeacherForced<'a>);

impl Probe for Copies<'_, '_> {
    fn tap(&mut self, name: &str, _: &[usize], values: &[f32]) {
        let (run, at) = (self.0, Site::of_tap(name));
        let reached = || {
            let fault = run.injection.as_ref().and_then(Injection::fault);
            fault.is_some_and(|fault| fault.reaches_copy(at.path()))
        };
        let skipped = run.examination.inputs == Inputs::Recorded || run.plan.is_some() && !reached();
        if skipped || !run.examination.model.topology.copies.contains(&at.path()) {
            return;
        }
        if let Some((_, found)) = run.examination.observed.read(name) {
            let error = run.compare(&at, name.to_owned(), &found, values);
            run.errors.borrow_mut().push(error.clone());
            run.copies.borrow_mut().push(error);
        }
    }
}

/// Relative L2 over the values that are finite in both; infinite where one side alone is not finite. A NaN
/// that the operation was handed is not its own error.
pub(super) fn distance(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    if found.iter().chain(expected).all(|value| value.is_finite()) {
        return relative_l2(found, expected);
    }
    let mut pairs = (Vec::new(), Vec::new());
    for (found, expected) in found.iter().zip(expected) {
        match (found.is_finite(), expected.is_finite()) {
            (true, true) => {
                pairs.0.push(*found);
                pairs.1.push(*expected);
            }
            (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    relative_l2(&pairs.0, &pairs.1)
}

/// Whether no value is finite in both.
pub(super) fn is_blank(found: &[f32], expected: &[f32]) -> bool {
    !found.iter().zip(expected).any(|(found, expected)| found.is_finite() && expected.is_finite())
}

fn peak(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |peak, value| f64::from(value.abs()).max(peak))
}
