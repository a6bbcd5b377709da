//! What an engine's recording declares, held against the options.

use super::args::DiagnoseArgs;
use super::scene::Scene;
use crate::engines::{Options, remote};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_lab::diagnosis::{ISOLATED, Inputs, MODE, PRECISION, PRECISION_NAME, RUN, precision_of};

/// What the engine is judged by.
pub struct Declared {
    /// The precision that it ran at.
    pub precision: PrecisionPolicy,
    /// What its tensors were computed from.
    pub inputs: Inputs,
    /// What had to be inferred.
    pub notes: Vec<String>,
}

impl Declared {
    /// From the options, and from what a server says of itself.
    fn of_server(args: &DiagnoseArgs, scene: &Scene, options: &Options) -> Result<Self> {
        let (given, origin) = (args.b_precision.as_deref(), args.b.to_string());
        let address = options.server.address(args.b.argument())?;
        let modalities = scene.processor.modalities();
        let mut notes = Vec::new();
        let precision = match (options.server.connect(address, Some(modalities))?.precision()?, given) {
            (Some((said, name)), given) => {
                said_of_itself(scene, given, (&said, Some(&name)), (&origin, Path::new(&origin)))?
            }
            (None, Some(given)) => scene.policy(given)?,
            (None, None) => {
                let taken = args.b.precision()?;
                notes.push(format!(
                    "the server does not say its precision: {} is taken (--b-precision says)",
                    taken.name()
                ));
                scene.policy(taken)?
            }
        };
        Ok(Declared { precision, inputs: Inputs::Own, notes })
    }

    /// From the options, and from the metadata and the tensors of a trace.
    ///
    /// # Errors
    /// A trace that cannot be read; options that contradict what it says of itself.
    pub fn new(args: &DiagnoseArgs, scene: &Scene, options: &Options) -> Result<Self> {
        let given = &args.b_precision;
        if args.b.name() == remote::KIND.name {
            return Self::of_server(args, scene, options);
        }
        let inputs = if args.isolated { Inputs::Recorded } else { Inputs::Own };
        let Some(folder) = args.b.argument().filter(|_| args.b.name() == "trace") else {
            let precision = match given {
                Some(given) => scene.policy(given.as_str())?,
                None => scene.policy(args.b.precision()?)?,
            };
            return Ok(Declared { precision, inputs, notes: Vec::new() });
        };
        let trace = Trace::open(Path::new(folder))?;
        let said = |key: &str| trace.metadata().get(key).map(String::as_str);
        expect(
            folder,
            "denoising_steps",
            said("denoising_steps"),
            "--denoising-steps",
            scene.denoising_steps,
        )?;
        expect(folder, "episode", said("episode"), "--traj-id", scene.episode)?;
        // A seed of noise that was recorded somewhere else says nothing.
        if args.observations.noise.is_none() {
            expect(folder, "seed", said("seed"), "--seed", args.observations.seed())?;
        }
        steps(folder, said("steps"), scene)?;
        let mut notes = Vec::new();
        let precision = match (given, said(PRECISION)) {
            (given, Some(said_precision)) => {
                let manifest = Path::new(folder).join("manifest.json");
                said_of_itself(
                    scene,
                    given.as_deref(),
                    (said_precision, said(PRECISION_NAME)),
                    (folder, &manifest),
                )?
            }
            (Some(given), None) => scene.policy(given.as_str())?,
            (None, None) => {
                let seen = precision_of(&trace);
                notes.push(format!(
                    "the trace does not say its precision: {seen} is taken, as its values look (--b-precision says)"
                ));
                scene.policy(seen)?
            }
        };
        let inputs = match said(MODE) {
            Some(ISOLATED) => Inputs::Recorded,
            Some(RUN) | None => inputs,
            Some(other) => {
                anyhow::bail!("{folder}: metadata `{MODE}`: expected {RUN} or {ISOLATED}, found `{other}`")
            }
        };
        ensure!(
            !(args.isolated && said(MODE) == Some(RUN)),
            "--isolated: {folder} says that its tensors are those of one run"
        );
        Ok(Declared { precision, inputs, notes })
    }
}

/// The precision that an engine says it ran at; `--b-precision`, where it is `given`, must say the same. `origin` and
/// `file` are who says it.
fn said_of_itself(
    scene: &Scene,
    given: Option<&str>,
    (said, name): (&str, Option<&str>),
    (origin, file): (&str, &Path),
) -> Result<PrecisionPolicy> {
    let Some(given) = given else {
        let recorded = PrecisionPolicy::from_identity(said, file)?;
        return scene.policy(match name {
            Some(name) => recorded.named(name),
            None => recorded,
        });
    };
    let given = scene.policy(given)?;
    ensure!(
        given.identity() == said,
        "--b-precision: expected {}, which {origin} says the engine ran at, found {}",
        one_line(said),
        one_line(&given.identity())
    );
    Ok(given)
}

/// A policy's identity within a sentence.
fn one_line(identity: &str) -> String {
    identity.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fails where a trace says another number than an option.
fn expect<T: ToString>(folder: &str, key: &str, said: Option<&str>, option: &str, found: T) -> Result<()> {
    let found = found.to_string();
    match said {
        Some(said) => {
            ensure!(said == found, "{option}: expected {said}, the {key} of {folder}, found {found}");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Fails where a trace was recorded at other steps of the episode; it may have fewer or more of them.
fn steps(folder: &str, said: Option<&str>, scene: &Scene) -> Result<()> {
    let Some(said) = said else { return Ok(()) };
    let listed = said.trim_matches(['[', ']']).split(',').map(str::trim).filter(|step| !step.is_empty());
    let listed: Vec<usize> = listed
        .map(|step| step.parse().with_context(|| format!("{folder}: metadata `steps`: found `{said}`")))
        .collect::<Result<_>>()?;
    let same = listed.iter().zip(&scene.steps).all(|(a, b)| a == b);
    ensure!(
        same,
        "--action-horizon: expected steps {listed:?} as in {folder}, found {:?}: the spacing differs",
        scene.steps
    );
    Ok(())
}
