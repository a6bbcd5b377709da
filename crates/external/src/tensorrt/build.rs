//! From an exported graph to an engine and its record.

use super::TensorRt;
use super::ffi::{Parsed, Port};
use super::flags::{BuilderFlag, TF32};
use super::profile::{Range, shapes};
use super::record::{BuildRecord, Operation, OperationKind};
use crate::bindings::{Binding, Bindings, Direction};
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_gr00t::ops::onnx::file_metadata;
use steadyhand_gr00t::{Error, Result};

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions<'a> {
    /// The graph.
    pub onnx: &'a Path,
    /// Sizes of its open dimensions, by name.
    pub ranges: &'a BTreeMap<String, Range>,
    /// Flags of the builder to set.
    pub flags: &'a [BuilderFlag],
}

/// An engine that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its bytes.
    pub engine: Vec<u8>,
    /// What it was built from.
    pub record: BuildRecord,
}

impl TensorRt {
    /// Builds an engine from a graph, as a strongly typed network without TF32. Without a GPU it is built for every
    /// one that the library supports.
    ///
    /// # Errors
    /// A file that is no graph; what the parser does not understand; an open dimension without a range and the other
    /// way round; a flag that this version lacks; the builder's reasons.
    pub fn build(&self, options: &BuildOptions<'_>) -> Result<Built> {
        let refuse = |what: String| Error::file(options.onnx, format!("{}: {what}", self.name()));
        let source = file_metadata(options.onnx)?;
        let parsed = Parsed::parse(&self.library, options.onnx).map_err(refuse)?;
        if !parsed.set_flag(TF32, false) {
            return Err(refuse("builder flag tf32: expected it to be cleared, found it set".to_owned()));
        }
        for flag in options.flags {
            if !parsed.set_flag(flag.number, true) {
                return Err(refuse(format!("builder flag {flag}: this version has none")));
            }
        }
        let (inputs, outputs) = parsed.ports().map_err(refuse)?;
        let shapes = shapes(&inputs, options.ranges)?;
        if let Some(shapes) = &shapes {
            parsed.add_profile(shapes).map_err(refuse)?;
        }
        let engine = parsed.build().map_err(refuse)?;
        let profile_of = |name: &str| {
            let (_, sizes) = shapes.as_ref()?.iter().find(|(input, _)| input == name)?;
            Some(sizes.clone().map(|sizes| sizes.into_iter().map(|size| size as i64).collect()))
        };
        let inputs = inputs.into_iter().map(|port| {
            let profile = profile_of(&port.name);
            binding(port, Direction::Input, profile)
        });
        let outputs = outputs.into_iter().map(|port| binding(port, Direction::Output, None));
        let bindings = Bindings::new(inputs.chain(outputs).collect());
        let operations = parsed.layers().into_iter().filter_map(|layer| {
            let kind = OperationKind::of(layer.kind)?;
            Some(Operation { name: layer.name, kind, dtype: layer.dtype })
        });
        let mut record = BuildRecord::new(self.name(), &engine, bindings);
        record.operations = operations.collect();
        record.flags = options.flags.iter().map(ToString::to_string).collect();
        record.source = source;
        Ok(Built { engine, record })
    }
}

/// A port as a binding.
pub(super) fn binding(port: Port, direction: Direction, profile: Option<[Vec<i64>; 3]>) -> Binding {
    Binding { name: port.name, direction, dtype: port.dtype, shape: port.shape, profile }
}
