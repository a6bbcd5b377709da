//! `steady engine run`: an engine on recorded inputs, its outputs as a trace.

use super::args::RunArgs;
use super::feeds::{Call, Recording};
use crate::outcome::Outcome;
use crate::output::say;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use steadyhand_external::bindings::{Binding, Runner, Tensor};
use steadyhand_external::chain::{Chain, Source, check_sources};
use steadyhand_external::feeds::part_of;
use steadyhand_external::onnxruntime::OnnxRunner;
use steadyhand_external::tensorrt::{EngineFiles, TensorRtEngine, Times};
use steadyhand_fidelity::{Trace, TraceWriter};
use steadyhand_gr00t::ops::onnx::file_metadata;
use steadyhand_gr00t_lab::diagnosis::{ISOLATED, MODE, PRECISION, RUN};

/// Runs the engine and says what was written.
pub fn run(args: &RunArgs) -> Result<Outcome> {
    check(args)?;
    ensure!(!args.out.exists(), "--out: {}: expected a folder that does not exist yet", args.out.display());
    let recording = Recording::new(Trace::open(&args.bindings)?)?;
    let mut opened = open(args)?;
    let runner = opened.runner();
    let files: Vec<String> = args.engine.iter().map(|file| file.display().to_string()).collect();
    let metadata = [
        ("engine", files.join(",")),
        ("recording", args.bindings.display().to_string()),
        ("denoising_steps", recording.denoising_steps.to_string()),
    ];
    let mut metadata: BTreeMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    metadata.extend(recording.origin());
    // A graph of a stage is fed what the recording has there, not what the engine's own stages made.
    let takes_features = runner.bindings().inputs().any(|input| input.name == "backbone_features");
    let is_stage = part_of(runner.bindings()).is_some() || takes_features;
    let mode = if is_stage { ISOLATED } else { RUN };
    metadata.insert(MODE.to_owned(), mode.to_owned());
    metadata.extend(runner.precision().map(|precision| (PRECISION.to_owned(), precision)));
    let calls = recording.calls(runner.bindings());
    // Nothing is written where a call fails.
    let mut outputs = Vec::new();
    for call in &calls {
        let inputs = inputs(&recording, runner, *call, args.round_inputs)?;
        for (name, tensor) in runner.run(inputs)? {
            outputs.extend(recording.output(runner.bindings(), &name, tensor, *call)?);
        }
    }
    let mut writer = TraceWriter::create(&args.out, metadata)?;
    for (tap, tensor) in outputs {
        writer.add_bytes(&tap, tensor.dtype(), tensor.shape(), tensor.bytes())?;
    }
    writer.finish()?;
    say!("{}: outputs of {} calls on {} inferences", args.out.display(), calls.len(), recording.inferences)?;
    if let (Some(repeats), Opened::Engine(engine), Some(call)) = (args.repeat, &mut opened, calls.first()) {
        let inputs = inputs(&recording, engine.as_ref(), *call, args.round_inputs)?;
        say_times(&engine.time(inputs, repeats as usize)?, repeats as usize)?;
    }
    Ok(Outcome::Success)
}

/// Whether the files' names say that they are ONNX graphs.
fn are_graphs(args: &RunArgs) -> Result<bool> {
    let is_graph =
        |file: &PathBuf| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    let graphs = args.engine.iter().filter(|file| is_graph(file)).count();
    ensure!(graphs == 0 || graphs == args.engine.len(), "FILE: expected engines or ONNX graphs, found both");
    Ok(graphs > 0)
}

/// Fails where an option was given that this kind of file does not ask for.
fn check(args: &RunArgs) -> Result<()> {
    let graph = are_graphs(args)?;
    for (option, given, used, by, found) in [
        ("--tensorrt", args.tensorrt.is_some(), !graph, "an engine", "an ONNX graph"),
        ("--device", args.device.is_some(), !graph, "an engine", "an ONNX graph"),
        ("--repeat", args.repeat.is_some(), !graph, "an engine", "an ONNX graph"),
        ("--onnxruntime", args.onnxruntime.is_some(), graph, "an ONNX graph", "an engine"),
    ] {
        ensure!(!given || used, "{option}: expected with {by}, found with {found}");
    }
    Ok(())
}

/// The engine, by its files' names.
fn open(args: &RunArgs) -> Result<Opened> {
    if are_graphs(args)? {
        return Ok(Opened::Graph(Box::new(graphs(args)?)));
    }
    Ok(Opened::Engine(Box::new(engine(args)?)))
}

/// Graphs, which say themselves where they come from.
fn graphs(args: &RunArgs) -> Result<Chain<OnnxRunner>> {
    let load = |file: &PathBuf| {
        let graph = OnnxRunner::load(file, args.onnxruntime.as_deref())?;
        Ok((file.display().to_string(), graph))
    };
    let graphs: Vec<(String, OnnxRunner)> = args.engine.iter().map(load).collect::<Result<_>>()?;
    if graphs.len() > 1 {
        let sources: Vec<Source> =
            args.engine.iter().map(|file| file_metadata(file)).collect::<Result<_, _>>()?;
        check_sources(graphs.iter().map(|(name, _)| name.as_str()).zip(&sources))?;
    }
    Ok(Chain::new(graphs)?)
}

/// Engines of TensorRT or TensorRT-RTX, opened by the library of what built them.
fn engine(args: &RunArgs) -> Result<TensorRtEngine> {
    let engines = EngineFiles::read(&args.engine)?;
    Ok(engines.open(args.tensorrt.as_deref(), args.device.unwrap_or(0))?)
}

/// What runs.
enum Opened {
    Graph(Box<Chain<OnnxRunner>>),
    Engine(Box<TensorRtEngine>),
}

impl Opened {
    fn runner(&mut self) -> &mut dyn Runner {
        match self {
            Opened::Graph(graph) => graph.as_mut(),
            Opened::Engine(engine) => engine.as_mut(),
        }
    }
}

/// Says how long runs took: the middle one and the shortest.
fn say_times(times: &Times, repeats: usize) -> Result<()> {
    let replayed = times.replayed.as_deref().map(|times| ("replayed as a CUDA graph", times));
    for (how, times) in [("queued", times.queued.as_slice())].into_iter().chain(replayed) {
        let mut times = times.to_vec();
        times.sort_by(f32::total_cmp);
        if let (Some(middle), Some(shortest)) = (times.get(times.len() / 2), times.first()) {
            say!("a run, {how}: {middle:.3} ms, the shortest of {repeats} {shortest:.3} ms")?;
        }
    }
    Ok(())
}

/// A tensor for every input. Recorded floats take the binding's format; where that changes a value, only if asked to.
fn inputs(
    recording: &Recording,
    runner: &dyn Runner,
    call: Call,
    round: bool,
) -> Result<Vec<(String, Tensor)>> {
    let input = |binding: &Binding| -> Result<(String, Tensor)> {
        let recorded = recording.input(binding, call)?;
        let found = recorded.dtype();
        let (tensor, exact) = recorded.in_format(binding.dtype);
        ensure!(
            exact || round,
            "input {}: expected values that {} holds, found others recorded as {found}; --round-inputs rounds them",
            binding.name,
            binding.dtype
        );
        Ok((binding.name.clone(), tensor))
    };
    runner.bindings().inputs().map(input).collect()
}
