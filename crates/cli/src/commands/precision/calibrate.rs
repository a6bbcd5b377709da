//! `steady precision calibrate`: the largest magnitudes that linear layers multiply, found by running the reference.

use super::args::CalibrateArgs;
use crate::options::chosen;
use crate::output::say;
use crate::progress::Progress;
use crate::report::output::claim;
use anyhow::{Context, Result};
use steadyhand_gr00t::calibration::Collector;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::precision::{Calibration, PrecisionPolicy};
use steadyhand_gr00t::session::{Frames, spread};

pub(super) fn run(args: &CalibrateArgs) -> Result<()> {
    let session = args.source.open(args.seed, false)?;
    claim(&args.out)?;
    let dataset = session.dataset().context("--dataset-path: expected one to calibrate on, found none")?;
    let count = args.frames as usize;
    let episodes = chosen(&args.traj_ids, dataset)?;
    let frames = spread(dataset, &episodes, count)?.values().map(Vec::len).sum();
    let steps = usize::from(args.denoising_steps);
    let (model, processor) = (session.parts.model.clone(), &session.parts.processor);

    let collector = Collector::default();
    let mut engine =
        CpuEngine::new(model, PrecisionPolicy::preset("f32")?, steps).with_intervention(&collector);
    let progress = Progress::new("calibrating", "frames", frames as u64);
    let chosen = Frames::Spread { episodes: &episodes, count, seed: args.seed };
    session.for_each(chosen, |frame| {
        engine.infer(&[frame.input(processor)?], None)?;
        progress.inc();
        Ok(())
    })?;
    drop(progress);
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
