//! `steady export`: a checkpoint's model as a file that other runtimes read.

use super::engine::target;
use crate::options::{NamesArg, ProductsArg, image_size, model, precision, refuse_unused};
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::output::claim;
use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Instant;
use steadyhand_external::tensorrt::Target;
use steadyhand_gr00t::export::{Component, DEFAULT_OPSET, Export, Layout};
use steadyhand_gr00t::policy;

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(subcommand)]
    pub format: ExportFormat,
}

#[derive(Debug, Subcommand)]
pub enum ExportFormat {
    /// An ONNX graph, and its tensors in a file beside it.
    Onnx(OnnxArgs),
}

#[derive(Debug, Args)]
pub struct OnnxArgs {
    /// Checkpoint folder; synth:n1.6 for random weights of the published size, synth:tiny for a very small model.
    #[arg(long, visible_alias = "model-path", value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// What is exported: policy, backbone, action_head, or a part as NVIDIA's exporter cuts them: vit, llm, dit,
    /// vl_self_attention (N1.7), state_encoder, action_encoder, action_decoder; or blocks of the DiT, dit.blocks.FIRST:END.
    #[arg(long, default_value = "policy")]
    pub component: Component,
    /// Number formats: f32, bf16 (as the official code rounds), fp16, mixed, mixed-fp16, fp8, or the path of a TOML
    /// file.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// How matrix products of narrow operands are written.
    #[arg(long, value_enum, default_value = "native")]
    pub products: ProductsArg,
    /// Version of ONNX's operators, 17 to 23.
    #[arg(long, default_value_t = DEFAULT_OPSET)]
    pub opset: i64,
    /// What the graph is for: tensorrt:8.5 takes opset 17, LayerNormalization in its parts and no bf16; also rtx,
    /// tensorrt:10, tensorrt:11.
    #[arg(long, value_name = "TARGET", value_parser = target, conflicts_with = "opset")]
    pub target: Option<Target>,
    /// The graph; its tensors go to FILE.data.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Names of inputs and outputs: ours, with floats in f32, or those of NVIDIA's exporter for a part that it cuts, with
    /// floats in the storage format.
    #[arg(long, value_enum, default_value = "steady")]
    pub io_names: NamesArg,
    /// Euler steps to unroll (action_head, policy); the checkpoint's number otherwise.
    #[arg(long)]
    pub denoising_steps: Option<usize>,
    /// Size of an image, once for each image of a prompt (vit, backbone, policy).
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = image_size)]
    pub image: Vec<[usize; 2]>,
    /// State rows of one observation (action_head, policy). [default: 1]
    #[arg(long)]
    pub state_horizon: Option<usize>,
}

/// Exports and says what was written.
pub fn run(args: &ExportArgs) -> Result<Outcome> {
    match &args.format {
        ExportFormat::Onnx(args) => onnx(args)?,
    }
    Ok(Outcome::Success)
}

fn onnx(args: &OnnxArgs) -> Result<()> {
    let started = Instant::now();
    let (steps, states) = (args.denoising_steps.is_some(), args.state_horizon.is_some());
    refuse_unused(args.component, !args.image.is_empty(), steps, states)?;
    let (model, fingerprint) = model(&args.checkpoint)?;
    let state_horizon = args.state_horizon.unwrap_or(1);
    let denoising_steps = args.denoising_steps.unwrap_or(model.config.num_inference_timesteps);
    ensure!(denoising_steps > 0, "--denoising-steps: expected at least 1, found 0");
    ensure!(state_horizon > 0, "--state-horizon: expected at least 1, found 0");
    let formats = policy::precision(&model, &args.precision, None)?;
    if let Some(target) = args.target {
        target.check(&formats, &args.component.sites(&model)?)?;
    }
    let opset = args.target.map_or(args.opset, Target::opset);
    let export = Export {
        component: args.component,
        policy: &formats,
        products: args.products.into(),
        opset,
        names: args.io_names.into(),
        layout: Layout { images: args.image.clone(), state_horizon, denoising_steps },
    };
    claim(&args.out)?;
    let mut data = args.out.clone().into_os_string();
    data.push(".data");
    let data = PathBuf::from(data);
    // Tensors say nothing of who wrote them; the graph beside them does.
    if !args.out.is_file() || data.is_dir() {
        claim(&data)?;
    }
    let progress = Progress::of_unknown_length("exporting");
    let written = export.write(&model, &fingerprint, &args.out)?;
    drop(progress);
    say!("{}: {} nodes, opset {}", written.graph.display(), written.nodes, opset)?;
    say!("{}: {:.1} MB", written.data.display(), written.data_bytes as f64 / 1e6)?;
    say!("checkpoint {fingerprint}, {:.1} s", started.elapsed().as_secs_f64())?;
    Ok(())
}
