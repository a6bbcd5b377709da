//! Files of a checkpoint folder: found where they may lie, and refused with a reason where something else stands
//! in their place.

use crate::{Error, Result, Version};
use safetensors::SafeTensors;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use std::path::{Path, PathBuf};
use steadyhand_files::{Disguise, MAX_VALUE, folders, json};

/// The model's description.
pub(crate) const CONFIG: &str = "config.json";
/// The subfolder in which newer training code leaves what the processor reads.
const PROCESSOR_FOLDER: &str = "processor";

/// Reads a JSON file.
///
/// # Errors
/// It cannot be read, is something else, no JSON, has a key twice in one object, or is no `T`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read(path)?;
    json::from_slice(&text).map_err(|error| Error::file(path, json::why(&text, &error)))
}

/// The bytes of a text file, which must not be something else.
///
/// # Errors
/// It cannot be read, or is a Git LFS pointer, a web page, ….
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = steadyhand_files::read_up_to(path, MAX_VALUE).map_err(|source| Error::io(path, source))?;
    refuse_disguise(path, &bytes)?;
    Ok(bytes)
}

/// A text file.
///
/// # Errors
/// As [`read`]; it is no UTF-8.
pub(crate) fn text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::file(path, "expected UTF-8 text, found other bytes"))
}

/// Whether a file that starts with `bytes` is what it seems.
///
/// # Errors
/// It is something else: what, and what to do.
pub(crate) fn refuse_disguise(path: &Path, bytes: &[u8]) -> Result<()> {
    Disguise::of(bytes).map_or(Ok(()), |found| Err(Error::file(path, format!("is {found}"))))
}

/// The tensors of a safetensors file's contents.
///
/// # Errors
/// The contents are not whole, or are something else; a tensor stands twice in the header, of which the format's reader
/// takes one without a word.
pub(crate) fn safetensors<'a>(path: &Path, file: &'a [u8]) -> Result<SafeTensors<'a>> {
    let parsed = SafeTensors::deserialize(file).map_err(|error| {
        // Only now: the length of a header may look like anything.
        match Disguise::of_binary(file) {
            None => Error::file(path, format!("not a whole safetensors file: {error}")),
            Some(found) => Error::file(path, format!("is {found}")),
        }
    })?;
    let header = file.split_first_chunk::<8>().and_then(|(length, rest)| {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        rest.get(..length)
    });
    match json::from_slice::<IgnoredAny>(header.unwrap_or_default()) {
        Ok(_) => Ok(parsed),
        Err(error) => Err(Error::file(path, format!("header: {error}"))),
    }
}

/// Where a file of the processor lies: in the folder itself, or in `processor/` where the folder has none.
pub fn processor_file(checkpoint: &Path, name: &str) -> PathBuf {
    let (own, below) = (checkpoint.join(name), checkpoint.join(PROCESSOR_FOLDER).join(name));
    if !own.exists() && below.exists() { below } else { own }
}

/// Whether `folder` is a checkpoint's: it exists, it has `file`, and its model is none that is known to be another.
///
/// # Errors
/// One of them does not hold; names the folder that was probably meant, or the download.
pub(crate) fn check_folder(folder: &Path, file: &Path) -> Result<()> {
    if let Some(id) = folders::hub_id(folder) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        return Err(Error::file(
            folder,
            format!(
                "expected a checkpoint folder, found none; a repository of the Hugging Face hub must be downloaded: \
                 hf download {id} --local-dir {name}"
            ),
        ));
    }
    if !folder.is_dir() {
        let found = if folder.exists() { "a file" } else { "none" };
        return Err(Error::file(folder, format!("expected a checkpoint folder, found {found}")));
    }
    refuse_other_model(folder)?;
    if file.exists() {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let meant = folders::meant(folder, CONFIG).filter(|_| !folder.join(CONFIG).exists());
    let hint = match (meant, instead(folder)) {
        (Some(meant), _) => format!("; did you mean {}?", meant.display()),
        (None, Some(instead)) => format!("; {instead}"),
        (None, None) => String::new(),
    };
    // Weights may be in shards.
    let or = if name == "model.safetensors" { " (or model.safetensors.index.json)" } else { "" };
    Err(Error::file(folder, format!("expected a checkpoint folder with {name}{or}, found none there{hint}")))
}

/// What a folder without a checkpoint's file is or has instead, and what to do.
fn instead(folder: &Path) -> Option<&'static str> {
    let has = |name: &str| folder.join(name).exists();
    match () {
        () if has("meta/info.json") => Some("this is a LeRobot dataset, as meta/info.json says"),
        () if has("adapter_config.json") || has("adapter_model.safetensors") => {
            Some("this is a LoRA adapter: merge it into its base model, and save that")
        }
        () if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") => Some(
            "pytorch_model.bin is a pickle, which is not read: load the model in Python, and save it with \
             save_pretrained(..., safe_serialization=True)",
        ),
        () => None,
    }
}

/// Whether `config.json` is of a model that is known, and no version that this crate runs. What cannot be read is left to
/// [`crate::config::Config::load`].
fn refuse_other_model(folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG);
    let Ok(config) = read_json::<Value>(&path) else { return Ok(()) };
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let architecture = config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    let names = [text("model_type"), architecture];
    let named = |name: &str| names.iter().flatten().any(|found| found.eq_ignore_ascii_case(name));
    let found = match text("type") {
        Some(kind) if text("model_type").is_none() => {
            format!("a policy of LeRobot's own format (type `{kind}`), which LeRobot's code wrote and loads")
        }
        _ if named("gr00t_n1_5") || named("Gr00tN1d5") => "a GR00T N1.5 checkpoint".to_owned(),
        _ if named("gr00t_n1") => "a GR00T N1 checkpoint".to_owned(),
        _ => return Ok(()),
    };
    Err(Error::file(
        path,
        format!(
            "expected a {} checkpoint (model_type {}), found {found}",
            Version::ALL.map(|version| version.to_string()).join(" or "),
            Version::expected()
        ),
    ))
}
