//! Why an engine does not give the reference's actions.
//!
//! [`diagnose`] judges an engine by what it shows. The reference is run once more with the engine's own intermediate
//! tensors in place of its own (teacher forcing), so every operation is judged by what the engine itself gave it: an
//! error that is only passed on vanishes, and an error that is made stands out at the place that makes it
//! ([`Examination::localize`]). The places and their kind of operation suggest faults; each is injected into the
//! reference, and the one that explains every local error away is the cause ([`Examination::explain`]). Where only
//! final actions are known, the faults are injected into a free run instead ([`ActionsOnly`]). An engine that runs here
//! can also exchange components with the reference ([`swap_components`]).

mod actions;
mod actions_alone;
mod baseline;
mod compare;
mod declared;
mod diagnose;
mod euler;
mod examine;
mod explain;
mod fitted;
mod given;
mod inferred;
mod likeness;
mod observe;
mod physical;
mod replay;
mod report;
mod reuse;
mod rounding;
mod setup;
mod side_by_side;
mod stored;
mod swaps;
mod teacher_forced;
mod verdict;

pub use baseline::{F32_ACTIONS, MARGIN};
pub use compare::{Comparison, TapDistance, compare};
pub use declared::{FEATURES, ISOLATED, MEMORY, MODE, PRECISION, PRECISION_NAME, RUN, precision_of};
pub use diagnose::{Options, SwapWhen, diagnose};
pub use observe::Subject;
pub use replay::{ActionsOnly, Finding, Progress, Task};
pub use report::{
    ActionError, Considered, Diagnosis, EulerSplit, EulerStep, Hypothesis, SwapErrors, Swaps, TapError,
    Trajectory,
};
pub use setup::Setup;
pub use side_by_side::{Mixture, Reference, Side, Swap, side_by_side, swap_components};
pub use stored::{OfInference, Scratch, TapWriter};
pub use teacher_forced::{Examination, Inputs, LocalError, Localization};
pub use verdict::{Cause, Evidence, Judgement, Likeness, Located, Nearest, Proof, Status, Unit, Verdict};

use steadyhand_gr00t::probe::Recorder;

/// Intermediate tensors of an engine for one inference, by the reference's names.
pub trait Observed {
    /// Shape and row-major values of a tap; none where the engine did not give it.
    fn read(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)>;
}

impl Observed for Recorder {
    fn read(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.tensors.get(name).cloned()
    }
}
