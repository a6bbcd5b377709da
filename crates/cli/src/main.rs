//! `steady`: runs GR00T policies and proves that they give the reference's actions.

mod cli;
mod commands;
mod engines;
mod options;
mod outcome;
mod report;

use clap::Parser;
use cli::{Cli, with_dashes};
use outcome::{Outcome, describe, reader_left};
use std::process::ExitCode;

/// Exit code of bad input: a file, a field or an option that does not fit. clap uses it too.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse_from(with_dashes(std::env::args_os())).command.run() {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Failure) => ExitCode::FAILURE,
        Err(error) if reader_left(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(BAD_INPUT)
        }
    }
}
