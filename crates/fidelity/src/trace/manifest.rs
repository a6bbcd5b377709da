//! `manifest.json`: what a trace holds, and whether it was finished.

use super::dtype::Dtype;
use super::error::TraceError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use steadyhand_files::json;

pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "steadyhand-trace";
const VERSION: u32 = 1;
/// Far above any manifest (a million tensors), far below what a machine cannot hold.
const MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    /// False until the writer has finished: an interrupted trace must not pass for a short one.
    complete: bool,
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<Listed>,
}

/// One tensor of a manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// A file name in the folder of the manifest.
    pub file: String,
}

impl Manifest {
    pub(super) fn new(metadata: BTreeMap<String, String>) -> Self {
        Manifest { format: FORMAT.into(), version: VERSION, complete: false, metadata, tensors: Vec::new() }
    }

    /// Reads a finished manifest. Files are names only: a manifest cannot point out of its folder.
    pub(super) fn read(path: &Path) -> Result<Self, TraceError> {
        let io = |source| TraceError::io(path, source);
        let mut text = Vec::new();
        File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(TraceError::field(path, "file length", format!("at most {MAX_BYTES} bytes"), "more"));
        }
        let manifest: Manifest = json::from_slice(&text).map_err(|source| TraceError::Json {
            path: path.to_path_buf(),
            field: "manifest",
            source,
        })?;
        if manifest.format != FORMAT {
            return Err(TraceError::field(path, "format", FORMAT, manifest.format));
        }
        if manifest.version != VERSION {
            return Err(TraceError::field(path, "version", VERSION, manifest.version));
        }
        if !manifest.complete {
            return Err(TraceError::field(path, "complete", "true: a finished trace", "false"));
        }
        let is_name = |file: &str| {
            Path::new(file).file_name().is_some_and(|name| name == file) && !file.contains(['/', '\\'])
        };
        match manifest.tensors.iter().find(|listed| !is_name(&listed.file)) {
            Some(listed) => {
                let field = format!("tensor `{}`, file", listed.name);
                Err(TraceError::field(path, field, "a file name in this folder", &listed.file))
            }
            None => Ok(manifest),
        }
    }

    /// Writes a manifest of an unfinished trace.
    pub(super) fn write(&self, path: &Path) -> Result<(), TraceError> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| TraceError::Json {
            path: path.to_path_buf(),
            field: "manifest",
            source,
        })?;
        std::fs::write(path, text).map_err(|source| TraceError::io(path, source))
    }

    /// Writes the manifest of a finished trace, in one step: beside its place, then into it.
    pub(super) fn write_complete(&mut self, path: &Path) -> Result<(), TraceError> {
        self.complete = true;
        let beside = path.with_extension("json.tmp");
        self.write(&beside)?;
        std::fs::rename(&beside, path).map_err(|source| TraceError::io(path, source))
    }
}
