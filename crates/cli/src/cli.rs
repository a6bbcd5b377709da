//! The command line as a whole. Options that NVIDIA's `standalone_inference_script.py` has keep their names and
//! defaults.

use crate::commands::bench::{self, BenchArgs};
use crate::commands::compare::{self, CompareArgs};
use crate::commands::completions::{self, CompletionsArgs};
use crate::commands::demo::{self, DemoArgs};
use crate::commands::diagnose::{self, DiagnoseArgs};
use crate::commands::doctor::{self, DoctorArgs};
use crate::commands::drive::{self, DriveArgs};
use crate::commands::engine::{self, EngineCommandArgs};
use crate::commands::eval::{self, EvalArgs};
use crate::commands::export::{self, ExportArgs};
use crate::commands::faults::{self, FaultsArgs};
use crate::commands::inspect::{self, InspectArgs};
use crate::commands::precision::{self, PrecisionArgs};
use crate::commands::record::{self, RecordArgs};
use crate::commands::serve::{self, ServeArgs};
use crate::commands::tune::{self, TuneArgs};
use crate::commands::verify::{self, VerifyArgs};
use crate::outcome::Outcome;
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::{OsStr, OsString};

/// Runs GR00T robot policies as deployed engines, and proves that they give the reference's actions.
#[derive(Debug, Parser)]
#[command(name = "steady", version)]
#[command(after_help = "\
Exit codes: 0 done, and what was asked for holds; 1 done, and it does not hold (verify, diagnose, faults, precision \
table); 2 bad input: a file, a field or an option, named in the error; 3 an evaluation that had to skip episodes; \
130 or 143 ended by Ctrl-C or SIGTERM.

First steps:
  steady demo
  steady doctor
  steady inspect checkpoint CHECKPOINT
  steady eval --model-path CHECKPOINT --dataset-path DATASET")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Evaluate the embedded policy on its embedded dataset; needs nothing else.
    Demo(DemoArgs),
    /// Evaluate a checkpoint on the episodes of a LeRobot dataset (open loop).
    Eval(EvalArgs),
    /// Answer robots: a policy server that clients of NVIDIA's PolicyServer talk to unchanged.
    Serve(ServeArgs),
    /// Play an episode against a policy server as a robot that does not stop to think: with and without real-time chunking.
    Drive(DriveArgs),
    /// Check this build against results of the official code.
    Verify(VerifyArgs),
    /// Put two engines side by side: actions, taps, growth of the error.
    Compare(CompareArgs),
    /// Say whether an engine gives the reference's actions, and if not, why.
    Diagnose(DiagnoseArgs),
    /// Write the reference's tensors for some observations, to run other engines on.
    Record(RecordArgs),
    /// Write a checkpoint's model as a file that other runtimes read.
    Export(ExportArgs),
    /// Build, inspect and run engines of TensorRT-RTX.
    Engine(EngineCommandArgs),
    /// Put known faults into the demo's engine and see whether the diagnosis finds them.
    Faults(FaultsArgs),
    /// Measure how long inferences take and where the time goes.
    Bench(BenchArgs),
    /// Say what this machine has, which number formats run on it natively, and what to install or mend.
    Doctor(DoctorArgs),
    /// Show, compare and calibrate number formats; what each of them costs.
    #[command(alias = "policy")]
    Precision(PrecisionArgs),
    /// Find the cheapest number formats that keep the actions, by measuring.
    Tune(TuneArgs),
    /// Show what is in a checkpoint or a dataset.
    Inspect(InspectArgs),
    /// Print what makes a shell complete commands and options.
    Completions(CompletionsArgs),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        match self {
            Command::Demo(args) => demo::run(&args),
            Command::Eval(args) => eval::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Drive(args) => drive::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Compare(args) => compare::run(&args),
            Command::Diagnose(args) => diagnose::run(&args),
            Command::Record(args) => record::run(&args),
            Command::Export(args) => export::run(&args),
            Command::Engine(args) => engine::run(&args),
            Command::Faults(args) => faults::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Precision(args) => precision::run(&args),
            Command::Tune(args) => tune::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Completions(args) => completions::run(&args, &mut Cli::command()),
        }
    }
}

/// The arguments with `--option_name` written `--option-name`: both are accepted, as the official scripts do.
pub fn with_dashes(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.map(|arg| match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) =
                text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let name = name.replace('_', "-");
            OsString::from(value.map_or(name.clone(), |value| format!("{name}={value}")))
        }
        _ => OsStr::to_os_string(&arg),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(args: &[&str]) -> EvalArgs {
        let all = ["steady", "eval"].iter().chain(args).map(OsString::from);
        match Cli::parse_from(with_dashes(all)).command {
            Command::Eval(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_official_command_line_is_understood() {
        let args = eval(&[
            "--model_path=a_b",
            "--dataset_path",
            "d_e",
            "--embodiment_tag",
            "GR1",
            "--traj-ids",
            "0",
            "1",
            "2",
        ]);
        let defaults =
            (args.steps, args.action_horizon, args.denoising_steps(), args.skip_timing_steps, args.seed);
        assert_eq!((args.checkpoint, args.dataset_path), (vec!["a_b".into()], vec!["d_e".into()]));
        let episodes = ["0", "1", "2"].map(|word| word.parse().expect("an episode"));
        assert_eq!((args.traj_ids, args.embodiment_tag.as_deref()), (episodes.to_vec(), Some("GR1")));
        assert_eq!(defaults, (200, 16, 4, 1, 42));
    }

    /// Every command below `command`, with the path to it.
    fn all(command: &clap::Command, path: String, found: &mut Vec<(String, clap::Command)>) {
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name());
            found.push((path.clone(), below.clone()));
            all(below, path, found);
        }
    }

    #[test]
    fn options_of_several_commands_have_the_same_names_in_all() {
        let mut commands = Vec::new();
        all(&Cli::command(), "steady".to_owned(), &mut commands);
        let mut checkpoints = 0;
        for (path, command) in commands {
            for option in command.get_arguments() {
                let also: Vec<&str> = option.get_all_aliases().unwrap_or_default();
                let expected: &[&str] = match option.get_long() {
                    Some("checkpoint") => &["model-path"],
                    Some("dataset-path") => &["dataset"],
                    Some("model-path" | "dataset" | "tag" | "embodiment") => panic!("{path}: {option:?}"),
                    _ => continue,
                };
                assert_eq!(also, expected, "{path}: {option:?}");
                checkpoints += usize::from(option.get_long() == Some("checkpoint"));
            }
        }
        assert!(checkpoints >= 13, "{checkpoints}");
    }

    /// What is not decided there is not tested there.
    #[test]
    fn the_table_of_options_has_every_option() {
        let table = include_str!("../tests/cli/options.txt");
        let listed: Vec<&str> = table
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(" | ").map(|(option, _)| option))
            .collect();
        let mut commands = Vec::new();
        all(&Cli::command(), String::new(), &mut commands);
        let mut found = Vec::new();
        for (path, command) in commands.iter().filter(|(_, command)| !command.has_subcommands()) {
            let options = command.get_arguments().filter_map(|option| option.get_long());
            found.extend(options.map(|option| format!("{} | --{option}", path.trim_start())));
        }
        found.sort();
        let mut expected: Vec<String> = listed.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}
