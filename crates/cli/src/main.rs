//! `steady`: runs GR00T policies and proves that they give the reference's actions.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(steadyhand_cli::run(std::env::args_os()))
}
