//! The other side of the protocol: a policy that some server has, ours or NVIDIA's, asked as a robot asks it.
//!
//! [`Remote`] is an [`Actor`](steadyhand_gr00t::session::Actor), so it is evaluated along episodes as a policy is that
//! runs here. Requests name the noise that they want; a server that does not say that it took it has its own.

mod actor;
mod form;
mod link;
mod modalities;
mod replies;
#[cfg(test)]
mod tests;

pub use actor::{Access, Ready, Remote};
pub use form::{Asking, Continue};
pub use link::Address;
pub use replies::Given;

/// Most bytes of a reply: a chunk of actions has some kilobytes.
const MAX_REPLY: usize = 64 << 20;
