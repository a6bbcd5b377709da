//! From an exported graph to an engine and its record.

use super::TensorRt;
use super::ffi::{Network, Port};
use super::flags::BuilderFlag;
use super::profile::{Range, shapes};
use super::record::{BuildRecord, Operation, OperationKind};
use super::translate::{Translated, translate};
use crate::bindings::{Binding, Bindings, Direction};
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::{self, GraphFile, PortDim, file_metadata};
use steadyhand_gr00t::{Error, Result};

/// The first opset whose operators are those that layers are made of: axes of Unsqueeze are an input.
const LEAST_OPSET: i64 = 13;

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions<'a> {
    /// The graph.
    pub onnx: &'a Path,
    /// Sizes of its open dimensions, by name.
    pub ranges: &'a BTreeMap<String, Range>,
    /// Flags of the builder to set.
    pub flags: &'a [BuilderFlag],
    /// Whether tactics of cuBLAS and cuBLASLt may be chosen: a builder of TensorRT loads them then.
    pub cublas: bool,
    /// What a layer may use of the GPU's memory while it runs, in bytes; the library's own limit otherwise.
    pub workspace: Option<usize>,
    /// TensorRT's `builderOptimizationLevel`, 0 to 5: how long the builder looks for what is faster; the library's own, 3,
    /// otherwise.
    pub optimization_level: Option<u8>,
    /// Times that tactics took in an earlier build; none where there was none, or they are not to be kept.
    pub timing_cache: Option<&'a [u8]>,
}

impl<'a> BuildOptions<'a> {
    /// A graph with these sizes, nothing else asked for.
    pub fn new(onnx: &'a Path, ranges: &'a BTreeMap<String, Range>) -> Self {
        BuildOptions {
            onnx,
            ranges,
            flags: &[],
            cublas: false,
            workspace: None,
            optimization_level: None,
            timing_cache: None,
        }
    }
}

/// An engine that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its bytes.
    pub engine: Vec<u8>,
    /// What it was built from.
    pub record: BuildRecord,
    /// Times that tactics took, where they were to be kept.
    pub timing_cache: Option<Vec<u8>>,
}

/// A network, and what of it is known without asking the library.
struct Read {
    network: Network,
    /// Its inputs with their open dimensions' names.
    inputs: Vec<Port>,
    operations: Vec<Operation>,
    /// Flags that the graph's types ask for.
    flags: Vec<BuilderFlag>,
}

impl TensorRt {
    /// Builds an engine from a graph. TensorRT-RTX reads it by its parser; for TensorRT the network is made layer by
    /// layer. Networks are strongly typed where the version has such, without TF32. A network of TensorRT 8 is weakly
    /// typed: a graph in f32 is built as the flags say; one with fp16 in it sets `fp16` and
    /// `obey-precision-constraints` itself and holds every layer to the graph's types.
    ///
    /// TensorRT-RTX needs no GPU and builds for every one that it supports; TensorRT builds on and for the GPU at hand.
    ///
    /// # Errors
    /// A file that is no graph; what is not understood of it; an open dimension without a range and the other way round;
    /// a flag or an optimization level that this version lacks; the builder's reasons.
    pub fn build(&self, options: &BuildOptions<'_>) -> Result<Built> {
        let parsed = self.library.has_parser();
        self.build_from(options, parsed)
    }

    /// As [`TensorRt::build`], layer by layer whether or not the library has a parser.
    ///
    /// # Errors
    /// As there.
    pub fn build_by_layers(&self, options: &BuildOptions<'_>) -> Result<Built> {
        self.build_from(options, false)
    }

