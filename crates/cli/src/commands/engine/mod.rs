//! `steady engine`: engines of TensorRT and TensorRT-RTX built, inspected and run.

mod args;
mod build;
mod feeds;
mod graph;
mod inspect;
mod run;

pub use args::{EngineCommandArgs, target};

use crate::outcome::Outcome;
use anyhow::Result;
use args::EngineCommand;
use std::path::Path;
use steadyhand_external::tensorrt::{BuildRecord, Target};

/// What an engine's record says that it was built by; none where it has none. That it does not fit is said where it is
/// used.
fn target_of(engine: &Path, bytes: &[u8]) -> Option<Target> {
    let record = BuildRecord::read(engine, bytes).ok()??;
    Target::of_builder(&record.builder)
}

/// Runs the subcommand.
pub fn run(args: &EngineCommandArgs) -> Result<Outcome> {
    match &args.what {
        EngineCommand::Build(args) => build::run(args),
        EngineCommand::Inspect(args) => inspect::run(args),
        EngineCommand::Run(args) => run::run(args),
    }
}
