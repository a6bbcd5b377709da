#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! How an engine is judged: faults put into the reference, the diagnosis of an engine, the tuning of its precision.
//!
//! Nothing here knows how an engine computes: engines are met through [`steadyhand_gr00t::engine::Engine`] and
//! [`steadyhand_gr00t::engine::Backend`], targets of a tuning through [`tuning::Target`].

mod backbone;
pub mod diagnosis;
mod error;
pub mod fault;
pub mod tuning;

pub use error::{Error, Result};
