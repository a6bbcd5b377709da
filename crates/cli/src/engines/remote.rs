//! `remote:HOST:PORT`: a policy that a server has, asked as a robot asks it.

use super::{Asked, Examined, Kind, Open, Options};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::time::Duration;
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_serve::{Access, Address, Asking, Noise, Remote};

/// How long a reply is waited for unless an option says otherwise.
const REPLY_TIMEOUT: f64 = 60.0;

pub const KIND: Kind = Kind {
    name: "remote",
    form: "remote:HOST:PORT",
    about: "a policy server, ours or NVIDIA's, by its actions",
    exchanges: false,
    open: Open::Examined {
        // The official precision.
        precision: "bf16",
        options: &["--host", "--port", "--api-token", "--remote-model", "--reply-timeout"],
        fits: |text| address(text).is_some(),
        noise: |_| None,
        open,
    },
};

/// Where a policy server is, and how it is asked.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub api_token: Option<String>,
    pub model: Option<String>,
    /// In seconds.
    pub reply_timeout: Option<f64>,
}

/// How a policy server is asked.
#[derive(Debug, Clone, Default, Args)]
pub struct AskArgs {
    /// The api_token that remote's server asks for.
    #[arg(long, value_name = "TOKEN")]
    pub api_token: Option<String>,
    /// Which of several models that remote's server has is asked; the first one otherwise.
    #[arg(long, value_name = "NAME")]
    pub remote_model: Option<String>,
    /// How long remote's server may take for a reply, in seconds; its first one may have to compile kernels. [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub reply_timeout: Option<f64>,
}

/// Where a policy server is, and how it is asked.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerArgs {
    /// Where remote's server is, unless remote:HOST:PORT says so. [default: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Port of remote's server. [default: 5555]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    #[command(flatten)]
    pub ask: AskArgs,
}

impl AskArgs {
    /// The same options as engines take them.
    pub fn options(&self) -> Server {
        let AskArgs { api_token, remote_model: model, reply_timeout } = self.clone();
        Server { host: None, port: None, api_token, model, reply_timeout }
    }
}

impl ServerArgs {
    /// The same options as engines take them.
    pub fn options(&self) -> Server {
        Server { host: self.host.clone(), port: self.port, ..self.ask.options() }
    }
}

impl Server {
    /// The address: of `HOST:PORT` behind the engine's name, or of the options.
    ///
    /// # Errors
    /// Both say one.
    pub fn address(&self, argument: Option<&str>) -> Result<Address> {
        match argument.and_then(address) {
            Some(address) => {
                for (option, given) in [("--host", self.host.is_some()), ("--port", self.port.is_some())] {
                    ensure!(!given, "{option}: expected with --engine remote, found with remote:{address}");
                }
                Ok(address)
            }
            None => Ok(Address {
                host: self.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned()),
                port: self.port.unwrap_or(5555),
            }),
        }
    }

    /// Connects to the server. What it observes and does must be what `checkpoint` says, where that is known.
    ///
    /// # Errors
    /// As [`Remote::open`]; a timeout that is none.
    pub fn connect(&self, address: Address, checkpoint: Option<&EmbodimentModalities>) -> Result<Remote> {
        let seconds = self.reply_timeout.unwrap_or(REPLY_TIMEOUT);
        ensure!(
            seconds > 0.0 && seconds <= 86_400.0,
            "--reply-timeout: expected above 0 and at most 86400, found {seconds}"
        );
        let patience = Duration::from_secs_f64(seconds);
        let access = Access { api_token: self.api_token.clone(), model: self.model.clone(), patience };
        Ok(Remote::open(address, access, checkpoint)?)
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then(|| Address { host: host.to_owned(), port })
}

/// Asks for the scene's actions, from the noise that the reference starts from.
fn open(text: &str, asked: &Asked) -> Result<Examined> {
    let Asked { scene, options: Options { server, .. }, .. } = asked;
    let seed = asked.seed.with_context(|| {
        format!("--noise: expected a seed with remote:{text}, which is told what noise to draw and not the noise itself")
    })?;
    let modalities = scene.session.parts.processor.modalities();
    let mut remote = server.connect(server.address(Some(text))?, Some(modalities))?;
    let episode = u32::try_from(scene.episode).context("--traj-id: expected below 2^32")?;
    remote.reset(episode)?;
    let mut chunks = Vec::with_capacity(scene.observations.len());
    for (inference, observation) in scene.observations.iter().enumerate() {
        let noise = Noise { seed, episode, inference: inference as u32 };
        let given = remote.ask(observation, &Asking { noise: Some(noise), rtc: None })?;
        ensure!(
            given.noise == Some(noise),
            "remote:{text}: the server does not say that it started from the noise that was asked for, so its actions differ \
             from the reference's by noise and cannot be held against them: record the noise and the normalized actions \
             where the policy runs and name them, as expected:DIR#NAME or trace:DIR (docs/DIAGNOSIS.md)"
        );
        chunks.push(given.chunk);
    }
    Ok(Examined::Physical(chunks))
}
