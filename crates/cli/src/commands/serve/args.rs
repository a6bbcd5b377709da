//! The command line of `steady serve`.

use crate::engines::EngineSpec;
use crate::options::{Devices, EngineArgs, image_size};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(mut_arg("engine", |engine| {
    let help = format!("{}; fault:NAME[:weak]: the reference with a known fault", EngineSpec::running_help());
    engine.default_value("auto").value_parser(EngineSpec::served).help(help)
}))]
#[command(mut_arg("device", |device| {
    let help = "Numbers of the GPUs for cuda, such as 0,1: an engine on each, all behind one queue; the first GPU otherwise";
    device.value_name("NUMBERS").value_parser(Devices::several).help(help)
}))]
#[command(after_help = "\
Exit codes: 0 ended by Ctrl-C, SIGTERM or a client that may; 1 --verify does not hold; 2 bad input.

Examples:
  steady serve
  steady serve --model-path CHECKPOINT --embodiment-tag GR1 --host 0.0.0.0 --api-token-file token --http-port 8000
  steady serve --model-path CHECKPOINT --engine cuda --precision bf16 --device 0,1
  steady serve --models models.toml")]
pub struct ServeArgs {
    /// Checkpoint folder, the embedded demo's otherwise; also synth:n1.6 and synth:tiny.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Embodiment tag; may be left out where the checkpoint has only one. Of several each is a model of its own, which
    /// clients pick by its tag; they share the engines.
    #[arg(long, value_name = "TAG", num_args = 1..)]
    pub embodiment_tag: Vec<String>,
    /// A TOML file of models that clients pick by name: [[model]] with name, checkpoint, embodiment_tag, tokenizer, engine,
    /// precision, device, replicas and denoising_steps, of which all but checkpoint are the command's unless named.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["checkpoint", "embodiment_tag", "tokenizer"])]
    pub models: Option<PathBuf>,
    /// A tokenizer.json, or a folder with one or with vocab.json and merges.txt; the checkpoint's otherwise.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Address or name of the network that clients come from; 0.0.0.0 or * for all.
    #[arg(long, default_value = "127.0.0.1", value_name = "HOST")]
    pub host: String,
    /// Port for clients; 0 lets the system choose.
    #[arg(long, default_value_t = 5555, value_name = "PORT")]
    pub port: u16,
    /// Port for OpenPI's clients (a WebSocket) on the same host; none otherwise.
    #[arg(long, value_name = "PORT")]
    pub openpi_port: Option<u16>,
    /// Port of /healthz, /readyz, /metrics and /info on the same host; none otherwise.
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// A file whose first line every request must carry as its api_token.
    #[arg(long, value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// Obey the endpoint kill; otherwise it is refused.
    #[arg(long)]
    pub allow_kill: bool,
    /// Most observations, of any clients, that share an inference.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub max_batch: u8,
    /// How long an observation waits for others to share its inference; with --max-batch above 1. [default: 0]
    #[arg(long, value_name = "MS")]
    pub max_wait_ms: Option<f64>,
    /// Largest message in MiB.
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_message_mib: u32,
    /// Most clients at a time.
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_clients: u16,
    /// Record requests and replies into this folder, as a trace that diagnose and compare read.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
    /// Most MiB of the recording; nothing more is recorded then, and everyone is still answered. [default: 1024]
    #[arg(long, value_name = "MIB", requires = "record", value_parser = clap::value_parser!(u32).range(1..))]
    pub record_limit_mib: Option<u32>,
    /// Engines on each device, all behind one queue.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub replicas: u8,
    /// Euler steps of an inference.
    #[arg(long, default_value_t = 4)]
    pub denoising_steps: usize,
    /// Seed of the initial noise.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Size of the frames that the engine is tried with before clients are let in. [default: 480x640]
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size)]
    pub frame: Option<[usize; 2]>,
    /// First compare the engine's actions with those of the reference in f32, and end where they differ too much.
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl ServeArgs {
    /// The address of `--host`.
    ///
    /// # Errors
    /// A host that has no address.
    pub fn address(&self) -> Result<IpAddr> {
        match self.host.as_str() {
            "*" => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host => {
                let mut found =
                    (host, 0).to_socket_addrs().with_context(|| format!("--host {host}: no address"))?;
                Ok(found.next().with_context(|| format!("--host {host}: no address"))?.ip())
            }
        }
    }

    /// What every request must carry.
    ///
    /// # Errors
    /// A file that cannot be read or whose first line is empty.
    pub fn api_token(&self) -> Result<Option<String>> {
        let Some(file) = &self.api_token_file else { return Ok(None) };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("--api-token-file {}: cannot be read", file.display()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        ensure!(
            !token.is_empty(),
            "--api-token-file {}: expected a token in line 1, found none",
            file.display()
        );
        Ok(Some(token.to_owned()))
    }

    /// How long an observation waits for others.
    ///
    /// # Errors
    /// No time, or more than a minute; an inference of one, which waits for nobody.
    pub fn max_wait(&self) -> Result<std::time::Duration> {
        let Some(ms) = self.max_wait_ms else { return Ok(std::time::Duration::ZERO) };
        ensure!(self.max_batch > 1, "--max-wait-ms: expected with --max-batch above 1, found with 1");
        ensure!((0.0..=60_000.0).contains(&ms), "--max-wait-ms: expected 0 to 60000, found {ms}");
        Ok(std::time::Duration::from_secs_f64(ms / 1e3))
    }
}
