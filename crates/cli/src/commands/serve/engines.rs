//! Engines of a group of models: opened, tried on each of its models, and on demand compared with the reference.

use super::ServeArgs;
use super::models::{Group, On};
use super::trial::{Comparison, Expected, MadeUp, Trial};
use crate::engines::Options;
use crate::options::engine_precision;
use crate::output::note;
use anyhow::{Context, Result, bail};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_serve::Placed;

/// The engines of a group.
pub struct Opened {
    pub engines: Vec<Placed>,
    pub precision: PrecisionPolicy,
    /// How long an inference of each model takes on the first engine.
    pub seconds: Vec<f64>,
    /// Whether --verify holds, where that was asked for.
    pub holds: bool,
}

/// An engine, and how it did on each model.
struct Tried {
    placed: Placed,
    trials: Vec<Trial>,
}

/// One engine is opened first: what it compiles and keeps the others need not compile again, and those are opened side
/// by side.
///
/// # Errors
/// Number formats that do not fit a model; an engine that cannot be opened or run; engines of several kinds.
pub fn open(group: &Group, args: &ServeArgs) -> Result<Opened> {
    let Group { on, models, .. } = group;
    let loaded = engine_precision(on.precision.as_deref(), &on.engine)?;
    let fitting = models.iter().map(|model| Ok(model.session.precision(loaded.clone())?));
    let precision = fitting.collect::<Result<Vec<_>>>()?.remove(0);
    let made_up: Vec<_> = models.iter().map(|model| MadeUp::new(&model.session, args.seed)).collect();
    let places = places(on, &args.engine.options.engines());
    let one = |options: &Options| {
        let model = models[0].session.parts.model.clone();
        let tried = try_one(on, options, model, &precision, &made_up, usize::from(args.max_batch));
        tried.with_context(|| match options.device.filter(|_| places.len() > 1) {
            Some(device) => format!("device {device}"),
            None => on.engine.to_string(),
        })
    };
    let (first, rest) = places.split_first().context("--replicas: expected at least one, found none")?;
    let mut tried = vec![one(first)?];
    std::thread::scope(|scope| -> Result<()> {
        let others: Vec<_> = rest.iter().map(|options| scope.spawn(|| one(options))).collect();
        for other in others {
            tried.push(other.join().map_err(|_| anyhow::anyhow!("an engine ended unexpectedly"))??);
        }
        Ok(())
    })?;
    let name = tried[0].placed.engine.name();
    if let Some(other) = tried.iter().find(|other| other.placed.engine.name() != name) {
        let other = other.placed.engine.name();
        bail!("--device: expected engines of one kind behind one queue, found {name} and {other}");
    }
    let holds = !args.verify || verify(group, &tried, &precision, &made_up)?;
    let seconds = tried[0].trials.iter().map(|trial| trial.seconds).collect();
    Ok(Opened { engines: tried.into_iter().map(|tried| tried.placed).collect(), precision, seconds, holds })
}

/// Options for each engine: those of each device, as often as there are replicas.
fn places(on: &On, options: &Options) -> Vec<Options> {
    let devices: Vec<Option<usize>> = match on.devices.is_empty() {
        true => vec![None],
        false => on.devices.iter().copied().map(Some).collect(),
    };
    let of = |device: Option<usize>| vec![Options { device, ..options.clone() }; on.replicas];
    devices.into_iter().flat_map(of).collect()
}

fn try_one(
    on: &On,
    options: &Options,
    model: Model,
    precision: &PrecisionPolicy,
    made_up: &[MadeUp],
    max_batch: usize,
) -> Result<Tried> {
    let backend = on.engine.backend(options)?;
    let mut engine = backend.open(model, precision.clone(), on.denoising_steps)?;
    let device = backend.device()?;
    let device = options.device.map_or(device.clone(), |number| format!("{device} ({number})"));
    let trials = made_up.iter().map(|made_up| Trial::run(made_up, engine.as_mut(), max_batch));
    let trials = trials.collect::<Result<Vec<_>>>()?;
    Ok(Tried { placed: Placed { engine, device }, trials })
}

/// Whether every engine gives the reference's actions for every model.
fn verify(group: &Group, tried: &[Tried], precision: &PrecisionPolicy, made_up: &[MadeUp]) -> Result<bool> {
    let mut all = true;
    for (place, (model, made_up)) in group.models.iter().zip(made_up).enumerate() {
        let expected = Expected::compute(made_up, precision, group.on.denoising_steps)?;
        for Tried { placed, trials } in tried {
            let comparison = expected.compare(&trials[place])?;
            let Comparison { found, limit } = comparison;
            let verdict = if comparison.holds() { "holds" } else { "does not hold" };
            let of = match (tried.len(), group.models.len()) {
                (1, 1) => String::new(),
                _ => format!("{} on {}: ", model.name, placed.device),
            };
            note!(
                "verify: {of}actions {found:.1e} relative L2 from the reference in f32, at most {limit:.1e}: {verdict}"
            );
            all &= comparison.holds();
        }
    }
    Ok(all)
}
