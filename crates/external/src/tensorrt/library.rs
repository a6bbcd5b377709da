//! Finds TensorRT-RTX's libraries: they come with Python's tensorrt-rtx, or with NVIDIA's archive.

use super::ffi::{KNOWN, Library, Version};
use crate::places::{Wanted, libraries_in, nothing_at};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::{Error, Result};

const WANTED: Wanted = Wanted { variable: "TENSORRT_RTX_PATH", package: "tensorrt_rtx_libs" };
const RUNTIME: &str = "libtensorrt_rtx.so";
const PARSER: &str = "libtensorrt_onnxparser_rtx.so";
/// TensorRT's own library, which is another one.
const OTHER: &str = "libnvinfer.so";

/// Libraries that were found, and that load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The runtime and builder.
    pub runtime: PathBuf,
    /// The ONNX parser beside it.
    pub parser: PathBuf,
    /// The runtime's version.
    pub version: Version,
}

/// Where TensorRT-RTX is, and its version: what is at `given` (the runtime's library, or the folder with it and the
/// parser's), or the first that loads of: what `TENSORRT_RTX_PATH` names; the Python package in `VIRTUAL_ENV`, beside
/// a `python3` in `PATH`, where that says it is installed, or in the home folder; `LD_LIBRARY_PATH`; the system's
/// folders. A place that was named is the only one.
///
/// # Errors
/// None of them loads: every place with what was found there.
pub fn locate(given: Option<&Path>) -> Result<Located> {
    Ok(load(given)?.1)
}

/// As [`locate`], with the libraries loaded.
pub(super) fn load(given: Option<&Path>) -> Result<(Library, Located)> {
    let places = WANTED.places(given);
    let mut tried: Vec<String> = WANTED.no_package(&places).into_iter().collect();
    for place in places {
        let runtimes = libraries_in(&place, |name| name.starts_with(RUNTIME));
        if runtimes.is_empty() {
            tried.push(match libraries_in(&place, |name| name.starts_with(OTHER)).first() {
                Some(other) => format!("{}: TensorRT's library; TensorRT-RTX's is another", other.display()),
                None => nothing_at(&place),
            });
        }
        for runtime in runtimes {
            match load_with_parser(&runtime) {
                Ok(loaded) => return Ok(loaded),
                Err(reason) => tried.push(reason),
            }
        }
    }
    let (major, [first, last]) = KNOWN;
    let list = tried.join("\n  ");
    let help = "pip install tensorrt-rtx-cu13-libs, or name the folder with --tensorrt or TENSORRT_RTX_PATH";
    let what = format!(
        "expected TensorRT-RTX's libraries, {major}.{first} to {major}.{last}, found none; {help}:\n  {list}"
    );
    Err(Error::input("tensorrt", what))
}

fn load_with_parser(runtime: &Path) -> Result<(Library, Located), String> {
    let folder = runtime.parent().unwrap_or(Path::new("."));
    let parsers = libraries_in(folder, |name| name.starts_with(PARSER));
    let parser = parsers.first().ok_or_else(|| format!("{}: no {PARSER} beside it", runtime.display()))?;
    let library = Library::load(runtime, parser)?;
    let version = library.version();
    Ok((library, Located { runtime: runtime.to_path_buf(), parser: parser.clone(), version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_were_looked_at_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refusal = || locate(Some(folder.path())).expect_err("a refusal").to_string();
        let of = |name: &str| folder.path().join(name);
        assert!(refusal().ends_with(&format!("{}: no library", folder.path().display())), "{}", refusal());
        assert!(refusal().contains("pip install tensorrt-rtx-cu13-libs"));
        std::fs::write(of("libnvinfer.so.10"), b"").expect("a file");
        assert!(refusal().contains("TensorRT-RTX's is another"), "{}", refusal());
        std::fs::write(of("libtensorrt_rtx.so.1"), b"not a library").expect("a file");
        assert!(refusal().contains("no libtensorrt_onnxparser_rtx.so beside it"), "{}", refusal());
        std::fs::write(of("libtensorrt_onnxparser_rtx.so.1"), b"not a library").expect("a file");
        let damaged = refusal();
        assert!(damaged.contains(&format!("{}: ", of("libtensorrt_rtx.so.1").display())), "{damaged}");
        let missing = folder.path().join("nowhere");
        let message = locate(Some(&missing)).expect_err("a refusal").to_string();
        assert!(message.ends_with("nowhere: nothing there"), "{message}");
    }
}
