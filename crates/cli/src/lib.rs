//! The program `steady` as a library: its command line and its engines, for `main` and for the Python package.

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

pub use commands::eval::{Pace, evaluate_episode};
pub use engines::{EngineSpec, Options as EngineOptions};
pub use options::demo;
pub use options::engine_precision;
pub use outcome::describe;
pub use output::tell;

use clap::Parser;
use cli::{Cli, with_dashes};
use outcome::{Outcome, reader_left};
use output::note;
use std::ffi::OsString;

const SUCCESS: u8 = 0;
/// Exit code of a result that does not hold.
const FAILURE: u8 = 1;
/// Exit code of bad input: a file, a field or an option that does not fit. clap uses it too.
const BAD_INPUT: u8 = 2;
/// Exit code of an evaluation that had to leave something out.
const PARTIAL: u8 = 3;
/// What shells add the number of a signal to.
const SIGNAL: i32 = 128;

/// Runs the command line `args`, whose first word is the program's name, and gives the exit code. Listens for signals,
/// and where the command line cannot be read or only asks for help, ends the process.
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    // A panic that a reader's guard turns into an error is not reported a second time.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !steadyhand_files::is_guarded() {
            report(panic);
        }
    }));
    let command = Cli::parse_from(with_dashes(args)).command;
    if let Err(error) = interrupt::listen() {
        note!("signals are left to the system: {error}");
    }
    match command.run().and_then(|outcome| output::finish().map(|()| outcome)) {
        Ok(Outcome::Success) => SUCCESS,
        Ok(Outcome::Failure) => FAILURE,
        Ok(Outcome::Partial) => PARTIAL,
        Ok(Outcome::Interrupted(signal)) => u8::try_from(SIGNAL + signal).unwrap_or(u8::MAX),
        Err(error) if reader_left(&error) => FAILURE,
        Err(error) => {
            note!("\x1b[1;31merror:\x1b[0m {}", describe(&error));
            BAD_INPUT
        }
    }
}
