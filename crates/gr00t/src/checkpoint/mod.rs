//! Checkpoints: a Hugging Face style folder of safetensors, memory-mapped.
//!
//! The weights stay where the file has them; nothing is copied or widened on loading, so a checkpoint
//! costs address space, and pages are read when a layer first uses them. A model of synthetic weights has no
//! checkpoint at all: its [`Loader`] hands out formulas.

pub mod fingerprint;
mod loader;
mod mapped;
mod synthetic;
mod weight;

pub use fingerprint::{fingerprint, try_fingerprint};
pub use loader::Loader;
pub use synthetic::Synthetic;
pub use weight::{Dtype, Weight};

use crate::{Error, Result};
use mapped::MappedFile;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tensors of a checkpoint folder, by name.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Weight>,
}

impl Checkpoint {
    /// Maps `folder/model.safetensors`, or the shards that `folder/model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// A file is missing, truncated or not safetensors; a tensor has a dtype other than bf16, f16 or
    /// f32; the index names a tensor that its shard does not hold.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(Error::file(folder, "expected a checkpoint folder, found none"));
        }
        let index = folder.join("model.safetensors.index.json");
        let single = folder.join("model.safetensors");
        let mut tensors = BTreeMap::new();
        let files = if single.exists() {
            map_tensors(&single, &mut tensors)?;
            vec![single]
        } else if index.exists() {
            map_shards(folder, &index, &mut tensors)?
        } else {
            return Err(Error::file(
                folder,
                "expected model.safetensors or model.safetensors.index.json, found neither",
            ));
        };
        Ok(Checkpoint { folder: folder.to_path_buf(), files, tensors })
    }

    /// The folder that was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The safetensors files, in the order of their names.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Every tensor with its name, in the order of the names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }
}

fn map_tensors(path: &Path, tensors: &mut BTreeMap<String, Weight>) -> Result<()> {
    let file = Arc::new(MappedFile::open(path)?);
    let parsed = SafeTensors::deserialize(file.bytes())
        .map_err(|error| Error::file(path, format!("not a whole safetensors file: {error}")))?;
    let start = file.bytes().as_ptr() as usize;
    for (name, view) in parsed.iter() {
        let dtype = Dtype::from_safetensors(view.dtype()).ok_or_else(|| {
            Error::file(path, format!("{name}: expected BF16, F16 or F32, found {:?}", view.dtype()))
        })?;
        let offset = view.data().as_ptr() as usize - start;
        let range = offset..offset + view.data().len();
        let weight = Weight::mapped(name.to_owned(), dtype, view.shape().to_vec(), Arc::clone(&file), range);
        tensors.insert(name.to_owned(), weight);
    }
    Ok(())
}

fn map_shards(folder: &Path, index: &Path, tensors: &mut BTreeMap<String, Weight>) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(|source| Error::io(index, source))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|error| Error::file(index, error.to_string()))?;
    let mut shards: Vec<&String> = parsed.weight_map.values().collect();
    shards.sort();
    shards.dedup();
    if let Some(outside) = shards.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(Error::file(index, format!("weight_map: expected file names, found `{outside}`")));
    }
    let files: Vec<PathBuf> = shards.iter().map(|name| folder.join(name)).collect();
    for file in &files {
        map_tensors(file, tensors)?;
    }
    if let Some((name, shard)) = parsed.weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        return Err(Error::file(folder.join(shard), format!("{name}: listed in the index, not in the file")));
    }
    Ok(files)
}
