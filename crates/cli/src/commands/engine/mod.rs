//! `steady engine`: engines of TensorRT-RTX built, inspected and run.

mod args;
mod build;
mod feeds;
mod graph;
mod inspect;
mod run;

pub use args::EngineCommandArgs;

use crate::outcome::Outcome;
use anyhow::Result;
use args::EngineCommand;

/// Runs the subcommand.
pub fn run(args: &EngineCommandArgs) -> Result<Outcome> {
    match &args.what {
        EngineCommand::Build(args) => build::run(args),
        EngineCommand::Inspect(args) => inspect::run(args),
        EngineCommand::Run(args) => run::run(args),
    }
}
