//! `manifest.json`: what a trace holds, and whether it was finished; `manifest.jsonl`: what was added since, a line a commit.

use super::dtype::Dtype;
use super::error::TraceError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use steadyhand_files::json;

pub(super) const MANIFEST: &str = "manifest.json";
/// Tensors that were added behind those of the manifest: each line is a list of them.
const JOURNAL: &str = "manifest.jsonl";
const FORMAT: &str = "steadyhand-trace";
/// Of a trace whose manifest lists all of its tensors.
const WHOLE: u32 = 1;
/// Of a trace whose manifest may go on in a journal: who does not know of one must not take the beginning for all.
const JOURNALED: u32 = 2;
/// Far above any manifest (a million tensors), far below what a machine cannot hold. Of a journal it is the longest line.
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
        Manifest { format: FORMAT.into(), version: WHOLE, complete: false, metadata, tensors: Vec::new() }
    }

    /// Reads a finished manifest and what was added behind it. Files are names only: a manifest cannot point out of its
    /// folder.
    pub(super) fn read(path: &Path) -> Result<Self, TraceError> {
        let io = |source| TraceError::io(path, source);
        let mut text = Vec::new();
        File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(TraceError::field(path, "file length", format!("at most {MAX_BYTES} bytes"), "more"));
        }
        let mut manifest: Manifest = json::from_slice(&text).map_err(|source| TraceError::Json {
            path: path.to_path_buf(),
            field: "manifest",
            source,
        })?;
        if manifest.format != FORMAT {
            return Err(TraceError::field(path, "format", FORMAT, manifest.format));
        }
        if ![WHOLE, JOURNALED].contains(&manifest.version) {
            let expected = format!("{WHOLE} or {JOURNALED}");
            return Err(TraceError::field(path, "version", expected, manifest.version));
        }
        if !manifest.complete {
            return Err(TraceError::field(path, "complete", "true: a finished trace", "false"));
        }
        if manifest.version == JOURNALED {
            read_journal(&path.with_file_name(JOURNAL), &mut manifest.tensors)?;
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

    /// Writes the manifest of a finished trace, in one step: beside its place, then into it. A `journaled` one may go on.
    pub(super) fn write_complete(&mut self, path: &Path, journaled: bool) -> Result<(), TraceError> {
        (self.complete, self.version) = (true, if journaled { JOURNALED } else { WHOLE });
        let beside = path.with_extension("json.tmp");
        self.write(&beside)?;
        std::fs::rename(&beside, path).map_err(|source| TraceError::io(path, source))
    }
}

/// What is added to a trace whose manifest is written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Of its whole lines, in bytes.
    length: u64,
}

impl Journal {
    /// Begins the journal beside the manifest at `path`.
    pub(super) fn create(path: &Path) -> Result<Self, TraceError> {
        let path = path.with_file_name(JOURNAL);
        let open = || {
            File::create(&path)?;
            File::options().append(true).open(&path)
        };
        let file = open().map_err(|source| TraceError::io(&path, source))?;
        Ok(Journal { file, path, length: 0 })
    }

    /// Appends a line. One that a crash cuts off is none: its end is missing. One that a full disk cuts off is taken back, so
    /// that a later one does not go on from it.
    pub(super) fn append(&mut self, tensors: &[Listed]) -> Result<(), TraceError> {
        let json = |source| TraceError::Json { path: self.path.clone(), field: "manifest", source };
        let mut line = serde_json::to_vec(tensors).map_err(json)?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            let _ = self.file.set_len(self.length);
            return Err(TraceError::io(&self.path, source));
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

/// Adds the tensors of a journal, as far as its lines are whole; without one there are none.
fn read_journal(path: &Path, tensors: &mut Vec<Listed>) -> Result<(), TraceError> {
    let io = |source| TraceError::io(path, source);
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(io)?,
    };
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut lines).take(MAX_BYTES).read_until(b'\n', &mut line).map_err(io)?;
        if line.pop() != Some(b'\n') {
            return match (line.len() + 1) as u64 {
                MAX_BYTES => {
                    Err(TraceError::field(path, "line", format!("at most {MAX_BYTES} bytes"), "more"))
                }
                _ => Ok(()),
            };
        }
        let more: Vec<Listed> = json::from_slice(&line).map_err(|source| TraceError::Json {
            path: path.to_path_buf(),
            field: "manifest",
            source,
        })?;
        tensors.extend(more);
    }
}
