//! Reads the workspace's own sources and manifests, so that `tests/rules.rs` can hold them to ARCHITECTURE.md.
//!
//! Depends on none of the crates that it reads: it builds in a second and says what is wrong before they compile.
//! The sources are read by a lexer and the little of the grammar that imports need, not by a compiler: what a method
//! call or a macro's expansion reaches without naming a path is not seen.

pub mod circles;
pub mod imports;
pub mod manifest;
pub mod module;
pub mod page;
pub mod tokens;

use std::path::{Path, PathBuf};

/// The workspace's folder: where cargo runs the test, which need not be where it was compiled.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = Path::new(&here);
    here.join("../..").canonicalize().unwrap_or_else(|error| panic!("{}: {error}", here.display()))
}

/// Text of a file; a test that cannot read its subject has failed.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `.rs` file below a folder, sorted.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of a folder that was just opened").path()) {
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
