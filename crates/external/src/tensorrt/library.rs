//! Finds the libraries: they come with Python's packages, or with NVIDIA's archives.

use super::ffi::{Library, Product, Version, known_versions};
use super::target::Target;
use crate::places::{Wanted, libraries_in, nothing_at};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::{Error, Result};

/// Where a product's library is looked for, and how it is called.
struct Sought {
    product: Product,
    wanted: Wanted,
    runtime: &'static str,
    /// The library that reads graphs; none where they are made layer by layer.
    parser: Option<&'static str>,
    /// How it is had.
    help: &'static str,
}

/// The products, the one that is taken first where no target is named before the other.
static SOUGHT: [Sought; 2] = [
    Sought {
        product: Product::TensorRtRtx,
        wanted: Wanted { variable: "TENSORRT_RTX_PATH", packages: &["tensorrt_rtx_libs"] },
        runtime: "libtensorrt_rtx.so",
        parser: Some("libtensorrt_onnxparser_rtx.so"),
        help: "pip install tensorrt-rtx-cu13-libs, or name the folder with --tensorrt or TENSORRT_RTX_PATH",
    },
    Sought {
        product: Product::TensorRt,
        wanted: Wanted { variable: "TENSORRT_PATH", packages: &["tensorrt", "tensorrt_libs"] },
        runtime: "libnvinfer.so",
        parser: None,
        help: "pip download --no-deps --only-binary :all: --python-version 310 --platform manylinux_2_17_x86_64 \
               tensorrt==8.5.3.1 (or tensorrt==8.6.0), unzip it, have libcublasLt and libcublas of nvidia-cublas-cu11 (or \
               nvidia-cublas-cu12) beside it to build, and name the folder with --tensorrt or TENSORRT_PATH",
    },
];

/// Libraries that were found, and that load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Whose they are.
    pub product: Product,
    /// The runtime and builder.
    pub runtime: PathBuf,
    /// The ONNX parser beside it, where it reads graphs.
    pub parser: Option<PathBuf>,
    /// The runtime's version.
    pub version: Version,
}

/// Where the libraries are, and their version: what is at `given` (the runtime's library, or the folder with it), or
/// the first that loads of: what `TENSORRT_RTX_PATH` or `TENSORRT_PATH` names; the Python package in `VIRTUAL_ENV`,
/// beside a `python3` in `PATH`, where that says it is installed, or in the home folder; `LD_LIBRARY_PATH`; the
/// system's folders. A place that was named is the only one. Without a target TensorRT-RTX is taken before TensorRT.
///
/// # Errors
/// None of them loads: every place with what was found there.
pub fn locate(given: Option<&Path>, target: Option<Target>) -> Result<Located> {
    Ok(load(given, target)?.1)
}

/// As [`locate`], with the libraries loaded.
pub(super) fn load(given: Option<&Path>, target: Option<Target>) -> Result<(Library, Located)> {
    let mut tried = Vec::new();
    let asked = SOUGHT.iter().filter(|sought| target.is_none_or(|target| target.product == sought.product));
    let asked: Vec<&Sought> = asked.collect();
    for sought in &asked {
        let places = sought.wanted.places(given);
        tried.extend(sought.wanted.no_package(&places));
        for place in places {
            let runtimes = libraries_in(&place, |name| is_library(name, sought.runtime));
            if runtimes.is_empty() {
                tried.push(sought.nothing_at(&place));
            }
            for runtime in runtimes {
                match sought.open(&runtime, target) {
                    Ok(loaded) => return Ok(loaded),
                    Err(reason) => tried.push(reason),
                }
            }
        }
    }
    // Of two products a folder was looked at twice.
    tried.dedup();
    let names: Vec<String> =
        asked.iter().map(|sought| format!("{} {}", sought.product, known_versions(sought.product))).collect();
    let help: Vec<&str> = asked.iter().map(|sought| sought.help).collect();
    let asked_for = target.map_or(String::new(), |target| format!(" for --target {target}"));
    let what = format!(
        "expected the library of {}{asked_for}, found none; {}:\n  {}",
        names.join(" or of "),
        help.join("; or "),
        tried.join("\n  ")
    );
    Err(Error::input("tensorrt", what))
}

/// Whether a file's name is that of this library, of whatever version, and not of its parts: `libnvinfer.so.8`.
fn is_library(name: &str, library: &str) -> bool {
    name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Sought {
    /// What stands in an error for a place without the library.
    fn nothing_at(&self, place: &Path) -> String {
        let others = SOUGHT.iter().filter(|other| other.product != self.product);
        for other in others {
            if let Some(found) = libraries_in(place, |name| is_library(name, other.runtime)).first() {
                let (found, other, own) = (found.display(), other.product, self.product);
                return format!("{found}: {other}'s library; {own}'s is another");
            }
        }
        nothing_at(place)
    }

    fn open(&self, runtime: &Path, target: Option<Target>) -> Result<(Library, Located), String> {
        let folder = runtime.parent().unwrap_or(Path::new("."));
        let parser = self.parser.map(|parser| {
            let found = libraries_in(folder, |name| is_library(name, parser)).into_iter().next();
            found.ok_or_else(|| format!("{}: no {parser} beside it", runtime.display()))
        });
        let parser = parser.transpose()?;
        let library = Library::load(self.product, runtime, parser.as_deref())?;
        let version = library.version();
        if let Some(target) = target.filter(|target| !target.takes(version)) {
            return Err(format!("{}: version {version}, where --target is {target}", runtime.display()));
        }
        Ok((library, Located { product: self.product, runtime: runtime.to_path_buf(), parser, version }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_were_looked_at_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rtx = Some("rtx".parse().expect("a target"));
        let refusal = |target| locate(Some(folder.path()), target).expect_err("a refusal").to_string();
        let of = |name: &str| folder.path().join(name);
        assert!(
            refusal(rtx).ends_with(&format!("{}: no library", folder.path().display())),
            "{}",
            refusal(rtx)
        );
        assert!(refusal(rtx).contains("pip install tensorrt-rtx-cu13-libs"));
        let any = refusal(None);
        assert!(any.contains("TensorRT-RTX 1.5 to 1.7 or of TensorRT 8.5, 8.6, 10.0 to 10.16"), "{any}");
        std::fs::write(of("libnvinfer.so.10"), b"").expect("a file");
        assert!(refusal(rtx).contains("TensorRT-RTX's is another"), "{}", refusal(rtx));
        std::fs::write(of("libtensorrt_rtx.so.1"), b"not a library").expect("a file");
        assert!(refusal(rtx).contains("no libtensorrt_onnxparser_rtx.so beside it"), "{}", refusal(rtx));
        std::fs::write(of("libtensorrt_onnxparser_rtx.so.1"), b"not a library").expect("a file");
        let damaged = refusal(rtx);
        assert!(damaged.contains(&format!("{}: ", of("libtensorrt_rtx.so.1").display())), "{damaged}");
        let missing = folder.path().join("nowhere");
        let message = locate(Some(&missing), rtx).expect_err("a refusal").to_string();
        assert!(message.ends_with("nowhere: nothing there"), "{message}");
    }

    #[test]
    fn parts_of_a_library_are_not_the_library() {
        assert!(
            is_library("libnvinfer.so.8", "libnvinfer.so") && is_library("libnvinfer.so", "libnvinfer.so")
        );
        assert!(!is_library("libnvinfer_plugin.so.8", "libnvinfer.so"));
    }
}
