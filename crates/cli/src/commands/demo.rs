//! `steady demo`: the embedded policy on its embedded episodes.

use super::eval::{self, EvalArgs};
use crate::options::{EngineArgs, demo, one_precision, words_of};
use crate::outcome::Outcome;
use crate::output::say;
use anyhow::Result;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(mut_arg("engine", |engine| engine.default_value("auto")))]
pub struct DemoArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Where the plots, the JSON and the demo's own files go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
}

/// Unpacks the demo and evaluates it with the command that it prints, which works as it stands.
pub fn run(args: &DemoArgs) -> Result<Outcome> {
    let demo = demo::unpack(&args.out.join("demo"))?;
    let mut options: Vec<OsString> = vec!["--model-path".into(), demo.checkpoint.into_os_string()];
    options.extend(["--dataset-path".into(), demo.dataset.into_os_string()]);
    options.extend(["--traj-ids", "0", "1", "2", "3"].map(OsString::from));
    let (engine, given) = (&args.engine.engine, args.engine.precision.as_deref());
    if engine.is_stored() {
        options.extend(["--engine".into(), engine.to_string().into()]);
        options.extend(given.iter().flat_map(|given| ["--precision".into(), given.into()]));
    } else {
        options.extend(["--precision".into(), one_precision(given, engine, "f32")?.into()]);
        if engine.name() != "auto" {
            options.extend(["--engine".into(), engine.name().into()]);
        }
    }
    options.extend(["--out".into(), args.out.clone().into_os_string()]);
    let words: Vec<_> = options.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    say!("steady eval {}", words.join(" "))?;
    eval::run(&EvalArgs { engine: args.engine.clone(), ..words_of(options)? })
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
