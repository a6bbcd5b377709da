//! `steady export`: a checkpoint's model as a file that other runtimes read.

use crate::Outcome;
use crate::args::{ExportArgs, ExportFormat, OnnxArgs};
use crate::engines;
use anyhow::{Context, Result, ensure};
use std::time::Instant;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::export::{Export, Layout};
use steadyhand_gr00t::model::Model;

/// Exports and says what was written.
pub fn run(args: &ExportArgs) -> Result<Outcome> {
    match &args.format {
        ExportFormat::Onnx(args) => onnx(args)?,
    }
    Ok(Outcome::Success)
}

fn onnx(args: &OnnxArgs) -> Result<()> {
    let started = Instant::now();
    let config = Config::load(&args.checkpoint)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let model = Model::load(&checkpoint, config)?;
    let denoising_steps = args.denoising_steps.unwrap_or(model.config.num_inference_timesteps);
    ensure!(denoising_steps > 0, "--denoising-steps: expected at least 1, found 0");
    ensure!(args.state_horizon > 0, "--state-horizon: expected at least 1, found 0");
    let policy = engines::policy(&args.precision, &args.checkpoint, &model, None)?;
    let export = Export {
        component: args.component,
        policy: &policy,
        products: args.products.into(),
        opset: args.opset,
        names: args.io_names.into(),
        layout: Layout { images: args.image.clone(), state_horizon: args.state_horizon, denoising_steps },
    };
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be created", folder.display()))?;
    }
    let fingerprint = checkpoint.fingerprint();
    let written = export.write(&model, &fingerprint, &args.out)?;
    println!("{}: {} nodes, opset {}", written.graph.display(), written.nodes, args.opset);
    println!("{}: {:.1} MB", written.data.display(), written.data_bytes as f64 / 1e6);
    println!("checkpoint {fingerprint}, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
