//! `steady engine inspect`: what an engine takes and gives, and whether that is what a policy says.

use super::args::{GraphArgs, InspectEngineArgs};
use super::graph::CheckpointGraph;
use super::target_of;
use crate::options::{NamesArg, ProductsArg, image_size};
use crate::outcome::Outcome;
use crate::output::{self, say};
use crate::report::output::{claim, write_file};
use crate::report::table::Table;
use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_external::bindings::{Bindings, Runner};
use steadyhand_external::feeds::part_of;
use steadyhand_external::tensorrt::{
    BuildRecord, Check, Operation, Product, TensorRt, TensorRtEngine, audit_bindings, audit_operations,
};
use steadyhand_fidelity::trace::Dtype;

/// Shows the engine, and audits it where a policy was named.
pub fn run(args: &InspectEngineArgs) -> Result<Outcome> {
    if let Some(layers) = &args.layers {
        claim(layers)?;
    }
    let path = args.engine.as_path();
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let record = BuildRecord::read(path, &bytes)?;
    let opened = open(args, &bytes)?;
    if let Some(layers) = &args.layers {
        let engine = opened.as_ref().map_err(|reason| anyhow!("--layers: {reason}"))?;
        write_file(layers, engine.information()?.concat().as_bytes())?;
    }
    let mut checks = Vec::new();
    let bindings = match (&opened, &record) {
        (Ok(engine), record) => {
            say!("bindings, as the engine says:\n")?;
            if let Some(record) = record {
                checks.extend(record_checks(&record.bindings, engine.bindings()));
            }
            engine.bindings()
        }
        (Err(reason), Some(record)) => {
            say!("bindings, as recorded when it was built; the engine was not asked: {reason}\n")?;
            &record.bindings
        }
        (Err(reason), None) => {
            let record = BuildRecord::path_of(path);
            bail!("{reason}; and there is no record of how it was built, {}", record.display())
        }
    };
    output::print(&bindings_table(bindings).to_string())?;
    if let Some(part) = part_of(bindings) {
        say!("\nit takes what `{part}` takes, as NVIDIA's exporter cuts a model")?;
    }
    if let Some(record) = &record {
        print_record(record)?;
    }
    if let Some(checkpoint) = &args.checkpoint {
        checks.extend(audit(checkpoint, &args.graph, bindings, record.as_ref())?);
    }
    judge(&checks)
}

/// The engine on a GPU, or why it is not. A library that was named must be there.
fn open(args: &InspectEngineArgs, bytes: &[u8]) -> Result<Result<TensorRtEngine, String>> {
    let target = target_of(&args.engine, bytes);
    let tensorrt = match TensorRt::open(args.tensorrt.as_deref(), target) {
        Ok(tensorrt) => tensorrt,
        Err(error) if args.tensorrt.is_some() => return Err(error.into()),
        Err(_) => {
            let product = target.map_or(Product::TensorRtRtx, |target| target.product);
            return Ok(Err(format!("{product}'s library was not found")));
        }
    };
    Ok(tensorrt.open_engine(&args.engine, bytes, args.device).map_err(|error| error.to_string()))
}

fn bindings_table(bindings: &Bindings) -> Table {
    let mut table = Table::new(&["binding", "", "type", "shape", "smallest", "best", "largest"]);
    for binding in bindings.iter() {
        let profile = binding.profile.iter().flatten().map(|shape| format!("{shape:?}"));
        let own = [
            binding.name.clone(),
            binding.direction.to_string(),
            binding.dtype.to_string(),
            format!("{:?}", binding.shape),
        ];
        table.row(own.into_iter().chain(profile));
    }
    table
}

fn print_record(record: &BuildRecord) -> Result<()> {
    let flags = if record.flags.is_empty() { "none".to_owned() } else { record.flags.join(", ") };
    let (builder, has) = (&record.builder, |flag: &str| record.flags.iter().any(|set| set == flag));
    let tf32 = if has("tf32") { "on" } else { "off" };
    let typed = match record.weakly_typed {
        false => "a strongly typed network",
        true if has("obey-precision-constraints") => "a network whose every layer is held to its type",
        true => "a weakly typed network, of whose types the builder may choose others within its flags",
    };
    say!("\nbuilt by {builder} from {typed}; flags: {flags}; TF32: {tf32}")?;
    for (key, value) in &record.source {
        // A policy file's text has lines.
        say!("  {key}: {}", value.lines().next().unwrap_or_default())?;
    }
    say!("")?;
    let mut counts = BTreeMap::new();
    for Operation { kind, dtype, .. } in &record.operations {
        let dtype = dtype.map_or("other".to_owned(), |dtype| dtype.to_string());
        *counts.entry((*kind, dtype)).or_insert(0usize) += 1;
    }
    let mut table = Table::new(&["operation", "type", "count"]);
    for ((kind, dtype), count) in counts {
        table.row([kind.to_string(), dtype, count.to_string()]);
    }
    output::print(&table.to_string())
}

