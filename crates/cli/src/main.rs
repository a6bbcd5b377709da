//! `steady`: runs GR00T policies and proves that they give the reference's actions.

mod args;
mod bench;
mod calibration;
mod commands;
mod demo_assets;
mod diagnose;
mod engines;
mod episodes;
mod memory;
mod noise;
mod report;
mod rollout;
mod synthetic;
mod table;
mod tensors;
mod tune;
mod verify;

use clap::Parser;
use std::process::ExitCode;

/// What a command ends with when it did its work.
enum Outcome {
    /// Everything asked for was done, and holds.
    Success,
    /// The work was done, and its result is a failure: a verification that does not hold.
    Failure,
}

/// Exit code of bad input: a file, a field or an option that does not fit. clap uses it too.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let cli = args::Cli::parse_from(args::with_dashes(std::env::args_os()));
    let outcome = match cli.command {
        args::Command::Demo(args) => commands::demo::run(&args),
        args::Command::Eval(args) => commands::eval::run(&args),
        args::Command::Verify(args) => verify::run(&args),
        args::Command::Export(args) => commands::export::run(&args),
        args::Command::Engine(args) => commands::engine::run(&args),
        args::Command::Compare(args) => diagnose::compare::run(&args),
        args::Command::Diagnose(args) => diagnose::run(&args),
        args::Command::Record(args) => commands::record::run(&args),
        args::Command::Faults(args) => commands::faults::run(&args),
        args::Command::Bench(args) => bench::run(&args),
        args::Command::Doctor(args) => commands::doctor::run(&args),
        args::Command::Policy(args) => commands::policy::run(&args),
        args::Command::Tune(args) => tune::run(&args),
        args::Command::Inspect(args) => commands::inspect::run(&args),
    };
    match outcome {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::FAILURE,
        Err(error) if reader_left(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// The error and its causes on one line. A cause that the error above it already quotes is left out.
fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |line, cause| match line.ends_with(&cause) {
        true => line,
        false if line.is_empty() => cause,
        false => format!("{line}: {cause}"),
    })
}

/// Whether the reader of what is printed went away, as `head` does.
fn reader_left(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
