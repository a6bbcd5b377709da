//! From a recorded graph to `FILE` and `FILE.data`.

use super::data::set_location;
use super::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use super::{Recorder, Value};
use crate::{Error, Result};
use prost::Message;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use steadyhand_files::whole;

/// Key and value pairs that say where a graph comes from.
pub type Metadata = Vec<(String, String)>;

/// What an export left on disk.
#[derive(Debug, Clone)]
pub struct Written {
    /// The graph.
    pub graph: PathBuf,
    /// The tensors beside it.
    pub data: PathBuf,
    /// Length of the data file.
    pub data_bytes: u64,
    /// Nodes of the graph.
    pub nodes: usize,
}

impl Recorder<'_> {
    /// Makes `x` the graph's output `name` and writes `path` and `path.data`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(self, x: &Value, name: &str, metadata: Metadata, path: &Path) -> Result<Written> {
        self.output(x, name);
        let opset = self.opset;
        let (mut graph, data) = self.graph.into_inner().finish(name);
        let mut data_path = OsString::from(path);
        data_path.push(".data");
        let data_path = PathBuf::from(data_path);
        let file_name = data_path.file_name().unwrap_or_default().to_string_lossy();
        set_location(&mut graph.initializer, &file_name);
        let nodes = graph.node.len();
        let model = ModelProto {
            ir_version: ir_version(opset),
            producer_name: "steadyhand".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
            metadata_props: metadata
                .into_iter()
                .map(|(key, value)| StringStringEntryProto { key, value })
                .collect(),
        };
        // What was there before may be mapped by a running process.
        whole::write(&data_path, |file| data.write(file)).map_err(|source| Error::io(&data_path, source))?;
        whole::write(path, |file| file.write_all(&model.encode_to_vec()))
            .map_err(|source| Error::io(path, source))?;
        Ok(Written { graph: path.to_path_buf(), data: data_path, data_bytes: data.len(), nodes })
    }
}

/// The file format's version that came with an opset.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19 | 20 => 9,
        21 | 22 => 10,
        _ => 11,
    }
}
