//! Finds and loads ONNX Runtime's library: it comes with Python's onnxruntime, or by itself.

use super::provider::{self, Provider};
use crate::places::{Wanted, libraries_in, nothing_at};
use ort::environment::Environment;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use steadyhand_gr00t::{Error, Result};

/// One environment a process: ONNX Runtime allows no second one.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

const WANTED: Wanted = Wanted { variable: "ORT_DYLIB_PATH", packages: &["onnxruntime/capi"] };

/// ONNX Runtime's library, as this process has loaded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file.
    pub library: PathBuf,
    /// Such as `1.32.0`, as the file is named or as the library says that it was built; `None` where neither tells.
    pub version: Option<String>,
    /// What it can compute with, of what this crate's engine can ask it for.
    pub providers: Vec<Provider>,
}

/// Where ONNX Runtime is, and what it is. It is loaded to be asked; `given` as for
/// [`OnnxRuntimeEngine`](super::OnnxRuntimeEngine).
///
/// # Errors
/// None loads: every place with what was found there.
pub fn locate(given: Option<&Path>) -> Result<Located> {
    let (_, library) = loaded(given)?;
    let version = version(&library, ort::info());
    Ok(Located { library, version, providers: provider::available()? })
}

/// The version in the name of the file that a path leads to, or in what the library says of its build.
fn version(library: &Path, build: &str) -> Option<String> {
    let file = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let name = file.file_name()?.to_str()?;
    let of_name = name.strip_prefix("libonnxruntime.so.").filter(|version| version.contains('.'));
    let of_build = || build.split_once("git-branch=rel-")?.1.split([',', ' ']).next();
    of_name.or_else(of_build).map(str::to_owned)
}

/// The environment alone.
///
/// # Errors
/// As [`locate`].
pub(super) fn load(given: Option<&Path>) -> Result<Environment> {
    Ok(loaded(given)?.0)
}

/// Loads the library `given` (a file, or a folder with it), or the first that is found: the one that
/// `ORT_DYLIB_PATH` names; that of a Python package in `VIRTUAL_ENV`, beside a `python3` in `PATH`, where that says it
/// is installed, or in the home folder; one in `LD_LIBRARY_PATH` or in the system's folders. A process that
/// has loaded one keeps it.
///
/// # Errors
/// None of them could be loaded: every place with what was found there.
fn loaded(given: Option<&Path>) -> Result<(Environment, PathBuf)> {
    // A panic elsewhere leaves the value as it was: there or not there.
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(loaded) = &*environment {
        return Ok(loaded.clone());
    }
    let places = WANTED.places(given);
    let mut tried: Vec<String> = WANTED.no_package(&places).into_iter().collect();
    for place in places {
        let libraries = libraries_in(&place, is_library);
        if libraries.is_empty() {
            tried.push(nothing_at(&place));
        }
        for library in libraries {
            match ort::init_from(&library) {
                Ok(builder) => {
                    let built = builder.with_name("steady").build();
                    let built = built.map_err(|error| Error::file(&library, error.to_string()))?;
                    return Ok(environment.insert((built, library)).clone());
                }
                Err(error) => tried.push(format!("{}: {error}", library.display())),
            }
        }
    }
    let list = tried.join("\n  ");
    let help = "pip install onnxruntime, or name the library with --onnxruntime or ORT_DYLIB_PATH";
    Err(Error::input(
        "onnxruntime",
        format!("expected ONNX Runtime's library, found none; {help}:\n  {list}"),
    ))
}

/// Whether a file of this name is ONNX Runtime's library.
fn is_library(name: &str) -> bool {
    let linux = name.starts_with("libonnxruntime.so");
    let mac = name.starts_with("libonnxruntime.") && name.ends_with(".dylib");
    linux || mac || name == "onnxruntime.dll"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_file_names_and_builds() {
        let of = |name: &str, build: &str| version(&Path::new("/nowhere").join(name), build);
        let build = "ORT Build Info: git-branch=rel-1.24.1, git-commit-id=2, build type=Release";
        assert_eq!(of("libonnxruntime.so.1.32.0", build).as_deref(), Some("1.32.0"));
        assert_eq!(of("libonnxruntime.so.1", build).as_deref(), Some("1.24.1"));
        assert_eq!(of("onnxruntime.dll", build).as_deref(), Some("1.24.1"));
        assert_eq!(of("libonnxruntime.so", "ORT Build Info: git-branch=main, git-commit-id=2"), None);
    }
}
