//! Writing a trace while an engine runs, with one part in memory.

use super::dtype::Dtype;
use super::error::TraceError;
use super::header::METADATA;
use super::manifest::{Journal, Listed, MANIFEST, Manifest};
use super::safetensors_files;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of a part; a larger tensor gets a part of its own.
const PART_BYTES: usize = 64 << 20;
/// About what a tensor adds to a header besides its name, so that empty tensors fill a part as well.
const ENTRY_BYTES: usize = 128;

/// Writes a trace. Without [`TraceWriter::finish`] or [`TraceWriter::commit`] the folder stays marked as incomplete and does
/// not open.
#[derive(Debug)]
pub struct TraceWriter {
    folder: PathBuf,
    part_bytes: usize,
    /// Its tensors are those that are not on disk as parts of it.
    manifest: Manifest,
    /// None before the first commit.
    journal: Option<Journal>,
    names: HashSet<String>,
    parts: usize,
    /// Data of the last tensors of the manifest, whose part is not written yet.
    pending: Vec<Vec<u8>>,
    pending_bytes: usize,
}

impl TraceWriter {
    /// Starts a trace in `folder`, which is created where it does not exist.
    ///
    /// # Errors
    /// The folder holds a trace or safetensors files already, or cannot be written.
    pub fn create(folder: impl AsRef<Path>, metadata: BTreeMap<String, String>) -> Result<Self, TraceError> {
        TraceWriter::with_part_bytes(folder.as_ref(), metadata, PART_BYTES)
    }

    /// Starts a trace in a new folder, whose parent must be there: one for temporary files that a signal has just removed
    /// is not made again.
    ///
    /// # Errors
    /// The folder is there already, or cannot be made.
    pub fn create_in(
        parent: &Path,
        name: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, TraceError> {
        let folder = parent.join(name);
        std::fs::create_dir(&folder).map_err(|source| TraceError::io(&folder, source))?;
        TraceWriter::begin(&folder, metadata, PART_BYTES)
    }

    pub(super) fn with_part_bytes(
        folder: &Path,
        metadata: BTreeMap<String, String>,
        part_bytes: usize,
    ) -> Result<Self, TraceError> {
        std::fs::create_dir_all(folder).map_err(|source| TraceError::io(folder, source))?;
        TraceWriter::begin(folder, metadata, part_bytes)
    }

    fn begin(
        folder: &Path,
        metadata: BTreeMap<String, String>,
        part_bytes: usize,
    ) -> Result<Self, TraceError> {
        // Two traces in one folder would read as one.
        if folder.join(MANIFEST).exists() || !safetensors_files(folder)?.is_empty() {
            return Err(TraceError::field(folder, "folder", "no trace in it yet", "one"));
        }
        let manifest = Manifest::new(metadata);
        manifest.write(&folder.join(MANIFEST))?;
        Ok(TraceWriter {
            folder: folder.to_path_buf(),
            part_bytes,
            manifest,
            journal: None,
            names: HashSet::new(),
            parts: 0,
            pending: Vec::new(),
            pending_bytes: 0,
        })
    }

    /// The folder that is written to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a tensor of f32 values.
    ///
    /// # Errors
    /// As [`TraceWriter::add_bytes`].
    pub fn add(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), TraceError> {
        self.check(name, Dtype::F32, shape, values.len().saturating_mul(4))?;
        self.push(name, Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a tensor of any type as its little-endian bytes.
    ///
    /// # Errors
    /// The name was used before or is reserved; the bytes do not fit dtype and shape; a part cannot be
    /// written.
    pub fn add_bytes(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<(), TraceError> {
        self.check(name, dtype, shape, bytes.len())?;
        self.push(name, dtype, shape, bytes.to_vec())
    }

    /// Writes what is pending, then that the trace is finished.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(mut self) -> Result<(), TraceError> {
        match self.journal {
            Some(_) => self.commit(),
            None => {
                self.write_part()?;
                self.manifest.write_complete(&self.folder.join(MANIFEST), false)
            }
        }
    }

    /// Writes what is pending, then lists it in one step: from now on the trace is one of what was added, whatever becomes
    /// of this process. More may be added. Costs a file and, the first one the manifest, any further one a line.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn commit(&mut self) -> Result<(), TraceError> {
        self.write_part()?;
        match &mut self.journal {
            Some(_) if self.manifest.tensors.is_empty() => {}
            Some(journal) => journal.append(&self.manifest.tensors)?,
            None => {
                let path = self.folder.join(MANIFEST);
                // Before the manifest that it belongs to, so that none of another trace is ever read.
                self.journal = Some(Journal::create(&path)?);
                self.manifest.write_complete(&path, true)?;
            }
        }
        self.manifest.tensors.clear();
        Ok(())
    }

    fn check(&self, name: &str, dtype: Dtype, shape: &[usize], bytes: usize) -> Result<(), TraceError> {
        let wrong = |field: String, expected: String, found: String| {
            Err(TraceError::field(&self.folder, field, expected, found))
        };
        if name == METADATA {
            return wrong("tensor name".into(), "another name".into(), format!("the reserved `{name}`"));
        }
        if self.names.contains(name) {
            return wrong(format!("tensor `{name}`"), "a unique name".into(), "a second one".into());
        }
        let needed = crate::value_count(shape).and_then(|count| count.checked_mul(dtype.size()));
        if needed != Some(bytes) {
            let expected = needed.map_or("fewer".into(), |needed| needed.to_string());
            let field = format!("tensor `{name}`, {dtype} {shape:?}");
            return wrong(field, format!("{expected} bytes"), format!("{bytes} bytes"));
        }
        Ok(())
    }

    fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Result<(), TraceError> {
        let bytes = data.len() + name.len() + ENTRY_BYTES;
        if self.pending_bytes + bytes > self.part_bytes {
            self.write_part()?;
        }
        self.names.insert(name.to_owned());
        let file = format!("part-{:05}.safetensors", self.parts);
        self.manifest.tensors.push(Listed { name: name.to_owned(), dtype, shape: shape.to_vec(), file });
        self.pending.push(data);
        self.pending_bytes += bytes;
        Ok(())
    }

    /// Writes the pending tensors as one safetensors file.
    fn write_part(&mut self) -> Result<(), TraceError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let first = self.manifest.tensors.len() - self.pending.len();
        let listed = &self.manifest.tensors[first..];
        let path = self.folder.join(&listed[0].file);
        let mut tensors: Vec<_> = listed.iter().zip(&self.pending).collect();
        // Wide types first keep every tensor aligned, which other readers rely on.
        tensors.sort_by_key(|(listed, _)| std::cmp::Reverse(listed.dtype.size()));
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (listed, data) in &tensors {
            let start = end;
            end += data.len();
            let place = serde_json::json!({
                "dtype": listed.dtype, "shape": listed.shape, "data_offsets": [start, end]
            });
            header.insert(listed.name.clone(), place);
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let write = || -> std::io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            tensors.iter().try_for_each(|(_, data)| file.write_all(data))
        };
        write().map_err(|source| TraceError::io(&path, source))?;
        self.pending.clear();
        self.pending_bytes = 0;
        self.parts += 1;
        Ok(())
    }
}
