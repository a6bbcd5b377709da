//! `steady record`: the reference's tensors for some observations, to run other engines on and compare.

use crate::options::{ObservationArgs, precision};
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use anyhow::{Result, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_fidelity::{Trace, TraceWriter};
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::model::action_head::timestep_bucket;
use steadyhand_gr00t_lab::diagnosis::{
    FEATURES, MEMORY, MODE, OfInference, PRECISION, PRECISION_NAME, RUN, TapWriter,
};

#[derive(Debug, Args)]
pub struct RecordArgs {
    #[command(flatten)]
    pub observations: ObservationArgs,
    /// Number formats of the recorded run.
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub precision: String,
    /// Record the result of every operation, not only what enters and leaves the stages.
    #[arg(long)]
    pub all: bool,
    /// A folder that does not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Runs the reference and writes what it computed.
pub fn run(args: &RecordArgs) -> Result<Outcome> {
    // Known before anything is computed for it.
    ensure!(!args.out.exists(), "{}: expected a folder that does not exist yet", args.out.display());
    let scene = args.observations.scene(None)?;
    let parts = &scene.session.parts;
    let denoising_steps = usize::from(args.observations.denoising_steps);
    let formats = scene.session.precision(&args.precision)?;
    let metadata = [
        ("checkpoint", parts.name()),
        ("dataset", scene.session.observed()),
        ("embodiment_tag", parts.processor.embodiment_tag().to_owned()),
        ("episode", scene.episode.to_string()),
        ("steps", format!("{:?}", scene.steps)),
        ("seed", args.observations.seed().to_string()),
        (PRECISION, formats.identity()),
        (PRECISION_NAME, formats.name().to_owned()),
        (MODE, RUN.to_owned()),
        ("denoising_steps", denoising_steps.to_string()),
        (FEATURES, parts.model.topology.features.clone()),
        (MEMORY, parts.model.topology.memory().to_owned()),
        ("image_token_index", parts.model.config.image_token().to_string()),
    ];
    let metadata: BTreeMap<String, String> =
        metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut engine = CpuEngine::new(parts.model.clone(), formats, denoising_steps);
    let mut writer = TraceWriter::create(&args.out, metadata)?;
    let progress = Progress::new("recording", "inferences", scene.inputs.len() as u64);
    for (inference, input) in scene.inputs.iter().enumerate() {
        write_input(&mut writer, inference, input, denoising_steps, &parts.model)?;
        let wanted = |name: &str| args.all || parts.model.topology.is_cut(without_step(name));
        let mut taps = TapWriter::new(&mut writer, inference, &wanted);
        engine.infer(std::slice::from_ref(input), Some(&mut taps))?;
        taps.finish()?;
        progress.inc();
    }
    writer.finish()?;
    drop(progress);
    let count = Trace::open(&args.out)?.names().len();
    say!("{}: {count} tensors of {} inferences", args.out.display(), scene.inputs.len())?;
    Ok(Outcome::Success)
}

/// What the model was given, under the names of the official inputs.
fn write_input(
    writer: &mut TraceWriter,
    inference: usize,
    input: &ModelInput,
    denoising_steps: usize,
    model: &Model,
) -> Result<()> {
    let name = |tensor: &str| OfInference::name(inference, tensor);
    for (index, image) in input.images.pixels().iter().enumerate() {
        let shape = [1, 3, image.height, image.width];
        writer.add(&name(&format!("pixel_values.{index}")), &shape, &image.data)?;
    }
    let integers =
        |values: &mut dyn Iterator<Item = i64>| -> Vec<u8> { values.flat_map(i64::to_le_bytes).collect() };
    let ids = integers(&mut input.input_ids.iter().map(|id| i64::from(*id)));
    writer.add_bytes(&name("input_ids"), Dtype::I64, &[1, input.input_ids.len()], &ids)?;
    if let Some(places) = input.token_places(model)? {
        let axes = (0..3).flat_map(|axis| places.iter().map(move |place| place[axis] as i64));
        let bytes = integers(&mut axes.into_iter());
        writer.add_bytes(&name("position_ids"), Dtype::I64, &[3, 1, places.len()], &bytes)?;
    }
    let slot = integers(&mut [input.embodiment_id as i64].into_iter());
    writer.add_bytes(&name("embodiment_id"), Dtype::I64, &[1], &slot)?;
    for step in 0..denoising_steps {
        let bucket = timestep_bucket(step, denoising_steps, model.config.num_timestep_buckets) as i64;
        let bytes = integers(&mut [bucket].into_iter());
        writer.add_bytes(&name(&format!("step.{step}.timestep")), Dtype::I64, &[1], &bytes)?;
    }
    Ok(())
}

/// The path of a tap.
fn without_step(name: &str) -> &str {
    name.strip_prefix("step.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, path)| path)
}
