//! One file per command.

pub mod demo;
pub mod doctor;
pub mod engine;
pub mod eval;
pub mod export;
pub mod faults;
pub mod inspect;
pub mod policy;
pub mod record;
