//! What is known of an engine: it runs here, or left something.

use super::Observed;
use super::actions;
use super::rounding;
use super::setup::Setup;
use super::stored::{OfInference, Scratch};
use super::teacher_forced::Inputs;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::rc::Rc;
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{ActionChunk, Matrix};

/// The engine under examination.
pub enum Subject<'e> {
    /// It runs here, and shows every tensor.
    Live(&'e mut dyn Engine),
    /// It runs here, and shows its actions only.
    Closed(&'e mut dyn Engine),
    /// It left tensors.
    Trace(Rc<Trace>),
    /// It left normalized actions, one matrix an inference.
    Actions(Vec<Matrix>),
    /// It gave physical actions, one chunk an inference.
    Physical(Vec<ActionChunk>),
}

/// What is known of the engine after it was looked at.
pub(super) struct Evidence {
    /// Normalized actions of each inference.
    pub(super) actions: Vec<Matrix>,
    /// The tensors of inferences, by number, where the engine shows any; of a running engine the last ones only.
    pub(super) taps: BTreeMap<usize, OfInference>,
    pub(super) audit: Vec<String>,
    pub(super) inputs: Inputs,
    /// Whether the first inference, run again after the others, gave the same bits; none where that is not known.
    pub(super) repeats: Option<bool>,
    /// Of an engine that computes otherwise while a probe looks on: what is otherwise, and its actions without a probe.
    pub(super) unprobed: Option<(String, Vec<Matrix>)>,
}

impl Evidence {
    /// The last inference and its tensors, where the engine shows any.
    pub(super) fn last(&self) -> Option<(usize, &OfInference)> {
        self.taps.last_key_value().map(|(inference, taps)| (*inference, taps))
    }

    /// Whether it is known which embodiment slot was taken in these inferences: an engine that runs here was given the
    /// right one, another shows it or does not.
    pub(super) fn shows_slot(&self, inferences: &[usize]) -> bool {
        let shows = |inference: &usize| {
            self.taps.get(inference).is_some_and(|taps| taps.read("embodiment_id").is_some())
        };
        self.repeats.is_some() || inferences.iter().all(shows)
    }

    /// What runs without a probe is what counts: where its actions lie beyond `limit` and those of the probed inferences
    /// do not, the tensors say nothing of the error, and the actions alone are left to examine.
    pub(super) fn prefer_unprobed(&mut self, distance: impl Fn(&[Matrix]) -> f64, limit: f64) {
        let Some((what, actions)) = self.unprobed.take() else { return };
        let without = distance(&actions);
        self.audit.push(format!(
            "{what}: without a probe the actions lie {without:.2e} from the reference's, limit {limit:.2e}"
        ));
        // Actions that are no numbers are beyond it too.
        if (without.is_nan() || without > limit) && distance(&self.actions) <= limit {
            self.actions = actions;
            self.taps.clear();
        }
    }

    /// Whether the engine repeats itself, in words.
    pub(super) fn determinism(&self) -> String {
        let words = match self.repeats {
            Some(true) => REPEATED,
            Some(false) => NOT_REPEATED,
            None => "not known: the engine is known by what it left",
        };
        words.to_owned()
    }
}

/// The name under which the backbone's features are handed on.
const COPY_OF_FEATURES: &str = "backbone_features";
const REPEATED: &str = "the first inference, run again after the others, gave the same bits";
const NOT_REPEATED: &str = "the first inference, run again after the others, gave other bits: the engine keeps state \
                            or is not deterministic";

/// Runs the engine, or reads what it left. Of a running engine the tensors of the last `kept` inferences are kept in
/// `scratch`. May know fewer inferences than the setup has.
///
/// # Errors
/// Those of the engine; a recording that does not fit the setup; tensors that cannot be kept.
pub(super) fn observe(
    subject: &mut Subject,
    setup: &Setup,
    policy: &PrecisionPolicy,
    inputs: Inputs,
    (scratch, kept): (&Scratch, usize),
) -> Result<Evidence> {
    let mut evidence = Evidence {
        actions: Vec::new(),
        taps: BTreeMap::new(),
        audit: Vec::new(),
        inputs,
        repeats: None,
        unprobed: None,
    };
    match subject {
        Subject::Live(engine) => {
            for (inference, input) in setup.inputs.iter().enumerate() {
                if inference.saturating_add(kept) < setup.inputs.len() {
                    let input = std::slice::from_ref(input);
                    evidence.actions.extend(engine.infer(input, Some(&mut Unseen))?);
                } else {
                    let (actions, taps) = scratch.record(*engine, input)?;
                    evidence.actions.push(actions);
                    evidence.taps.insert(inference, taps);
                }
            }
        }
        Subject::Closed(engine) => {
            for input in setup.inputs {
                evidence.actions.extend(engine.infer(std::slice::from_ref(input), None)?);
            }
        }
        Subject::Actions(actions) => {
            evidence.actions = actions.iter().take(setup.inputs.len()).cloned().collect();
        }
        Subject::Physical(chunks) => {
            let chunks = chunks.iter().take(setup.inputs.len()).enumerate();
            let normalized = chunks.map(|(inference, chunk)| setup.normalized(inference, chunk));
            evidence.actions = normalized.collect::<steadyhand_gr00t::Result<_>>()?;
            evidence.audit = setup.unseen(&evidence.actions);
        }
        Subject::Trace(trace) => read(trace, setup, policy, &mut evidence)?,
    }
    if evidence.actions.is_empty() {
        return Err(Error::input("engine", "expected at least one inference, found none"));
    }
    if let Subject::Live(engine) = subject
        && let Some(what) = engine.differs_when_probed()
    {
        let mut unprobed = Vec::with_capacity(setup.inputs.len());
        for input in setup.inputs {
            unprobed.extend(engine.infer(std::slice::from_ref(input), None)?);
        }
        // Each way is held to its own bits.
        let probed_again = engine.infer(&setup.inputs[..1], Some(&mut Unseen))?;
        let probed = bits(&probed_again[0]) == bits(&evidence.actions[0]);
        evidence.repeats = Some(probed && repeats(*engine, setup, &unprobed[0])?);
        evidence.unprobed = Some((what, unprobed));
    } else if let Subject::Live(engine) | Subject::Closed(engine) = subject {
        evidence.repeats = Some(repeats(*engine, setup, &evidence.actions[0])?);
    }
    if !matches!(subject, Subject::Physical(_)) {
        let actions = std::mem::take(&mut evidence.actions).into_iter().enumerate();
        let seen = actions.map(|(inference, actions)| setup.seen(inference, actions));
        evidence.actions = seen.collect::<steadyhand_gr00t::Result<_>>()?;
    }
    Ok(evidence)
}

/// The inferences of a trace, from the first on, as many as it and the setup have.
fn read(trace: &Rc<Trace>, setup: &Setup, policy: &PrecisionPolicy, evidence: &mut Evidence) -> Result<()> {
    let of = |inference| OfInference { trace: Rc::clone(trace), inference };
    let held = (0..setup.inputs.len()).take_while(|i| !of(*i).taps().is_empty()).count();
    if held == 0 {
        let path = trace.path().display().to_string();
        return Err(Error::input(path, "no tensor of inference 000 (names begin with 000/)"));
    }
    // What is only handed on is judged where one run hands it on: alone it would pass whatever it holds.
    let (taps, features) = (of(0).taps(), &setup.model.topology.features);
    let holds = |wanted: &str| taps.iter().any(|tap| tap == wanted);
    if evidence.inputs == Inputs::Recorded && holds(COPY_OF_FEATURES) && !holds(features) {
        let what = format!(
            "{COPY_OF_FEATURES}: expected the name of what makes it, `{features}`, in a trace of stages that ran by themselves"
        );
        return Err(Error::input(trace.path().display().to_string(), what));
    }
    for inference in 0..held {
        let taps = of(inference);
        if inference == 0 {
            evidence.audit = rounding::audit(setup, policy, &taps)?;
        }
        evidence.actions.push(actions::of_trace(setup, policy, inference, &taps)?);
        evidence.taps.insert(inference, taps);
    }
    Ok(())
}

/// A probe that looks away: every inference is run as those are whose tensors are kept.
struct Unseen;

impl Probe for Unseen {
    fn tap(&mut self, _: &str, _: &[usize], _: &[f32]) {}
}

/// Whether the first inference, run once more after the others and without a probe, gives its bits again.
fn repeats(engine: &mut dyn Engine, setup: &Setup, first: &Matrix) -> Result<bool> {
    let again = engine.infer(&setup.inputs[..1], None)?;
    Ok(bits(&again[0]) == bits(first))
}

fn bits(matrix: &Matrix) -> Vec<u32> {
    matrix.data.iter().map(|value| value.to_bits()).collect()
}
