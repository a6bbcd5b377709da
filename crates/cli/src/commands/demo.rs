//! `steady demo`: the embedded policy on its embedded episodes.

use super::eval::{self, EvalArgs};
use crate::options::demo::{self, Demo};
use crate::options::{EngineArgs, one_precision, words_of};
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
    let options = evaluation(args, demo::unpack(&args.out.join("demo"))?)?;
    let words: Vec<_> = options.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    say!("steady eval {}", words.join(" "))?;
    eval::run(&words_of::<EvalArgs>(options)?)
}

/// The options of `steady eval` that evaluate the demo.
fn evaluation(args: &DemoArgs, Demo { checkpoint, dataset }: Demo) -> Result<Vec<OsString>> {
    let mut options: Vec<OsString> = vec!["--model-path".into(), checkpoint.into_os_string()];
    options.extend(["--dataset-path".into(), dataset.into_os_string()]);
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
    options.extend(args.engine.options.words());
    options.extend(["--out".into(), args.out.clone().into_os_string()]);
    Ok(options)
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed is what is run, so an option that is left out of it is lost.
    #[test]
    fn every_option_of_the_demo_is_in_the_command_that_it_prints() {
        let given =
            ["--device", "1", "--kernel-cache", "kept", "--kernel-dir", "own", "--onnxruntime", "lib"];
        let more =
            ["--provider", "nv-tensorrt-rtx", "--onnx", "part.onnx", "--tensorrt", "there", "--out", "o o"];
        let words = ["--engine", "cuda", "--precision", "bf16"].into_iter().chain(given).chain(more);
        let args: DemoArgs = words_of(words.clone().map(OsString::from)).expect("options");
        let demo = Demo { checkpoint: "c".into(), dataset: "d".into() };
        let options = evaluation(&args, demo).expect("options");
        let found: Vec<[&OsString; 2]> = options.windows(2).map(|pair| [&pair[0], &pair[1]]).collect();
        for pair in words.collect::<Vec<_>>().chunks(2) {
            assert!(found.iter().any(|found| found == pair), "{pair:?} in {options:?}");
        }
    }
}
