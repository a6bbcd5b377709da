//! `steady demo`: the embedded policy on its embedded episodes.

use crate::args::{Cli, Command, DemoArgs};
use crate::{Outcome, demo_assets};
use anyhow::Result;
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;

/// Unpacks the demo and evaluates it with the command that it prints, which works as it stands.
pub fn run(args: &DemoArgs) -> Result<Outcome> {
    let demo = demo_assets::unpack(&args.out.join("demo"))?;
    let mut command: Vec<OsString> = vec!["steady".into(), "eval".into()];
    command.extend(["--model-path".into(), demo.checkpoint.into_os_string()]);
    command.extend(["--dataset-path".into(), demo.dataset.into_os_string()]);
    command.extend(["--traj-ids", "0", "1", "2", "3"].map(OsString::from));
    command.extend(["--precision".into(), OsString::from(&args.engine.precision)]);
    command.extend(["--out".into(), args.out.clone().into_os_string()]);
    let words: Vec<_> = command.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    writeln!(std::io::stdout(), "{}", words.join(" "))?;
    match Cli::parse_from(command).command {
        Command::Eval(mut eval) => {
            eval.engine = args.engine.clone();
            super::eval::run(&eval)
        }
        _ => unreachable!("the command was written above"),
    }
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
