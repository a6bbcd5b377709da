//! Why an engine does not give the reference's actions.
//!
//! The reference is run once more with the engine's own intermediate tensors in place of its own, so every
//! operation is judged by what the engine itself gave it: an error that is only passed on vanishes, and an
//! error that is made stands out at the place that makes it ([`Examination::localize`]). The places and their kind of
//! operation suggest faults ([`at_site`]); each is injected into the reference, and the one that explains
//! every local error away is the cause ([`Examination::explain`]). Where only final actions are known, the faults are
//! injected into a free run instead. An engine that runs here can also exchange components with the reference
//! ([`swap_components`]).

mod hypotheses;
mod local;
mod replay;
mod reuse;
mod swaps;

pub use hypotheses::{at_site, catalogue};
pub use local::{Examination, Inputs, LocalError, Localization};
pub use replay::{ActionsOnly, Finding, Progress};
pub use reuse::Backbone;
pub use swaps::{Mixture, Reference, Side, Swap, side_by_side, swap_components};

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
