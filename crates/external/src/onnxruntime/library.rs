//! Finds and loads ONNX Runtime's library: it comes with Python's onnxruntime, or by itself.

use crate::places::{Wanted, libraries_in, nothing_at};
use ort::environment::Environment;
use std::path::Path;
use std::sync::Mutex;
use steadyhand_gr00t::{Error, Result};

/// One environment a process: ONNX Runtime allows no second one.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

const WANTED: Wanted = Wanted { variable: "ORT_DYLIB_PATH", package: "onnxruntime/capi" };

/// Loads the library `given` (a file, or a folder with it), or the first that is found: the one that
/// `ORT_DYLIB_PATH` names; that of a Python package in `VIRTUAL_ENV`, beside a `python3` in `PATH`, where that says it
/// is installed, or in the home folder; one in `LD_LIBRARY_PATH` or in the system's folders. A process that
/// has loaded one keeps it.
///
/// # Errors
/// None of them could be loaded: every place with what was found there.
pub(super) fn load(given: Option<&Path>) -> Result<Environment> {
    // A panic elsewhere leaves the value as it was: there or not there.
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
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
                    return Ok(environment.insert(built).clone());
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
