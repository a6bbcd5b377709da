//! `steady precision calibrate`: the largest magnitudes that linear layers multiply, found by running the reference.

use super::args::CalibrateArgs;
use crate::output::say;
use crate::report::make_folder_of;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::{Calibration, PrecisionPolicy};
use steadyhand_gr00t::session::{Frames, spread};

pub(super) fn run(args: &CalibrateArgs) -> Result<()> {
    let session = args.source.open(args.seed, false)?;
    make_folder_of(&args.out)?;
    let dataset = session.dataset().context("--dataset-path: expected one to calibrate on, found none")?;
    let count = args.frames as usize;
    let frames = spread(dataset, &args.traj_ids, count)?.values().map(Vec::len).sum();
    let steps = usize::from(args.denoising_steps);
    let (model, processor) = (session.parts.model.clone(), &session.parts.processor);

    let collector = Collector::default();
    let mut engine =
        CpuEngine::new(model, PrecisionPolicy::preset("f32")?, steps).with_intervention(&collector);
    let style = ProgressStyle::with_template("[{bar:40}] {pos}/{len} frames, {eta} left")?;
    let progress = ProgressBar::new(frames as u64).with_style(style.progress_chars("=> "));
    let chosen = Frames::Spread { episodes: &args.traj_ids, count, seed: args.seed };
    session.for_each(chosen, |frame| {
        engine.infer(&[frame.input(processor)?], None)?;
        progress.inc(1);
        Ok(())
    })?;
    progress.finish_and_clear();
    let amax = collector.amax(args.percentile)?;
    let calibration = Calibration::new(
        session.parts.fingerprint(),
        processor.embodiment_tag(),
        session.dataset_hash()?.unwrap_or_default(),
        frames,
        steps,
        args.percentile,
        amax,
    );
    calibration.save(&args.out)?;
    let Calibration { checkpoint, embodiment_tag, dataset, amax, .. } = &calibration;
    let sites = amax.len();
    say!("{}: {sites} sites, {frames} frames, {steps} Euler steps", args.out.display())?;
    say!("checkpoint {checkpoint}, embodiment {embodiment_tag}, dataset {dataset}")?;
    Ok(())
}
