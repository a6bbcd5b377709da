//! What the workspace's crates depend on, from their `Cargo.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::read;

/// One member of the workspace.
#[derive(Debug)]
pub struct Member {
    /// Relative to the workspace: `crates/gr00t`.
    pub folder: String,
    /// Folders of the members that it cannot be built without.
    pub needs: BTreeSet<String>,
    /// Folders of the members that only its tests and examples need.
    pub needs_for_tests: BTreeSet<String>,
}

/// Every member, by folder.
pub fn members(root: &Path) -> BTreeMap<String, Member> {
    let workspace = parse(&root.join("Cargo.toml"));
    let folders = workspace["workspace"]["members"].as_array().expect("a list of members");
    let folders: Vec<_> =
        folders.iter().map(|folder| folder.as_str().expect("a folder's name").to_owned()).collect();
    let manifests: Vec<_> =
        folders.iter().map(|folder| parse(&root.join(folder).join("Cargo.toml"))).collect();
    let packages: BTreeMap<_, _> = folders
        .iter()
        .zip(&manifests)
        .map(|(folder, manifest)| (manifest["package"]["name"].as_str().expect("a package's name"), folder))
        .collect();
    let shared = renamed(&workspace["workspace"]);
    let named = |manifest: &Table, kinds: &[&str]| -> BTreeSet<String> {
        let listed = dependencies(manifest, kinds);
        let listed = listed.iter().map(|name| shared.get(name).unwrap_or(name));
        listed.filter_map(|name| packages.get(name.as_str())).map(|folder| (*folder).clone()).collect()
    };
    folders
        .iter()
        .zip(&manifests)
        .map(|(folder, manifest)| {
            let needs = named(manifest, &["dependencies", "build-dependencies"]);
            let needs_for_tests = named(manifest, &["dev-dependencies"]);
            (folder.clone(), Member { folder: folder.clone(), needs, needs_for_tests })
        })
        .collect()
}

impl Member {
    /// Root files of the library and the program, those that there are.
    pub fn roots(&self, root: &Path) -> Vec<PathBuf> {
        let source = root.join(&self.folder).join("src");
        ["lib.rs", "main.rs"].iter().map(|name| source.join(name)).filter(|path| path.exists()).collect()
    }
}

/// Names of packages in the tables of these kinds, those for single platforms included.
fn dependencies(manifest: &Table, kinds: &[&str]) -> BTreeSet<String> {
    let platforms = manifest.get("target").and_then(|target| target.as_table());
    let platforms =
        platforms.into_iter().flat_map(|table| table.values()).filter_map(|value| value.as_table());
    let tables =
        platforms.chain([manifest]).flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)));
    tables
        .filter_map(|table| table.as_table())
        .flatten()
        .map(|(name, value)| {
            let renamed = value.get("package").and_then(|package| package.as_str());
            renamed.unwrap_or(name).to_owned()
        })
        .collect()
}

/// Packages that the workspace's dependencies have under another name, by that name.
fn renamed(workspace: &Value) -> BTreeMap<String, String> {
    let listed = workspace.get("dependencies").and_then(Value::as_table).into_iter().flatten();
    let package = |value: &Value| Some(value.get("package")?.as_str()?.to_owned());
    listed.filter_map(|(name, value)| Some((name.clone(), package(value)?))).collect()
}

fn parse(path: &Path) -> Table {
    read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
