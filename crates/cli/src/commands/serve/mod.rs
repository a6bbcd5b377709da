//! `steady serve`: a policy for clients of NVIDIA's `PolicyServer`.

mod args;
mod trial;

pub use args::ServeArgs;

use crate::interrupt;
use crate::options::demo;
use crate::outcome::Outcome;
use crate::output::note;
use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use steadyhand_gr00t::policy::{Group, View};
use steadyhand_gr00t::{Policy, Session, session};
use steadyhand_gr00t_lab::diagnosis::{MODE, PRECISION, PRECISION_NAME, RUN};
use steadyhand_serve::{Config, Record, Server};
use trial::Trial;

/// Opens the policy, tries it, and answers clients until it is told to end.
pub fn run(args: &ServeArgs) -> Result<Outcome> {
    let (address, http) = args.addresses()?;
    let (api_token, max_wait) = (args.api_token()?, args.max_wait()?);
    let checkpoint = match &args.checkpoint {
        Some(checkpoint) => checkpoint.clone(),
        None => demo::of_user()?.checkpoint,
    };
    let options = session::Options {
        embodiment_tag: args.embodiment_tag.clone(),
        tokenizer: args.tokenizer.clone(),
        seed: args.seed,
        shapes: steadyhand_gr00t::synthetic::Shapes { frame: args.frame, ..Default::default() },
        ..session::Options::default()
    };
    let session = Session::open(&checkpoint, &options)?;
    let precision = session.precision(args.engine.precision()?)?;
    let backend = args.engine.backend()?;
    let mut policy =
        session.parts.policy(backend.as_ref(), precision.clone(), args.denoising_steps, args.seed)?;

    let trial = Trial::run(&session, &mut policy, args.seed, usize::from(args.max_batch))?;
    if args.verify {
        let comparison = trial.compare(&session, &precision, args.denoising_steps)?;
        let (found, limit) = (comparison.found, comparison.limit);
        let verdict = if comparison.holds() { "holds" } else { "does not hold" };
        note!(
            "verify: actions {found:.1e} relative L2 from the reference in f32, at most {limit:.1e}: {verdict}"
        );
        if !comparison.holds() {
            return Ok(Outcome::Failure);
        }
    }

    let info = if http.is_some() { info(args, &session, &policy, trial.seconds)? } else { Value::Null };
    let what = format!(
        "{}, {} in {}, {:.1} ms an inference",
        policy.processor().embodiment_tag(),
        policy.engine().name(),
        precision.name(),
        1e3 * trial.seconds
    );
    if !address.ip().is_loopback() && api_token.is_none() {
        note!("everyone who reaches {} is answered; --api-token-file asks for a token", address.ip());
    }
    let record = args.record.as_ref().map(|folder| record(args, folder, &session, &policy));
    let config = Config {
        address,
        http,
        api_token,
        allow_kill: args.allow_kill,
        max_batch: usize::from(args.max_batch),
        max_wait,
        max_message: (args.max_message_mib as usize) << 20,
        max_clients: usize::from(args.max_clients),
        record,
        info,
    };
    let server = Server::bind(policy, config)?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on tcp://{} ({what})", server.address()?)?;
    if let Some(pages) = server.http_address() {
        writeln!(out, "pages on http://{pages}/")?;
    }
    out.flush()?;
    interrupt::end_gently();
    server.run(|| interrupt::signal().is_some())?;
    Ok(Outcome::Success)
}

/// How requests are recorded.
fn record(args: &ServeArgs, folder: &Path, session: &Session, policy: &Policy) -> Record {
    let precision = policy.engine().precision();
    let metadata = [
        ("checkpoint", session.parts.name()),
        ("engine", policy.engine().name().to_owned()),
        (PRECISION, precision.identity()),
        (PRECISION_NAME, precision.name().to_owned()),
        (MODE, RUN.to_owned()),
        ("denoising_steps", args.denoising_steps.to_string()),
    ];
    Record {
        folder: folder.to_path_buf(),
        limit: u64::from(args.record_limit_mib.unwrap_or(1024)) << 20,
        fingerprint: session.parts.fingerprint(),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        tell: |what| note!("{what}"),
    }
}

/// What `/info` shows.
fn info(args: &ServeArgs, session: &Session, policy: &Policy, seconds: f64) -> Result<Value> {
    let described = policy.describe();
    let group = |group: &Group| json!({"name": group.name, "steps": group.delta_indices, "dim": group.dim});
    let view = |view: &View| json!({"name": view.name, "steps": view.delta_indices});
    Ok(json!({
        "steady": env!("CARGO_PKG_VERSION"),
        "checkpoint": session.parts.name(),
        "fingerprint": session.parts.fingerprint(),
        "embodiment_tag": described.embodiment_tag,
        "views": described.views.iter().map(view).collect::<Vec<_>>(),
        "state": described.state.iter().map(group).collect::<Vec<_>>(),
        "actions": described.actions.iter().map(group).collect::<Vec<_>>(),
        "engine": policy.engine().name(),
        "precision": policy.engine().precision().name(),
        "precision_identity": policy.engine().precision().identity(),
        "denoising_steps": args.denoising_steps,
        "seed": args.seed,
        "max_batch": args.max_batch,
        "inference_ms": 1e3 * seconds,
    }))
}
