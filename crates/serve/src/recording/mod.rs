//! Requests and replies as a trace on disk: written as a server answers, read by what examines engines.
//!
//! Tensors of observation `N`, counted from 0 over all requests and clients:
//!
//! | name | type and shape |
//! |---|---|
//! | `N/video.VIEW` | u8 `[T, H, W, 3]` |
//! | `N/state.GROUP` | f32 `[T, D]`, physical units |
//! | `N/instruction` | u8, the bytes of the text |
//! | `N/noise_of` | i64 `[3]`: seed, episode and inference, of which the noise is drawn |
//! | `N/noise` | f32 `[action_horizon, max_action_dim]`, that noise |
//! | `N/action_pred` | f32 `[1, action_horizon, max_action_dim]`, what the engine gave |
//! | `N/action.GROUP` | f32 `[T, D]`, what the client was given |
//! | `N/rtc.previous`, `N/rtc.options` | f32 `[rows, max_action_dim]` and `[4]` where the actions go on from others |

mod read;
mod replay;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Recorded, Recording};
pub use replay::Replay;
pub use write::{Record, Recorder, Served};

/// Key of the metadata that tells a recording from other traces, and its value.
const SOURCE: (&str, &str) = ("source", "steady serve");
/// Key of the metadata: what tells the checkpoint's weights from others.
const FINGERPRINT: &str = "fingerprint";
/// Key of the metadata: the embodiment's tag.
const TAG: &str = "embodiment_tag";

/// A tensor's name.
fn name(observation: usize, tensor: &str) -> String {
    format!("{observation:03}/{tensor}")
}
