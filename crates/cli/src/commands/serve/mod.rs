//! `steady serve`: policies for clients of NVIDIA's `PolicyServer`.

mod args;
mod engines;
mod models;
mod trial;

pub use args::ServeArgs;

use crate::interrupt;
use crate::outcome::Outcome;
use crate::output::note;
use anyhow::Result;
use models::Group;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use steadyhand_gr00t::policy::{Described, Group as JointGroup, View};
use steadyhand_gr00t_lab::diagnosis::{MODE, PRECISION, PRECISION_NAME, RUN};
use steadyhand_serve::{Config, Deployment, Model, Record, Server};

/// Opens models and engines, tries them, and answers clients until it is told to end.
pub fn run(args: &ServeArgs) -> Result<Outcome> {
    let ip = args.address()?;
    let (api_token, max_wait) = (args.api_token()?, args.max_wait()?);
    let groups = models::open(&models::wanted(args)?, args)?;
    let count = groups.iter().map(|group| group.models.len()).sum::<usize>();
    let (mut deployments, mut shown, mut said) = (Vec::new(), Vec::new(), Vec::new());
    let mut holds = true;
    for group in &groups {
        let opened = engines::open(group, args)?;
        holds &= opened.holds;
        if args.http_port.is_some() {
            shown.extend(info(args, group, &opened)?);
        }
        said.extend(lines(group, &opened, count));
        deployments.push(deployment(args, group, opened, count));
    }
    if !holds {
        return Ok(Outcome::Failure);
    }
    if !ip.is_loopback() && api_token.is_none() {
        note!("everyone who reaches {} is answered; --api-token-file asks for a token", ip);
    }
    // What is there of one model only is said beside the list of all, so that a page of one model reads as it is.
    let mut info = shown.first().cloned().unwrap_or_default();
    info.insert("models".to_owned(), shown.into_iter().map(Value::Object).collect());
    let config = Config {
        address: SocketAddr::new(ip, args.port),
        openpi: args.openpi_port.map(|port| SocketAddr::new(ip, port)),
        http: args.http_port.map(|port| SocketAddr::new(ip, port)),
        api_token,
        allow_kill: args.allow_kill,
        max_batch: usize::from(args.max_batch),
        max_wait,
        max_message: (args.max_message_mib as usize) << 20,
        max_clients: usize::from(args.max_clients),
        info,
        tell: |what| note!("{what}"),
    };
    let server = Server::bind(deployments, config)?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on tcp://{} ({})", server.address()?, said.join("; "))?;
    if let Some(openpi) = server.openpi_address() {
        writeln!(out, "OpenPI's clients on ws://{openpi}")?;
    }
    if let Some(pages) = server.http_address() {
        writeln!(out, "pages on http://{pages}/")?;
    }
    out.flush()?;
    interrupt::end_gently();
    server.run(|| interrupt::signal().is_some())?;
    Ok(Outcome::Success)
}

/// What is said of each model of a group.
fn lines(group: &Group, opened: &engines::Opened, models: usize) -> Vec<String> {
    let engines = opened.engines.len();
    let on = if engines == 1 { String::new() } else { format!(" on {engines} engines") };
    let kind = opened.engines.first().map_or("none", |placed| placed.engine.name());
    let line = |(model, seconds): (&models::Opened, &f64)| {
        let tag = model.session.parts.processor.embodiment_tag();
        let name = match models == 1 || model.name == tag {
            true => tag.to_owned(),
            false => format!("{} ({tag})", model.name),
        };
        format!("{name}, {kind} in {}{on}, {:.1} ms an inference", opened.precision.name(), 1e3 * seconds)
    };
    group.models.iter().zip(&opened.seconds).map(line).collect()
}

/// What the server is given of a group; `models` is how many there are in all groups.
fn deployment(args: &ServeArgs, group: &Group, opened: engines::Opened, models: usize) -> Deployment {
    let offer = |model: &models::Opened| {
        let parts = &model.session.parts;
        // Of several models each has a recording of its own.
        let folder = args.record.as_ref().map(|folder| match models {
            1 => folder.clone(),
            _ => folder.join(&model.name),
        });
        Model {
            name: model.name.clone(),
            processor: Arc::clone(&parts.processor),
            noise_shape: parts.noise_shape(),
            seed: args.seed,
            record: folder.map(|folder| record(args, folder, group, model, &opened)),
        }
    };
    let models = group.models.iter().map(offer).collect();
    Deployment { checkpoint: short(&group.checkpoint), engines: opened.engines, models }
}

/// What pages call a checkpoint: its folder's name, or that of synthetic sizes.
fn short(checkpoint: &Path) -> String {
    let name = checkpoint.file_name().unwrap_or(checkpoint.as_os_str());
    name.to_string_lossy().into_owned()
}

/// How requests are recorded.
fn record(
    args: &ServeArgs,
    folder: PathBuf,
    group: &Group,
    model: &models::Opened,
    opened: &engines::Opened,
) -> Record {
    let precision = &opened.precision;
    let engine = opened.engines.first().map_or("none", |placed| placed.engine.name());
    let metadata = [
        ("checkpoint", model.session.parts.name()),
        ("engine", engine.to_owned()),
        (PRECISION, precision.identity()),
        (PRECISION_NAME, precision.name().to_owned()),
        (MODE, RUN.to_owned()),
        ("denoising_steps", group.on.denoising_steps.to_string()),
    ];
    Record {
        folder,
        limit: u64::from(args.record_limit_mib.unwrap_or(1024)) << 20,
        fingerprint: model.session.parts.fingerprint(),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        tell: |what| note!("{what}"),
    }
}

/// What `/info` shows of each model of a group.
fn info(args: &ServeArgs, group: &Group, opened: &engines::Opened) -> Result<Vec<Map<String, Value>>> {
    let joints =
        |group: &JointGroup| json!({"name": group.name, "steps": group.delta_indices, "dim": group.dim});
    let view = |view: &View| json!({"name": view.name, "steps": view.delta_indices});
    let fingerprint = group.models.first().map(|model| model.session.parts.fingerprint());
    let shown = |(model, seconds): (&models::Opened, &f64)| {
        let parts = &model.session.parts;
        let described = Described::of(&parts.processor);
        let value = json!({
            "steady": env!("CARGO_PKG_VERSION"),
            "model": model.name,
            "checkpoint": parts.name(),
            "fingerprint": fingerprint,
            "embodiment_tag": described.embodiment_tag,
            "views": described.views.iter().map(view).collect::<Vec<_>>(),
            "state": described.state.iter().map(joints).collect::<Vec<_>>(),
            "actions": described.actions.iter().map(joints).collect::<Vec<_>>(),
            "engine": opened.engines.first().map(|placed| placed.engine.name().to_owned()),
            "precision": opened.precision.name(),
            "precision_identity": opened.precision.identity(),
            "denoising_steps": group.on.denoising_steps,
            "seed": args.seed,
            "max_batch": args.max_batch,
            "inference_ms": 1e3 * seconds,
        });
        match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    };
    Ok(group.models.iter().zip(&opened.seconds).map(shown).collect())
}
