//! `steady policy calibrate`: the largest magnitudes that linear layers multiply, found by running the reference.

use super::args::CalibrateArgs;
use crate::calibration::dataset_hash;
use crate::commands::eval::load_parts;
use crate::demo_assets::{self, Demo};
use crate::episodes::Observations;
use crate::report::make_folder_of;
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write;
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::noise;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_lerobot::Dataset;

pub(super) fn run(args: &CalibrateArgs) -> Result<()> {
    let Demo { checkpoint, dataset: dataset_path } =
        demo_assets::unless_given(args.checkpoint.as_deref(), args.dataset_path.as_deref())?;
    make_folder_of(&args.out)?;
    let (processor, model) =
        load_parts(&checkpoint, args.embodiment_tag.as_deref(), args.tokenizer.as_deref())?;
    let dataset = Dataset::open(&dataset_path)?;
    let chosen = spread(&dataset, &args.traj_ids, args.frames as usize)?;
    let frames = chosen.values().map(Vec::len).sum();
    let steps = usize::from(args.denoising_steps);
    let [horizon, dim] = [model.config.action_horizon, model.config.max_action_dim];

    let collector = Collector::default();
    let mut engine =
        CpuEngine::new(model, PrecisionPolicy::preset("f32")?, steps).with_intervention(&collector);
    let style = ProgressStyle::with_template("[{bar:40}] {pos}/{len} frames, {eta} left")?;
    let progress = ProgressBar::new(frames as u64).with_style(style.progress_chars("=> "));
    for (index, rows) in chosen {
        let episode = dataset.episode(index)?;
        for observed in Observations::open(&processor, &episode, rows)? {
            let (row, observation) = observed?;
            let noise = noise::gaussian(args.seed, u32::try_from(index)?, u32::try_from(row)?, horizon, dim);
            engine.infer(&[prepare(&processor, &observation, noise)?], None)?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let amax = collector.amax(args.percentile)?;
    let calibration = Calibration::new(
        Checkpoint::open(&checkpoint)?.fingerprint(),
        processor.embodiment_tag(),
        &dataset_hash(&dataset_path)?,
        frames,
        steps,
        args.percentile,
        amax,
    );
    calibration.save(&args.out)?;
    let Calibration { checkpoint, embodiment_tag, dataset, amax, .. } = &calibration;
    let sites = amax.len();
    writeln!(
        std::io::stdout(),
        "{}: {sites} sites, {frames} frames, {steps} Euler steps",
        args.out.display()
    )?;
    writeln!(std::io::stdout(), "checkpoint {checkpoint}, embodiment {embodiment_tag}, dataset {dataset}")?;
    Ok(())
}

/// `frames` rows to observe, spread evenly over all rows of the episodes of these numbers, or of all episodes: the rows
/// of each episode.
pub fn spread(dataset: &Dataset, traj_ids: &[usize], frames: usize) -> Result<BTreeMap<usize, Vec<usize>>> {
    let mut episodes = traj_ids.to_vec();
    if episodes.is_empty() {
        episodes = (0..dataset.len()).collect();
    }
    episodes.sort_unstable();
    episodes.dedup();
    let last = dataset.len().checked_sub(1).context("the dataset has no episodes")?;
    let mut rows = Vec::new();
    for episode in episodes {
        ensure!(episode <= last, "--traj-ids: expected 0 to {last}, found {episode}");
        rows.extend((0..dataset.episode_meta(episode)?.length).map(|row| (episode, row)));
    }
    ensure!(!rows.is_empty(), "{}: no rows to observe", dataset.path().display());
    let count = frames.min(rows.len());
    let mut chosen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for frame in 0..count {
        let (episode, row) = rows[frame * rows.len() / count];
        chosen.entry(episode).or_default().push(row);
    }
    Ok(chosen)
}
