//! What a diagnosis leaves behind: plain data, for JSON, for the page and for the terminal.

use super::verdict::{Unit, Verdict};
use serde::Serialize;

/// Two engines on the same observations and the same noise, and why they differ.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Inferences that the engine is known by.
    #[serde(skip)]
    pub inferences: usize,
    /// The answer.
    pub verdict: Verdict,
    /// How far the actions lie apart.
    pub actions: ActionError,
    /// What differs before any number is compared: tensors that are missing, of another shape or type.
    pub audit: Vec<String>,
    /// Whether two runs gave the same bits, or why that is not known.
    pub determinism: String,
    /// The inference whose taps and hypotheses are shown: where the first error is seen, else the last.
    pub shown: usize,
    /// Every tap that the engine gave, in the order of execution; empty where only its actions are known.
    pub taps: Vec<TapError>,
    /// Causes considered, best first.
    pub hypotheses: Vec<Hypothesis>,
    /// What the search for a cause cost.
    pub considered: Considered,
    /// Where the final error comes from, by Euler step; none where the engine gave no Euler states.
    pub euler: Option<EulerSplit>,
    /// What exchanging components with the reference does; none where it was not done.
    pub swaps: Option<Swaps>,
    /// Recorded, reference and engine actions over the chunk of the first inference.
    pub trajectories: Vec<Trajectory>,
}

/// How far the engine's actions lie from the reference's.
#[derive(Debug, Clone, Serialize)]
pub struct ActionError {
    /// Normalized actions of all inferences.
    pub relative_l2: f64,
    /// What rounding at the engine's precision gives: the largest of one run rounding to the nearest and three
    /// rounding at random.
    pub expected: f64,
    /// Physical actions by joint group: mean absolute difference.
    pub groups: Vec<(String, f64)>,
    /// Normalized actions by position in the chunk: relative L2.
    pub chunk_positions: Vec<f64>,
    /// Mean squared error against the recorded actions, over these chunks; none where nothing was recorded.
    pub mse_a: Option<f64>,
    /// The engine's.
    pub mse_b: Option<f64>,
}

/// One tap of the inference that is shown.
#[derive(Debug, Clone, Serialize)]
pub struct TapError {
    /// The tap's name, with its Euler step.
    pub name: String,
    /// The Euler step, for taps inside one.
    pub step: Option<usize>,
    /// The part of the model that it belongs to, as its topology names it.
    pub part: String,
    /// Relative L2 to the reference's tap, errors from before included.
    pub total: f64,
    /// What rounding gives here.
    pub expected: f64,
    /// The operation's own error, on the inputs the engine gave it. Infinite (null in JSON) where shapes or
    /// non-finite values differ.
    pub local: f64,
    /// What a healthy engine may show.
    pub local_expected: f64,
}

/// A possible cause.
#[derive(Debug, Clone, Serialize)]
pub struct Hypothesis {
    /// The kind of the fault.
    pub kind: String,
    /// Where it is made.
    pub place: String,
    /// What happened, as the end of a sentence that begins "The engine".
    pub description: String,
    /// What to do about it.
    pub fix: String,
    /// The error left if the reference makes this fault too, in `unit`.
    pub residual: f64,
    /// What `residual` is measured in.
    pub unit: Unit,
    /// Whether nothing is left that rounding cannot explain.
    pub proven: bool,
}

/// What the search for a cause cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Considered {
    /// Hypotheses in all.
    pub hypotheses: usize,
    /// Runs of the reference with one of them in it; the others were judged from the tensors at their place.
    pub replays: usize,
}

/// The final error, split by where it was made.
#[derive(Debug, Clone, Serialize)]
pub struct EulerSplit {
    /// In the order of execution.
    pub steps: Vec<EulerStep>,
    /// Relative L2 of the final actions, had the engine erred in its backbone and state features alone.
    pub conditioning: f64,
    /// Norm of the final error minus the sum of all contributions, relative to the final error: how far the
    /// split is from explaining all of it.
    pub closure: f64,
}

/// One Euler step. All values are relative to the norm of the reference's final actions.
#[derive(Debug, Clone, Serialize)]
pub struct EulerStep {
    /// The step, counted from 0.
    pub step: usize,
    /// Error of the state after the step.
    pub total: f64,
    /// What the step itself added, on the engine's own state.
    pub injected: f64,
    /// What it made of the error it was handed.
    pub propagated: f64,
    /// The injected error after the remaining steps of the reference.
    pub contribution: f64,
}

/// Components exchanged between both engines in the last inference. Errors are relative L2 of normalized actions to
/// the reference's.
#[derive(Debug, Clone, Serialize)]
pub struct Swaps {
    /// What rounding at the engine's precision allows.
    pub floor: f64,
    /// The engine's own error.
    pub all_b: f64,
    /// In the order of execution.
    pub components: Vec<SwapErrors>,
    /// Components that cause an error above the floor alone, and without which none is left above it.
    pub located: Vec<String>,
    /// The same in words.
    pub conclusion: String,
}

/// One component, exchanged.
#[derive(Debug, Clone, Serialize)]
pub struct SwapErrors {
    /// The component.
    pub component: String,
    /// Only this component is b's.
    pub only_b: f64,
    /// All but this component is b's.
    pub all_but_b: f64,
}

/// One action dimension over a chunk, in physical units.
#[derive(Debug, Clone, Serialize)]
pub struct Trajectory {
    /// The joint.
    pub name: String,
    /// As the dataset has it.
    pub recorded: Vec<f32>,
    /// As the reference gives it.
    pub a: Vec<f32>,
    /// As the engine gives it.
    pub b: Vec<f32>,
}
