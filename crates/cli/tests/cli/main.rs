//! The binary `steady` as its users run it.

mod bad_checkpoint;
mod bad_dataset;
mod bad_options;
mod bench;
mod demo;
mod diagnose;
mod engine;
mod eval;
mod eval_output;
mod export;
mod inspect;
mod policy;
mod support;
mod verify;
