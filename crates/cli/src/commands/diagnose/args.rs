//! The options of `steady diagnose`.

use crate::engines::remote::AskArgs;
use crate::engines::{EngineSpec, Options, precision};
use crate::options::{EngineOptions, ObservationArgs};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// The reference.
    #[arg(long, default_value = "cpu:f32", value_parser = ["cpu:f32", "cpu"])]
    pub a: String,
    #[arg(long, value_name = "ENGINE", help = EngineSpec::help("The engine, with a preset or a .toml file as precision."))]
    pub b: EngineSpec,
    /// What the engine says it runs at, which its rounding is judged by: its own PRECISION, f32 for a fault, bf16
    /// for a recording otherwise.
    #[arg(long, value_parser = precision)]
    pub b_precision: Option<String>,
    /// The trace's tensors were computed stage by stage from the reference's recorded inputs.
    #[arg(long)]
    pub isolated: bool,
    /// Exchange components with the reference also where the actions lie within what rounding gives: cpu, cuda and
    /// fault engines, at the cost of 18 inferences of both.
    #[arg(long)]
    pub swaps: bool,
    #[command(flatten)]
    pub ask: AskArgs,
    #[command(flatten)]
    pub options: EngineOptions,
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Where diagnosis.json and diagnosis.html go.
    #[arg(long, default_value = "steady-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Where the tensors of running engines are kept until the end, in a folder of their own; the system's folder for
    /// temporary files otherwise.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

impl DiagnoseArgs {
    /// The options of engines.
    pub fn engines(&self) -> Options {
        Options { server: self.ask.options(), ..self.options.engines() }
    }
}
