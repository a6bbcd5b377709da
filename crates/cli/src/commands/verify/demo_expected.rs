//! Expected results of the demo: the official code's actions on whole episodes, from the same noise.

use super::{Measure, Ran, Row, VerifyArgs};
use crate::options::demo;
use crate::report::metrics;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::policy::Parts;
use steadyhand_gr00t::session::{DatasetAtHand, NoiseSource, RolloutConfig, Stale, Tensors, rollout};
use steadyhand_lerobot::Dataset;

/// Physical actions in f32, decoder and processor included. Measured: 1.4e-7; times 70, for another libm and
/// another order of summation.
const F32_LIMIT: f64 = 1e-5;
/// Change of an episode's MSE in f32. Measured: 2.2e-7; times 45.
const F32_MSE_LIMIT: f64 = 1e-5;
/// Change of an episode's MSE in other precisions, against the official bf16. Measured: 4.0e-3 in bf16, 6.8e-3 in
/// mixed; times 1.5.
const BF16_MSE_LIMIT: f64 = 1e-2;
/// Actions in other precisions: the official bf16 actions' distance from f32, times this.
const OFFICIAL_BF16_FACTOR: f64 = 1.2;

/// The official script's `--steps` and `--action-horizon`, which the fixtures were made with.
const STEPS: usize = 200;
const ACTION_HORIZON: usize = 16;
/// Euler steps of the fixtures.
const DENOISING_STEPS: usize = 4;

/// MSE by precision.
type Summary = BTreeMap<String, BTreeMap<String, Errors>>;

#[derive(serde::Deserialize)]
struct Errors {
    mse: f64,
}

/// Runs every episode that the folder has results for.
pub(super) fn verify(folder: &Path, label: &str, args: &VerifyArgs, rows: &mut Vec<Row>) -> Result<Ran> {
    let (checkpoint, dataset) = subject(folder, args)?;
    let precision = args.engine.precision()?;
    DatasetAtHand::new(&dataset, Stale::Refuse).check(&precision)?;
    let parts = Parts::load(&checkpoint, None, args.tokenizer.as_deref())?;
    let processor = &parts.processor;
    rollout::check_horizon(processor.modalities(), processor.embodiment_tag(), ACTION_HORIZON)?;
    let precision = parts.precision(precision)?;
    let exact = precision.name() == "f32";
    // Every episode starts from recorded noise: a seed is not asked.
    let mut policy = parts.policy(args.engine.backend()?.as_ref(), precision, DENOISING_STEPS, 0)?;
    let dataset = Dataset::open(&dataset)?;
    let path = folder.join("summary.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let summary: Summary = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let official = if exact { "f32" } else { "bf16" };
    for (name, errors) in &summary {
        let Some(index) = name.strip_prefix("episode_").and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        let expected = Tensors::read(&folder.join(format!("{name}.safetensors")))?;
        let config = RolloutConfig {
            steps: STEPS,
            action_horizon: ACTION_HORIZON,
            noise: NoiseSource::Recorded(folder.to_path_buf()),
        };
        let episode = dataset.episode(index)?;
        let rollout = rollout::run(&mut policy, &episode, &config, &mut || Ok(()))?;
        let found = rollout.prediction.concat();
        let reference = actions(&expected, "f32", found.len())?;
        let own = relative_l2(actions(&expected, official, found.len())?, reference);
        let limit = if exact { F32_LIMIT } else { own * OFFICIAL_BF16_FACTOR };
        rows.push(Row {
            fixture: label.to_owned(),
            name: format!("{name} actions"),
            found: relative_l2(&found, reference),
            limit: args.max_relative_l2.unwrap_or(limit),
            what: Measure::RelativeL2,
            note: if exact { String::new() } else { format!("bf16 {own:.2e} from f32") },
        });
        let expected =
            errors.get(official).with_context(|| format!("{}: {name}.{official}", path.display()))?;
        let columns = 0..rollout.ground_truth[0].len();
        let mse = metrics::errors(&rollout.prediction, &rollout.ground_truth, columns)?.mse;
        rows.push(Row {
            fixture: label.to_owned(),
            name: format!("{name} MSE"),
            found: (mse - expected.mse).abs() / expected.mse,
            limit: if exact { F32_MSE_LIMIT } else { BF16_MSE_LIMIT },
            what: Measure::MseChange,
            note: format!("{official} {:.6}, ours {mse:.6}", expected.mse),
        });
    }
    let engine = policy.engine();
    Ok(Ran {
        checkpoint: args.fingerprint(&parts.model),
        engine: engine.name().to_owned(),
        precision: engine.precision().name().to_owned(),
    })
}

/// The official physical actions `[inferences, horizon, dim]`, flattened, up to the steps evaluated.
fn actions<'a>(expected: &'a Tensors, precision: &str, len: usize) -> Result<&'a [f32]> {
    let name = format!("actions.{precision}");
    let values = &expected.float(&name)?.values;
    match values.get(..len) {
        Some(values) => Ok(values),
        None => bail!(
            "{}: {name}: expected at least {len} values, found {}",
            expected.path().display(),
            values.len()
        ),
    }
}

/// Checkpoint and dataset of the results: those named, those beside the folder, or the embedded ones.
fn subject(folder: &Path, args: &VerifyArgs) -> Result<(PathBuf, PathBuf)> {
    let beside = |name: &str| folder.parent().map(|parent| parent.join(name)).filter(|path| path.is_dir());
    let found = |named: &Option<PathBuf>, name| named.clone().or_else(|| beside(name));
    match (found(&args.checkpoint, "checkpoint"), found(&args.dataset_path, "dataset")) {
        (Some(checkpoint), Some(dataset)) => Ok((checkpoint, dataset)),
        (checkpoint, dataset) => {
            let demo = demo::of_user()?;
            Ok((checkpoint.unwrap_or(demo.checkpoint), dataset.unwrap_or(demo.dataset)))
        }
    }
}
