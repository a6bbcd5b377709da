//! Checkpoints: a Hugging Face style folder of safetensors, memory-mapped.
//!
//! The weights stay where the file has them; nothing is copied or widened on loading, so a checkpoint
//! costs address space, and pages are read when a layer first uses them. A model of synthetic weights has no
//! checkpoint at all: its [`Loader`] hands out formulas.

pub(crate) mod files;
pub mod fingerprint;
mod loader;
mod mapped;
mod synthetic;
mod weight;

pub use files::processor_file;
pub use fingerprint::{fingerprint, try_fingerprint};
pub use loader::Loader;
pub use synthetic::Synthetic;
pub use weight::{Dtype, Weight};

use crate::{Error, Result};
pub(crate) use mapped::MappedFile;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The tensors of a checkpoint folder, by name.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Weight>,
    /// Looked for once, where actions are not finite.
    non_finite: Arc<OnceLock<Option<NonFinite>>>,
}

/// A weight that is a NaN or an infinity.
#[derive(Debug, Clone)]
struct NonFinite {
    tensor: String,
    place: usize,
    value: f32,
}

impl Checkpoint {
    /// Maps `folder/model.safetensors`, or the shards that `folder/model.safetensors.index.json` lists.
    ///
    /// A tensor is taken from the shard that the index names for it, whatever other shards hold.
    ///
    /// # Errors
    /// A file is missing, truncated or not safetensors; a tensor has a dtype other than bf16, f16 or
    /// f32; the index names a tensor that its shard does not hold; a name stands twice in a header or in the
    /// index.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let index = folder.join("model.safetensors.index.json");
        let single = folder.join("model.safetensors");
        files::check_folder(folder, if index.exists() { &index } else { &single })?;
        let mut tensors = BTreeMap::new();
        let files = if single.exists() {
            map_tensors(&single, &mut tensors, |_| true)?;
            vec![single]
        } else {
            map_shards(folder, &index, &mut tensors)?
        };
        Ok(Checkpoint { folder: folder.to_path_buf(), files, tensors, non_finite: Arc::default() })
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

    /// Whether all weights are finite. The first call reads them all.
    ///
    /// # Errors
    /// A tensor with a NaN or an infinity, with its file and place.
    pub fn check_finite(&self) -> Result<()> {
        let look = || {
            self.tensors.par_iter().find_map_first(|(tensor, weight)| {
                let (place, value) = weight.first_non_finite()?;
                Some(NonFinite { tensor: tensor.clone(), place, value })
            })
        };
        let Some(NonFinite { tensor, place, value }) = self.non_finite.get_or_init(look) else {
            return Ok(());
        };
        let file = self.get(tensor).and_then(Weight::file).unwrap_or(&self.folder);
        Err(Error::file(file, format!("{tensor}: expected finite weights, found {value} at element {place}")))
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }
}

