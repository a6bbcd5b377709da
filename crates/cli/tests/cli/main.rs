//! The binary `steady` as its users run it.

mod bad_checkpoint;
mod bad_dataset;
mod bad_options;
mod bench;
mod demo;
mod diagnose;
mod doctor;
mod engine;
mod eval;
mod eval_output;
mod eval_several;
mod eval_survives;
mod eval_workers;
mod export;
mod inspect;
mod options;
mod output;
mod precision;
mod precision_table;
mod support;
mod tune;
mod verify;
