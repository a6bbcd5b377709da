#![doc = include_str!("../README.md")]
//!
//! # The way of one request
//!
//! ```text
//! zmtp    frames of a REP socket → one message                       a thread a client
//! openpi  the same from a WebSocket                                   the one thread of such a client
//! wire    msgpack → values, arrays of either dialect
//! request, observation, options   → observations, noise              another thread a client
//! prepare → ModelInput
//! queue   observations of several clients → batches
//! pool    batches → the engine that is free first                   a thread an engine
//! decode, reply → actions in the dialect of the request              the client's thread again
//! recording     → requests and replies on disk, where that is asked for   one thread
//! ```
//!
//! [`Remote`] goes the same way from the other end.

mod client;
mod error;
mod http;
mod metrics;
mod naming;
mod observation;
mod openpi;
mod options;
mod pool;
mod queue;
mod recording;
mod remote;
mod reply;
mod request;
mod robot;
mod server;
#[cfg(test)]
mod tests;
mod wire;
mod zmtp;

pub use error::{Error, Result};
pub use observation::{Form, MAX_OBSERVATIONS, Observed};
pub use options::{Noise, Options, Rtc, of_reset};
pub use pool::Placed;
pub use recording::{Record, Recorded, Recording, Replay};
pub use remote::{Access, Address, Asking, Continue, Given, Ready, Remote};
pub use reply::modality_config;
pub use robot::{Asked, Robot, at_place};
pub use server::{Config, Deployment, Model, Server};
pub use wire::{Ndarray, Value, read};