/// Way and type of an engine's own bindings against those that were recorded when it was built. An engine may fix a
/// dimension that its network leaves open.
fn record_checks(recorded: &Bindings, own: &Bindings) -> Vec<Check> {
    let of = |bindings: &Bindings, name: &str| {
        bindings
            .get(name)
            .map_or("none".to_owned(), |binding| format!("{} {}", binding.direction, binding.dtype))
    };
    let mut names: Vec<&str> =
        recorded.iter().chain(own.iter()).map(|binding| binding.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .iter()
        .map(|name| Check::new(format!("record of {name}"), of(recorded, name), of(own, name)))
        .collect()
}

/// Whether a binding has a name that is NVIDIA's alone; where names are the same, whether floats have a narrower type than
/// ours have.
fn has_nvidias_interface(bindings: &Bindings) -> bool {
    let Some(part) = part_of(bindings) else { return false };
    let own = part.edges().iter().filter(|edge| edge.name != edge.nvidia);
    match own.map(|edge| edge.nvidia).collect::<Vec<_>>() {
        names if names.is_empty() => {
            bindings.iter().any(|binding| matches!(binding.dtype, Dtype::F16 | Dtype::Bf16))
        }
        names => bindings.iter().any(|binding| names.contains(&binding.name.as_str())),
    }
}

/// The engine against a checkpoint's graph at a policy.
fn audit(
    checkpoint: &Path,
    args: &GraphArgs,
    bindings: &Bindings,
    record: Option<&BuildRecord>,
) -> Result<Vec<Check>> {
    let none = BTreeMap::new();
    let source = record.map_or(&none, |record| &record.source);
    let graph = CheckpointGraph::load(checkpoint, &completed(args, source, bindings)?)?;
    let expected = [
        ("checkpoint", graph.fingerprint.clone()),
        ("component", graph.component.to_string()),
        ("precision", graph.policy.identity()),
    ];
    let mut checks = Vec::new();
    for (key, expected) in expected {
        checks.extend(source.get(key).map(|found| Check::new(key, &expected, found)));
    }
    let weak = record.filter(|record| record.weakly_typed);
    let mut ports = graph.export().ports(&graph.model)?;
    if weak.is_some() {
        // TensorRT 8 has no int64.
        ports.iter_mut().filter(|port| port.dtype == Dtype::I64).for_each(|port| port.dtype = Dtype::I32);
    }
    checks.extend(audit_bindings(bindings, &ports));
    checks.extend(weak.map(types_check));
    if let Some(record) = record {
        let sites = graph.component.sites(&graph.model)?;
        checks.extend(audit_operations(&record.operations, &graph.policy, graph.products, &sites));
    }
    Ok(checks)
}

/// Whether the builder of a weakly typed network had to keep its types: else they are not what it was given.
fn types_check(record: &BuildRecord) -> Check {
    let set = |flag: &str| record.flags.iter().any(|own| own == flag);
    let free: Vec<&str> = ["fp16", "tf32"].into_iter().filter(|flag| set(flag)).collect();
    let kept = "kept by the builder";
    let found = match set("obey-precision-constraints") || free.is_empty() {
        true => kept.to_owned(),
        false => format!("free to be {}", free.join(", ")),
    };
    Check::new("types of operations", kept, found)
}

/// The arguments, with what the record says where they say nothing.
fn completed(args: &GraphArgs, source: &BTreeMap<String, String>, bindings: &Bindings) -> Result<GraphArgs> {
    let field = |key: &str| source.get(key).map(String::as_str);
    let wrong = |key: &str, value: &str| anyhow!("record of the engine: {key}: `{value}` is not understood");
    let mut args = args.clone();
    if args.component.is_none() {
        let component = field("component").context("--component: expected what the engine is, found none")?;
        args.component = Some(component.parse()?);
    }
    if let (None, Some(products)) = (args.products, field("products")) {
        args.products =
            Some(ProductsArg::from_str(products, false).map_err(|_| wrong("products", products))?);
    }
    if args.io_names.is_none() && has_nvidias_interface(bindings) {
        args.io_names = Some(NamesArg::Nvidia);
    }
    if let (true, Some(images)) = (args.image.is_empty(), field("images")) {
        let sizes: Result<_, String> = images.split(',').map(image_size).collect();
        args.image = sizes.map_err(|_| wrong("images", images))?;
    }
    let number = |given: Option<u16>, key: &str| match (given, field(key)) {
        (None, Some(value)) => value.parse().map(Some).map_err(|_| wrong(key, value)),
        (given, _) => Ok(given),
    };
    args.denoising_steps = number(args.denoising_steps, "denoising_steps")?;
    args.state_horizon = number(args.state_horizon, "state_horizon")?;
    Ok(args)
}

/// Prints what differs, and how much agrees.
fn judge(checks: &[Check]) -> Result<Outcome> {
    if checks.is_empty() {
        return Ok(Outcome::Success);
    }
    say!("")?;
    for check in checks.iter().filter(|check| !check.agrees()) {
        say!("differs: {}: expected {}, found {}", check.what, check.expected, check.found)?;
    }
    let agreeing = checks.iter().filter(|check| check.agrees()).count();
    say!("audit: {agreeing} of {} agree", checks.len())?;
    Ok(if agreeing == checks.len() { Outcome::Success } else { Outcome::Failure })
}
