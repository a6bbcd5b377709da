//! Where libraries lie that come with Python's packages, or by themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a library lies without a package manager's help.
const SYSTEM: [&str; 5] =
    ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

/// A library to look for.
pub(crate) struct Wanted {
    /// The variable of the environment that names it, or its folder.
    pub(crate) variable: &'static str,
    /// Where a folder of Python packages may have it.
    pub(crate) packages: &'static [&'static str],
}

impl Wanted {
    /// Files and folders to look at, in order. A place that was named, by `given` or by the variable, is the only
    /// one.
    pub(crate) fn places(&self, given: Option<&Path>) -> Vec<PathBuf> {
        if let Some(path) = given {
            return vec![path.to_path_buf()];
        }
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable(self.variable) {
            return vec![PathBuf::from(path)];
        }
        let mut roots: Vec<PathBuf> = variable("VIRTUAL_ENV").map(PathBuf::from).into_iter().collect();
        let paths = variable("PATH").unwrap_or_default();
        let pythons = std::env::split_paths(&paths).filter(|folder| folder.join("python3").exists());
        roots.extend(pythons.filter_map(|folder| Some(folder.parent()?.to_path_buf())));
        roots.extend(python_prefix());
        roots.extend(variable("HOME").map(|home| PathBuf::from(home).join(".local")));
        let mut places: Vec<PathBuf> = roots.iter().flat_map(|root| self.wheels_in(root)).collect();
        if let Some(paths) = variable("LD_LIBRARY_PATH") {
            places.extend(std::env::split_paths(&paths));
        }
        places.extend(SYSTEM.map(PathBuf::from));
        places
    }

    /// What stands in an error where no folder of Python's packages was among the places.
    pub(crate) fn no_package(&self, places: &[PathBuf]) -> Option<String> {
        let of_package = |place: &PathBuf| self.packages.iter().any(|package| place.ends_with(package));
        let none = places.len() > 1 && !places.iter().any(of_package);
        let roots = "Python's packages in VIRTUAL_ENV, beside a python3 in PATH, where python3 says that it is \
                     installed and in ~/.local";
        none.then(|| format!("{roots}: no {}", self.packages.join(" or ")))
    }

    /// Folders with a package's library below a Python installation.
    fn wheels_in(&self, root: &Path) -> Vec<PathBuf> {
        let versions = names_in(&root.join("lib"), |name| name.starts_with("python3"));
        let packages = |version: &PathBuf| ["site-packages", "dist-packages"].map(|name| version.join(name));
        let folders = versions.iter().flat_map(packages);
        let found = folders.flat_map(|folder| self.packages.iter().map(move |package| folder.join(package)));
        found.filter(|folder| folder.is_dir()).collect()
    }
}

/// What stands in an error for a place without a library.
pub(crate) fn nothing_at(place: &Path) -> String {
    let found = if place.exists() { "no library" } else { "nothing there" };
    format!("{}: {found}", place.display())
}

/// Where `python3` says that it is installed. A version manager's `python3` is a script that stands elsewhere.
fn python_prefix() -> Option<PathBuf> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.prefix)"]).output().ok()?;
    let prefix = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(prefix.trim())).filter(|prefix| prefix.is_dir())
}

/// The place itself where it is a file; where it is a folder, what in it has a fitting name, in order.
pub(crate) fn libraries_in(place: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    if place.is_file() { vec![place.to_path_buf()] } else { names_in(place, fits) }
}

/// Entries of a folder whose names fit, in order.
pub(crate) fn names_in(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    let mut paths: Vec<PathBuf> = fitting.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
