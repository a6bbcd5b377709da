//! `steady`: runs GR00T policies and proves that they give the reference's actions.

// These panic where nobody reads what is printed; `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod engines;
mod interrupt;
mod options;
mod outcome;
mod output;
mod progress;
mod report;

use clap::Parser;
use cli::{Cli, with_dashes};
use outcome::{Outcome, describe, reader_left};
use output::note;
use std::process::ExitCode;

/// Exit code of bad input: a file, a field or an option that does not fit. clap uses it too.
const BAD_INPUT: u8 = 2;
/// Exit code of an evaluation that had to leave something out.
const PARTIAL: u8 = 3;
/// What shells add the number of a signal to.
const SIGNAL: i32 = 128;

fn main() -> ExitCode {
    // A panic that a reader's guard turns into an error is not reported a second time.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !steadyhand_files::is_guarded() {
            report(panic);
        }
    }));
    let command = Cli::parse_from(with_dashes(std::env::args_os())).command;
    if let Err(error) = interrupt::listen() {
        note!("signals are left to the system: {error}");
    }
    match command.run().and_then(|outcome| output::finish().map(|()| outcome)) {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::FAILURE,
        Ok(Outcome::Partial) => ExitCode::from(PARTIAL),
        Ok(Outcome::Interrupted(signal)) => ExitCode::from(u8::try_from(SIGNAL + signal).unwrap_or(u8::MAX)),
        Err(error) if reader_left(&error) => ExitCode::FAILURE,
        Err(error) => {
            note!("\x1b[1;31merror:\x1b[0m {}", describe(&error));
            ExitCode::from(BAD_INPUT)
        }
    }
}
