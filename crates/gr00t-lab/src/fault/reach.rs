//! Which operations a fault changes: what a replay has to compute again.

use super::Fault;
use steadyhand_gr00t::ops::Site;

impl Fault {
    /// Whether the operation at `at` may give something else on the same inputs. Never says no where it may.
    pub fn touches(&self, at: &Site) -> bool {
        let path = at.path();
        match self {
            Fault::Narrow { site, .. } | Fault::Eps { site, .. } | Fault::SwappedGelu { site } => {
                at.is_within(site)
            }
            Fault::SwappedMasks => at.is_within("dit.block"),
            Fault::NotCausal { .. } => at.is_within("language.layer"),
            Fault::TimestepAngle { .. } | Fault::TimestepOffset { .. } | Fault::TimestepFolded => {
                matches!(path, "dit.timestep_projection" | "action_encoder.time")
            }
            Fault::Embodiment { .. } => is_category_specific(at),
            _ => path == self.place(),
        }
    }

    /// Whether all that the fault does is to change the result at its place after it was computed.
    pub fn changes_a_result(&self) -> bool {
        matches!(
            self,
            Fault::Reinterpreted { .. }
                | Fault::Stale { .. }
                | Fault::UnwrittenTail { .. }
                | Fault::MaskedRow { .. }
                | Fault::TransposedHeads { .. }
                | Fault::MisgroupedHeads { .. }
                | Fault::OldWeights { .. }
                | Fault::StaleScale { .. }
        )
    }
}

/// Whether a site belongs to layers that have weights for each embodiment.
pub(crate) fn is_category_specific(at: &Site) -> bool {
    let parts = [
        "action_head.state_encoder",
        "action_head.state_features",
        "action_encoder",
        "action_features",
        "decoder",
    ];
    parts.iter().any(|part| at.is_within(part))
}