/// Adds the tensors of a file whose names are `wanted`.
fn map_tensors(
    path: &Path,
    tensors: &mut BTreeMap<String, Weight>,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let file = Arc::new(MappedFile::open(path)?);
    let parsed = files::safetensors(path, file.bytes())?;
    let start = file.bytes().as_ptr() as usize;
    for (name, view) in parsed.iter().filter(|(name, _)| wanted(name)) {
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
    let Index { weight_map } = files::read_json(index)?;
    let mut shards: Vec<&String> = weight_map.values().collect();
    shards.sort();
    shards.dedup();
    if let Some(outside) = shards.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(Error::file(index, format!("weight_map: expected file names, found `{outside}`")));
    }
    for shard in &shards {
        let file = folder.join(shard);
        if !file.exists() {
            let listed = weight_map.values().filter(|name| name == shard).count();
            let what = format!("missing, although the index lists {listed} tensors in it; download it, too");
            return Err(Error::file(file, what));
        }
        map_tensors(&file, tensors, |name| weight_map.get(name) == Some(shard))?;
    }
    if let Some((name, shard)) = weight_map.iter().find(|(name, _)| !tensors.contains_key(*name)) {
        return Err(Error::file(folder.join(shard), format!("{name}: listed in the index, not in the file")));
    }
    Ok(shards.into_iter().map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype as StoredDtype, TensorView, serialize_to_file};
    use steadyhand_fidelity::Format;

    /// A checkpoint folder with these files of `(tensor, value)`.
    fn folder(files: &[(&str, &[(&str, f32)])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "Gr00tN1d6"}"#).unwrap();
        for (file, tensors) in files {
            let bytes: Vec<_> = tensors.iter().map(|(name, value)| (*name, value.to_le_bytes())).collect();
            let views = bytes.iter().map(|(name, bytes)| {
                (name.to_string(), TensorView::new(StoredDtype::F32, vec![1], bytes).unwrap())
            });
            serialize_to_file(views, None, &folder.path().join(file)).unwrap();
        }
        folder
    }

    fn index(folder: &Path, text: &str) {
        std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    }

    #[test]
    fn a_stale_copy_in_another_shard_does_not_win() {
        for (a, expected) in [("x.safetensors", 1.0), ("y.safetensors", 2.0)] {
            let folder =
                folder(&[("x.safetensors", &[("a", 1.0), ("b", 3.0)]), ("y.safetensors", &[("a", 2.0)])]);
            index(folder.path(), &format!(r#"{{"weight_map": {{"a": "{a}", "b": "x.safetensors"}}}}"#));
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            assert_eq!(checkpoint.get("a").unwrap().to_vec(Format::F32), [expected]);
        }
    }

    #[test]
    fn what_the_index_says_must_hold() {
        let folder = folder(&[("x.safetensors", &[("a", 1.0)])]);
        let refused = |text: &str| {
            index(folder.path(), text);
            Checkpoint::open(folder.path()).unwrap_err().to_string()
        };
        let error = refused(r#"{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}"#);
        assert!(error.contains("y.safetensors: missing"), "{error}");
        let error = refused(r#"{"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}"#);
        assert!(error.contains("b: listed in the index"), "{error}");
        let error = refused(r#"{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}"#);
        assert!(error.contains("`a` stands twice"), "{error}");
        let error = refused(r#"{"weight_map": {"a": "../x.safetensors"}}"#);
        assert!(error.contains("file names"), "{error}");
    }

    #[test]
    fn a_tensor_that_stands_twice_in_a_header_is_refused() {
        let folder = folder(&[]);
        let entry = r#""a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}"#;
        let header = format!("{{{entry}, {entry}}}");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(1f32.to_le_bytes());
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("stands twice"), "{error}");
    }

    #[test]
    fn a_weight_that_is_no_number_is_named_with_its_file() {
        let folder =
            folder(&[("x.safetensors", &[("a", 1.0)]), ("y.safetensors", &[("b", f32::NEG_INFINITY)])]);
        index(folder.path(), r#"{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}"#);
        let error = Checkpoint::open(folder.path()).unwrap().check_finite().unwrap_err().to_string();
        assert!(error.contains("y.safetensors: b: ") && error.contains("-inf at element 0"), "{error}");
        index(folder.path(), r#"{"weight_map": {"a": "x.safetensors"}}"#);
        assert!(Checkpoint::open(folder.path()).unwrap().check_finite().is_ok());
    }

    #[test]
    fn non_finite_elements_are_told_from_large_ones() {
        for (dtype, size, finite, infinite) in [
            (StoredDtype::F32, 4, f32::MAX.to_le_bytes(), f32::NAN.to_le_bytes()),
            (StoredDtype::F16, 2, [0xff, 0x7b, 0, 0], [0, 0x7c, 0, 0]),
            (StoredDtype::BF16, 2, [0x7f, 0x7f, 0, 0], [0xc0, 0xff, 0, 0]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("config.json"), "{}").unwrap();
            let bytes = [&finite[..size], &infinite[..size]].concat();
            let view = TensorView::new(dtype, vec![2], &bytes).unwrap();
            serialize_to_file([("a", view)], None, &folder.path().join("model.safetensors")).unwrap();
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            let (place, value) = checkpoint.get("a").unwrap().first_non_finite().unwrap();
            assert!(place == 1 && !value.is_finite(), "{dtype:?}: {value} at {place}");
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_told() {
        let refused = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
        let error = refused(Path::new("nvidia/GR00T-N1.6-3B"));
        assert!(error.contains("hf download nvidia/GR00T-N1.6-3B --local-dir GR00T-N1.6-3B"), "{error}");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
        let lfs = folder(&[]);
        std::fs::write(lfs.path().join("model.safetensors"), pointer).unwrap();
        assert!(refused(lfs.path()).contains("Git LFS pointer"), "{}", refused(lfs.path()));
        for (config, found) in [
            (r#"{"type": "groot", "n_obs_steps": 1}"#, "LeRobot's own format"),
            (r#"{"model_type": "gr00t_n1_5", "architectures": ["GR00T_N1_5"]}"#, "N1.5 checkpoint"),
        ] {
            let other = folder(&[("model.safetensors", &[("a", 1.0)])]);
            std::fs::write(other.path().join("config.json"), config).unwrap();
            assert!(refused(other.path()).contains(found), "{}", refused(other.path()));
        }
        let parent = tempfile::tempdir().unwrap();
        for step in ["checkpoint-900", "checkpoint-1000"] {
            std::fs::create_dir(parent.path().join(step)).unwrap();
            std::fs::write(parent.path().join(step).join("config.json"), "{}").unwrap();
        }
        assert!(refused(parent.path()).contains("checkpoint-1000?"), "{}", refused(parent.path()));
    }
}
