//! `steady engine build`: an ONNX graph, or a checkpoint's, as an engine of TensorRT or TensorRT-RTX.

use super::args::BuildArgs;
use super::graph::CheckpointGraph;
use crate::outcome::Outcome;
use crate::output::say;
use crate::progress::Progress;
use crate::report::output::{WRITTEN_BY, claim, write_file};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use steadyhand_external::tensorrt::{BuildOptions, BuildRecord, Range, TensorRt};
use steadyhand_files::scratch::Scratch;
use steadyhand_gr00t::export::Export;

/// Builds, and says what was written.
pub fn run(args: &BuildArgs) -> Result<Outcome> {
    // clap asks for no option that another one rules out.
    if let (Some(_), Some(option)) = (&args.onnx, args.graph.given()) {
        bail!("{option}: expected with --checkpoint, found with --onnx: a graph has its own");
    }
    if let Some(target) = args.target {
        args.builder_flag.iter().try_for_each(|flag| flag.check(target))?;
        args.optimization_level.map_or(Ok(()), |_| target.check_optimization_level())?;
    }
    // What a policy cannot be is said before a library is looked for.
    let graph = match &args.checkpoint {
        Some(checkpoint) => Some(CheckpointGraph::load(checkpoint, &args.graph)?),
        None => None,
    };
    if let (Some(graph), Some(target)) = (&graph, args.target) {
        graph.check(target)?;
    }
    if let Some(log) = &args.log {
        claim(log)?;
        let file = File::create(log).and_then(|mut file| {
            writeln!(file, "written by {WRITTEN_BY}")?;
            Ok(file)
        });
        TensorRt::log_to(file.with_context(|| format!("{}: cannot be written", log.display()))?);
    }
    let tensorrt = TensorRt::open(args.tensorrt.as_deref(), args.target)?;
    let folder = match args.out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be created", folder.display()))?;
    // An engine says nothing of who wrote it; the record beside it does.
    if !BuildRecord::path_of(&args.out).is_file() {
        claim(&args.out)?;
    }
    let source = Source::new(args, graph, tensorrt.opset(), folder)?;
    let mut ranges = source.ranges;
    for (name, range) in &args.shapes {
        ranges.insert(name.clone(), *range);
    }
    let started = Instant::now();
    let times = args.timing_cache.as_deref().map(read_times).transpose()?;
    let options = BuildOptions {
        flags: &args.builder_flag,
        cublas: args.cublas,
        workspace: args.workspace.map(|mebibytes| (mebibytes as usize) << 20),
        optimization_level: args.optimization_level,
        timing_cache: times.as_deref(),
        ..BuildOptions::new(&source.onnx, &ranges)
    };
    let progress = Progress::of_unknown_length("building the engine");
    let built = tensorrt.build(&options)?;
    drop(progress);
    write_file(&args.out, &built.engine)?;
    built.record.write(&args.out)?;
    if let (Some(path), Some(times)) = (&args.timing_cache, &built.timing_cache) {
        write_file(path, times)?;
    }
    let megabytes = built.engine.len() as f64 / 1e6;
    let seconds = started.elapsed().as_secs_f64();
    say!("{}: {megabytes:.1} MB, {} in {seconds:.1} s", args.out.display(), tensorrt.name())?;
    let sizes: Vec<String> = ranges.iter().map(|(name, range)| format!("{name}={range}")).collect();
    say!("{}: shapes {}", BuildRecord::path_of(&args.out).display(), sizes.join(" "))?;
    Ok(Outcome::Success)
}

/// Times of earlier builds; nothing of a file that is not there yet.
fn read_times(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.with_context(|| format!("--timing-cache: {}: cannot be read", path.display())),
    }
}

/// The graph that is built.
struct Source {
    onnx: PathBuf,
    ranges: BTreeMap<String, Range>,
    /// Holds the graph while it is built.
    _folder: Option<Scratch>,
}

impl Source {
    /// The file that was named, or the checkpoint's graph, exported to a folder of its own in `beside`.
    fn new(args: &BuildArgs, graph: Option<CheckpointGraph>, opset: i64, beside: &Path) -> Result<Self> {
        let Some(graph) = graph else {
            let Some(onnx) = args.onnx.clone() else { bail!("--onnx or --checkpoint: expected one of them") };
            return Ok(Source { onnx, ranges: BTreeMap::new(), _folder: None });
        };
        let export = Export { opset, ..graph.export() };
        let ranges = graph.ranges(&export.ports(&graph.model)?)?;
        let folder = Scratch::new("steady-engine-", beside);
        let folder = folder.with_context(|| format!("{}: no folder could be made", beside.display()))?;
        let onnx = folder.path().join(format!("{}.onnx", graph.component));
        export.write(&graph.model, &graph.fingerprint, &onnx)?;
        Ok(Source { onnx, ranges, _folder: Some(folder) })
    }
}
