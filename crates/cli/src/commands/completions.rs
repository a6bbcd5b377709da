//! `steady completions`: what makes a shell complete commands and options.

use crate::outcome::Outcome;
use crate::output;
use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steady completions bash > ~/.local/share/bash-completion/completions/steady
  steady completions zsh > ~/.zfunc/_steady
  steady completions fish > ~/.config/fish/completions/steady.fish")]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Prints the shell's script for `program`.
pub fn run(args: &CompletionsArgs, program: &mut Command) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, program, "steady", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(Outcome::Success)
}
