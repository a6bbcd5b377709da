//! Finds NVRTC's library: it comes with the CUDA toolkit, or with Python's nvidia-cuda-nvrtc.

use super::nvrtc::Nvrtc;
use super::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the system's loader is asked for, in order.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// The oldest version with sm_90a.
const OLDEST: (u32, u32) = (12, 0);
/// Where a toolkit's root has its libraries.
const IN_TOOLKIT: [&str; 2] = ["lib64", "lib"];
/// Where a folder of Python packages has them: the package of CUDA 13, and of CUDA 12.
const IN_PACKAGES: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// Folders to look into.
type Folders = fn() -> Vec<PathBuf>;

/// Loads the first NVRTC that is not newer than the driver (its major version: a driver of CUDA 12 does not load what
/// NVRTC 13 compiled). `driver_version` is as in [`Properties`](super::Properties); without one, any.
///
/// # Errors
/// None: every library and place with the reason.
pub(super) fn load(driver_version: Option<u32>) -> Result<Nvrtc> {
    let newest_major = driver_version.map(|version| version / 1000);
    let mut tried = Vec::new();
    let mut attempt = |library: &Path, before: &[PathBuf]| {
        let loaded = Nvrtc::load(library, before).and_then(|nvrtc| acceptable(nvrtc, newest_major));
        loaded.map_err(|reason| tried.push(format!("{}: {reason}", library.display()))).ok()
    };
    for name in NAMES {
        if let Some(nvrtc) = attempt(Path::new(name), &[]) {
            return Ok(nvrtc);
        }
    }
    let places: [(&str, Folders); 3] = [
        ("toolkits of CUDA_HOME, CUDA_PATH, /usr/local/cuda* and /opt/cuda", toolkits),
        ("Python's nvidia-cuda-nvrtc in VIRTUAL_ENV, beside a python3 in PATH and in ~/.local", packages),
        ("Python's nvidia-cuda-nvrtc where python3 says that it is installed", asked_packages),
    ];
    let mut without = Vec::new();
    for (place, folders) in places {
        let mut found = false;
        for folder in folders() {
            let builtins = names_in(&folder, |name| name.starts_with("libnvrtc-builtins.so"));
            for library in names_in(&folder, |name| name.starts_with("libnvrtc.so")) {
                found = true;
                if let Some(nvrtc) = attempt(&library, &builtins) {
                    return Ok(nvrtc);
                }
            }
        }
        if !found {
            without.push(format!("{place}: no libnvrtc.so"));
        }
    }
    tried.append(&mut without);
    let list = tried.join("\n  ");
    let limit = newest_major.map(|major| format!(" up to version {major}")).unwrap_or_default();
    let help = "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit and name its folder in CUDA_HOME";
    Err(Error::unavailable(
        "load NVRTC",
        format!("expected CUDA's compiler library{limit}, found none; {help}:\n  {list}"),
    ))
}

fn acceptable(nvrtc: Nvrtc, newest_major: Option<u32>) -> Result<Nvrtc, String> {
    let (major, minor) = nvrtc.version();
    if (major, minor) < OLDEST {
        return Err(format!("version {major}.{minor}, expected {}.{} or newer", OLDEST.0, OLDEST.1));
    }
    match newest_major {
        Some(newest) if major > newest => {
            Err(format!("version {major}.{minor}, and the driver speaks CUDA {newest}"))
        }
        _ => Ok(nvrtc),
    }
}

/// Folders of toolkits: those that `CUDA_HOME` and `CUDA_PATH` name, then the usual ones.
fn toolkits() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).collect();
    let mut usual = names_in(Path::new("/usr/local"), |name| name.starts_with("cuda"));
    usual.reverse();
    roots.append(&mut usual);
    roots.push(PathBuf::from("/opt/cuda"));
    let folders = roots.iter().flat_map(|root| {
        let targets = names_in(&root.join("targets"), |_| true);
        let targets = targets.into_iter().map(|target| target.join("lib"));
        IN_TOOLKIT.map(|folder| root.join(folder)).into_iter().chain(targets)
    });
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Folders of Python's package in `VIRTUAL_ENV`, beside a `python3` in `PATH`, and in the home folder.
fn packages() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = variable("VIRTUAL_ENV").into_iter().collect();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&paths).filter(|folder| folder.join("python3").exists());
    roots.extend(pythons.filter_map(|folder| Some(folder.parent()?.to_path_buf())));
    roots.extend(variable("HOME").map(|home| home.join(".local")));
    roots.iter().flat_map(|root| packages_in(root)).collect()
}

/// Folders of Python's package where `python3` says that it is installed, which may be far from where it was found.
/// Asked last: starting it takes longer than the rest.
fn asked_packages() -> Vec<PathBuf> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.prefix)"]).output();
    let prefix = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    prefix.map(|prefix| packages_in(Path::new(prefix.trim()))).unwrap_or_default()
}

/// Folders of Python's package below a Python installation.
fn packages_in(root: &Path) -> Vec<PathBuf> {
    let versions = names_in(&root.join("lib"), |name| name.starts_with("python3"));
    let packages = |version: &PathBuf| ["site-packages", "dist-packages"].map(|name| version.join(name));
    let folders = versions.iter().flat_map(packages);
    let folders = folders.flat_map(|folder| IN_PACKAGES.map(|package| folder.join(package)));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// A variable of the environment that names a folder.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Entries of a folder whose names fit, in order.
fn names_in(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    let mut paths: Vec<PathBuf> = fitting.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_both_cuda_versions_are_found() {
        let root = tempfile::tempdir().unwrap();
        let site = root.path().join("lib/python3.12/site-packages");
        for package in IN_PACKAGES {
            std::fs::create_dir_all(site.join(package)).unwrap();
        }
        assert_eq!(packages_in(root.path()), IN_PACKAGES.map(|package| site.join(package)));
    }

    #[test]
    fn a_compiler_newer_than_the_driver_is_refused() {
        // No driver speaks CUDA 11 only and loads what NVRTC 12 compiled, so none is acceptable.
        let message = load(Some(11080)).err().expect("no NVRTC is both 12 and 11").to_string();
        assert!(message.contains("up to version 11"), "{message}");
        for place in ["libnvrtc.so.13: ", "CUDA_HOME"] {
            assert!(message.contains(place), "{message}");
        }
        // The place where there was no library, or the libraries that are there.
        assert!(message.contains("VIRTUAL_ENV") || message.contains("-packages/nvidia"), "{message}");
    }
}
