//! Traces: named tensors on disk, written while an engine runs and read one tensor at a time.
//!
//! A trace is a folder with `manifest.json` (version, free-form metadata, and name, dtype, shape and file
//! of each tensor in the order of writing) and safetensors files of bounded size. Where a writer committed more than once,
//! `manifest.jsonl` has the tensors of the further commits, a line each. A folder of safetensors
//! files that something else wrote, without a manifest, reads the same way.

mod dtype;
mod error;
mod header;
mod manifest;
mod writer;

#[cfg(test)]
mod tests;

pub use dtype::Dtype;
pub use error::TraceError;
pub use writer::TraceWriter;

use header::{Contents, Located, read_header};
use manifest::{MANIFEST, Manifest};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time while widening: a whole number of elements of every type.
const CHUNK: usize = 1 << 20;

/// An open trace. Holds names and places, no data.
#[derive(Debug, Clone)]
pub struct Trace {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

/// One tensor of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique in the trace.
    pub name: String,
    /// Type of the stored elements.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub file: PathBuf,
    start: u64,
    bytes: usize,
}

impl Entry {
    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.bytes / self.dtype.size()
    }

    /// Length of the stored tensor in bytes.
    pub fn byte_count(&self) -> usize {
        self.bytes
    }
}

impl Trace {
    /// Opens the trace folder at `path`; without a manifest, all its `*.safetensors` files; or one such
    /// file. Reads the manifest and the headers, and checks every place against the length of its file.
    ///
    /// # Errors
    /// Nothing to read there; a file is truncated, or is not safetensors; tensors overlap; a name occurs
    /// twice; the manifest was never finished or disagrees with a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let path = path.as_ref();
        let kind = std::fs::metadata(path).map_err(|source| TraceError::io(path, source))?;
        if !kind.is_dir() {
            return Trace::of_files(path, &[path.to_path_buf()]);
        }
        let manifest = path.join(MANIFEST);
        if manifest.exists() {
            return Trace::of_manifest(path, Manifest::read(&manifest)?);
        }
        let files = safetensors_files(path)?;
        if files.is_empty() {
            return Err(TraceError::field(path, "folder", "manifest.json or *.safetensors files", "neither"));
        }
        Trace::of_files(path, &files)
    }

    fn of_files(path: &Path, files: &[PathBuf]) -> Result<Self, TraceError> {
        let mut trace = Trace::empty(path, BTreeMap::new());
        for file in files {
            let Contents { tensors, metadata } = read_header(file)?;
            for (key, value) in metadata {
                match trace.metadata.get(&key) {
                    Some(said) if *said != value => {
                        let said = format!("{said:?}, as another file of the trace says");
                        return Err(TraceError::field(
                            file,
                            format!("metadata `{key}`"),
                            said,
                            format!("{value:?}"),
                        ));
                    }
                    _ => trace.metadata.insert(key, value),
                };
            }
            for located in tensors {
                trace.push(file, located)?;
            }
        }
        Ok(trace)
    }

    fn of_manifest(path: &Path, manifest: Manifest) -> Result<Self, TraceError> {
        let at = path.join(MANIFEST);
        let mut parts: HashMap<String, HashMap<String, Located>> = HashMap::new();
        let mut trace = Trace::empty(path, manifest.metadata);
        for listed in manifest.tensors {
            let file = path.join(&listed.file);
            if !parts.contains_key(&listed.file) {
                let header =
                    read_header(&file)?.tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor));
                parts.insert(listed.file.clone(), header.collect());
            }
            let located = parts.get_mut(&listed.file).and_then(|part| part.remove(&listed.name));
            let Some(located) = located else {
                let field = format!("tensor `{}`", listed.name);
                return Err(TraceError::field(
                    &at,
                    field,
                    format!("once, in {}", listed.file),
                    "no such tensor there",
                ));
            };
            if (located.dtype, &located.shape) != (listed.dtype, &listed.shape) {
                let field = format!("tensor `{}`", listed.name);
                let expected = format!("{} {:?}, as {MANIFEST} says", listed.dtype, listed.shape);
                let found = format!("{} {:?}", located.dtype, located.shape);
                return Err(TraceError::field(&file, field, expected, found));
            }
            trace.push(&file, located)?;
        }
        let mut unlisted = parts.iter().flat_map(|(file, part)| part.keys().map(move |name| (file, name)));
        if let Some((file, name)) = unlisted.next() {
            return Err(TraceError::field(&at, format!("tensor `{name}` of {file}"), "an entry", "none"));
        }
        Ok(trace)
    }

    fn empty(path: &Path, metadata: BTreeMap<String, String>) -> Self {
        Trace { path: path.to_path_buf(), metadata, entries: Vec::new(), index: HashMap::new() }
    }

    fn push(&mut self, file: &Path, located: Located) -> Result<(), TraceError> {
        let Located { name, dtype, shape, start, bytes } = located;
        if let Some(first) = self.index.insert(name.clone(), self.entries.len()) {
            let found = format!("another in {}", self.entries[first].file.display());
            return Err(TraceError::field(file, format!("tensor `{name}`"), "a unique name", found));
        }
        self.entries.push(Entry { name, dtype, shape, file: file.to_path_buf(), start, bytes });
        Ok(())
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest's metadata; without a manifest, that of the files' headers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names in the order of writing; without a manifest, by file name and place in the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Dtype, shape and file of a tensor.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn entry(&self, name: &str) -> Result<&Entry, TraceError> {
        self.index.get(name).map(|at| &self.entries[*at]).ok_or_else(|| TraceError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
            count: self.entries.len(),
        })
    }

    /// The values of a tensor as f32. f64 and integers beyond 24 bits are rounded to the nearest f32.
    ///
    /// # Errors
    /// No such tensor; the file cannot be read or has become shorter; a bool is neither 0 nor 1.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, TraceError> {
        let entry = self.entry(name)?;
        let mut file = open_at(entry)?;
        let mut values = Vec::with_capacity(entry.value_count());
        let mut chunk = vec![0u8; CHUNK.min(entry.bytes)];
        let mut left = entry.bytes;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK)];
            file.read_exact(part).map_err(|source| TraceError::io(&entry.file, source))?;
            entry.dtype.widen(part, &mut values).map_err(|byte| {
                TraceError::field(&entry.file, format!("tensor `{name}`, a bool"), "0 or 1", byte)
            })?;
            left -= part.len();
        }
        Ok(values)
    }

    /// The bytes of a tensor as stored, little-endian.
    ///
    /// # Errors
    /// No such tensor; the file cannot be read or has become shorter.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, TraceError> {
        let entry = self.entry(name)?;
        let mut bytes = vec![0u8; entry.bytes];
        open_at(entry)?.read_exact(&mut bytes).map_err(|source| TraceError::io(&entry.file, source))?;
        Ok(bytes)
    }
}

/// The entry's file at its first byte. The length is checked again, before memory is taken for a tensor
/// of a file that has changed since it was opened.
fn open_at(entry: &Entry) -> Result<File, TraceError> {
    let io = |source| TraceError::io(&entry.file, source);
    let mut file = File::open(&entry.file).map_err(io)?;
    let (needed, found) = (entry.start + entry.bytes as u64, file.metadata().map_err(io)?.len());
    if found < needed {
        return Err(TraceError::field(&entry.file, "file length", format!("at least {needed} bytes"), found));
    }
    file.seek(SeekFrom::Start(entry.start)).map_err(io)?;
    Ok(file)
}

/// The `*.safetensors` files of a folder, by name.
fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let io = |source| TraceError::io(folder, source);
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).map_err(io)? {
        let path = item.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