    fn build_from(&self, options: &BuildOptions<'_>, parsed: bool) -> Result<Built> {
        let refuse = |what: String| Error::file(options.onnx, format!("{}: {what}", self.name()));
        let source = file_metadata(options.onnx)?;
        let (product, version) = (self.located.product, self.located.version);
        let numbers: Vec<i32> =
            options.flags.iter().map(|flag| flag.number(product, version)).collect::<Result<_>>()?;
        let read = if parsed { self.parse(options) } else { self.make(options)? };
        let Read { mut network, inputs, operations, flags } = read.map_err(refuse)?;
        if let Some(tf32) = BuilderFlag::tf32_number(product, version) {
            let asked = options.flags.iter().any(|flag| flag.is_tf32());
            if !asked && !network.set_flag(tf32, false) {
                return Err(refuse("builder flag tf32: expected it to be cleared, found it set".to_owned()));
            }
        }
        let of_graph = flags.iter().filter(|flag| !options.flags.contains(flag));
        let of_graph: Vec<(BuilderFlag, i32)> =
            of_graph.map(|flag| Ok((*flag, flag.number(product, version)?))).collect::<Result<_>>()?;
        let all: Vec<(BuilderFlag, i32)> =
            options.flags.iter().copied().zip(numbers).chain(of_graph).collect();
        for (flag, number) in &all {
            if !network.set_flag(*number, true) {
                return Err(refuse(format!("builder flag {flag}: this version has none")));
            }
        }
        if options.cublas && !network.use_cublas() {
            return Err(refuse("tactics of cuBLAS: this version has none that are asked for".to_owned()));
        }
        if let Some(workspace) = options.workspace
            && !network.set_workspace(workspace)
        {
            return Err(refuse(format!("workspace: {workspace} bytes are refused")));
        }
        if let Some(level) = options.optimization_level {
            let refuse = |what: &str| refuse(format!("optimization level {level}: {what}"));
            match network.set_optimization_level(level) {
                Ok(true) => {}
                Ok(false) => return Err(refuse("the builder does not take it")),
                Err(what) => return Err(refuse(&what)),
            }
        }
        if let Some(times) = options.timing_cache {
            network.use_timing_cache(times).map_err(refuse)?;
        }
        let shapes = shapes(&inputs, options.ranges)?;
        if let Some(shapes) = &shapes {
            network.add_profile(shapes).map_err(refuse)?;
        }
        let engine = network.build().map_err(|what| refuse(with_help(what)))?;
        let profile_of = |name: &str| {
            let (_, sizes) = shapes.as_ref()?.iter().find(|(input, _)| input == name)?;
            Some(sizes.clone().map(|sizes| sizes.into_iter().map(|size| size as i64).collect()))
        };
        let (own_inputs, outputs) = network.ports().map_err(refuse)?;
        let inputs = own_inputs.into_iter().map(|port| {
            let profile = profile_of(&port.name);
            binding(port, Direction::Input, profile)
        });
        let outputs = outputs.into_iter().map(|port| binding(port, Direction::Output, None));
        let bindings = Bindings::new(inputs.chain(outputs).collect());
        let mut record = BuildRecord::new(self.name(), &engine, bindings);
        record.operations = operations;
        record.flags = all.iter().map(|(flag, _)| flag.to_string()).collect();
        if options.cublas {
            record.flags.push("cublas".to_owned());
        }
        record.flags.extend(options.optimization_level.map(|level| format!("optimization-level={level}")));
        record.weakly_typed = self.library.weakly_typed();
        record.source = source;
        let timing_cache = network.timing_cache().map_err(refuse)?;
        Ok(Built { engine, record, timing_cache })
    }

    /// The network as the library's parser reads it.
    fn parse(&self, options: &BuildOptions<'_>) -> std::result::Result<Read, String> {
        let network = Network::parse(&self.library, options.onnx)?;
        let (inputs, _) = network.ports()?;
        let operations = network.layers().into_iter().filter_map(|layer| {
            let kind = OperationKind::of(layer.kind)?;
            Some(Operation { name: layer.name, kind, dtype: layer.dtype })
        });
        let operations = operations.collect();
        Ok(Read { network, inputs, operations, flags: Vec::new() })
    }

    /// The network layer by layer.
    fn make(&self, options: &BuildOptions<'_>) -> Result<std::result::Result<Read, String>> {
        let graph = GraphFile::read(options.onnx)?;
        let weak = self.library.weakly_typed();
        if graph.opset < LEAST_OPSET {
            return Ok(Err(format!("opset: expected {LEAST_OPSET} or a later one, found {}", graph.opset)));
        }
        if weak && graph.has(Dtype::Bf16) {
            return Ok(Err("bf16: it has no such type; f32, fp16 and mixed-fp16 have none of it".to_owned()));
        }
        let typed = weak && graph.has(Dtype::F16);
        let held = typed || options.flags.iter().any(|flag| flag.holds_layers());
        let translated = translate(&self.library, &graph, options.ranges, weak && held);
        Ok(translated.map(|Translated { network, operations }| {
            let mut flags = Vec::new();
            if typed {
                flags.push(BuilderFlag::FP16);
                if !options.flags.iter().any(|flag| flag.holds_layers()) {
                    flags.push(BuilderFlag::OBEY);
                }
            }
            Read { network, inputs: graph.inputs.iter().map(named_port).collect(), operations, flags }
        }))
    }
}

/// A reason of TensorRT 8 that says nothing of what helps, with that.
fn with_help(what: String) -> String {
    if !what.contains("cuBLASLt error") {
        return what;
    }
    format!(
        "{what}; it asks cuBLASLt for its version although the tactics of cuBLAS are off: have libcublasLt.so.11 and \
         libcublas.so.11 of Python's nvidia-cublas-cu11 (of tensorrt 8.6.0 .so.12 and nvidia-cublas-cu12) beside \
         libnvinfer.so.8 or in LD_LIBRARY_PATH"
    )
}

/// An input of a graph with its open dimensions' names.
fn named_port(port: &onnx::Port) -> Port {
    let sizes = port.dims.iter().map(|dim| match dim {
        PortDim::Fixed(size) => (*size as i64, String::new()),
        PortDim::Open(name) => (-1, name.clone()),
    });
    let (shape, dim_names) = sizes.unzip();
    Port { name: port.name.clone(), dtype: port.dtype, shape, dim_names }
}

/// A port as a binding.
pub(super) fn binding(port: Port, direction: Direction, profile: Option<[Vec<i64>; 3]>) -> Binding {
    Binding { name: port.name, direction, dtype: port.dtype, shape: port.shape, profile }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cublaslt_is_named_with_what_helps() {
        let said = "no implementation: Skipping tactic 0x0 due to exception cuBLASLt error 1 querying major version.";
        let helped = with_help(said.to_owned());
        assert!(helped.starts_with(said) && helped.contains("nvidia-cublas-cu11"), "{helped}");
        assert_eq!(with_help("another".to_owned()), "another");
    }
}
