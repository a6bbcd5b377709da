//! Which file of a crate imports what from which other file.
//!
//! An import is an arrow to the file whose module is named, and to the file that defines the name where a re-export
//! gives it on. A `mod.rs` that only declares and re-exports thus ends every way; one with code of its own leads to
//! whatever that code imports.
//!
//! No arrows are: a `mod` declaration; a `pub use` of a module's own descendants, unless the module itself uses the name;
//! the import of a module, as distinct from what is then named through it; anything under `#[cfg(test)]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::module::Module;
use crate::read;
use crate::tokens::tokens;

/// A module's path from the crate's root: `["ops", "cpu"]`.
type ModulePath = Vec<String>;

/// A crate's modules, from one root file.
pub struct Crate {
    modules: BTreeMap<ModulePath, Located>,
}

struct Located {
    text: Module,
    file: PathBuf,
    /// The folder that the file speaks for: that of its children where it has any.
    folder: PathBuf,
}

/// Names that one file imports from another.
#[derive(Debug, Default)]
pub struct Arrows(pub BTreeMap<(PathBuf, PathBuf), BTreeSet<String>>);

impl Crate {
    /// Reads the modules that a `lib.rs` or `main.rs` declares.
    pub fn load(root: &Path) -> Self {
        let mut loaded = Self { modules: BTreeMap::new() };
        let folder = root.parent().expect("a root file is in a folder").to_owned();
        loaded.add(Vec::new(), Module::parse(&tokens(&read(root))), root.to_owned(), folder);
        loaded
    }

    fn add(&mut self, at: ModulePath, mut text: Module, file: PathBuf, folder: PathBuf) {
        for name in &text.children {
            let alone = folder.join(name).with_extension("rs");
            let inner = folder.join(name);
            let (child, within) = if alone.exists() { (alone, inner) } else { (inner.join("mod.rs"), inner) };
            let module = Module::parse(&tokens(&read(&child)));
            self.add(join(&at, name), module, child, within);
        }
        for (name, module) in std::mem::take(&mut text.inline) {
            self.add(join(&at, &name), module, file.clone(), folder.join(&name));
        }
        let named = file
            .file_name()
            .is_some_and(|name| ["mod.rs", "lib.rs", "main.rs"].iter().any(|own| name == *own));
        let own = if named || !text.children.is_empty() { folder } else { parent(&file) };
        self.modules.insert(at, Located { text, file, folder: own });
    }

    /// The folder that a file belongs to: a `mod.rs`, or an `x.rs` beside `x/`, to that of its children.
    pub fn folder_of(&self, file: &Path) -> PathBuf {
        let located = self.modules.values().find(|module| module.file == file);
        located.map_or_else(|| parent(file), |module| module.folder.clone())
    }

    /// Names of the modules at the root, tests left out.
    pub fn root_modules(&self) -> BTreeSet<String> {
        self.modules.keys().filter(|path| path.len() == 1).map(|path| path[0].clone()).collect()
    }

    /// Every arrow between two files.
    pub fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::default();
        for (at, module) in &self.modules {
            let text = &module.text;
            let used = text.uses.iter().filter(|used| !used.public || text.names.contains(&used.name));
            let given_on = text.uses.iter().filter(|used| used.public && !text.names.contains(&used.name));
            for path in used.map(|used| &used.path).chain(&text.paths) {
                self.add_arrows(at, path, &mut arrows, |_| true);
            }
            for path in given_on.map(|used| &used.path) {
                self.add_arrows(at, path, &mut arrows, |target| !target.starts_with(at));
            }
        }
        arrows
    }

    fn add_arrows(
        &self,
        at: &[String],
        path: &[String],
        arrows: &mut Arrows,
        counts: impl Fn(&[String]) -> bool,
    ) {
        let mut passed = Vec::new();
        let Some(name) = self.resolve(at, path, &mut passed) else { return };
        for target in passed.iter().filter(|target| counts(target)) {
            arrows.add(&self.modules[at].file, &self.modules[target].file, &name);
        }
    }

    /// The name that a path ends with, and the modules that give it on, the defining one last. None for other crates,
    /// local names and modules.
    fn resolve(&self, at: &[String], path: &[String], passed: &mut Vec<ModulePath>) -> Option<String> {
        let (first, rest) = path.split_first()?;
        if passed.len() > 16 {
            return None;
        }
        match first.as_str() {
            "crate" => self.walk(Vec::new(), rest, passed),
            "self" => self.walk(at.to_vec(), rest, passed),
            "super" => {
                let (_, parent) = at.split_last()?;
                let again = rest.first().is_some_and(|next| next == "super");
                if again {
                    self.resolve(parent, rest, passed)
                } else {
                    self.walk(parent.to_vec(), rest, passed)
                }
            }
            name if self.modules.contains_key(&join(at, name)) => self.walk(join(at, name), rest, passed),
            name => {
                let used = self.modules[at].text.uses.iter().find(|used| used.name == name)?;
                let whole: Vec<_> = used.path.iter().chain(rest).cloned().collect();
                // The name of another crate names itself.
                if used.path[0] == *first { None } else { self.resolve(at, &whole, passed) }
            }
        }
    }

    /// Follows segments down from a module.
    fn walk(&self, mut at: ModulePath, path: &[String], passed: &mut Vec<ModulePath>) -> Option<String> {
        for (index, segment) in path.iter().enumerate() {
            let child = join(&at, segment);
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let text = &self.modules[&at].text;
            let from = passed.len();
            passed.push(at.clone());
            if text.defined.contains(segment) || segment == "*" {
                return Some(segment.clone());
            }
            if let Some(used) = text.uses.iter().find(|used| used.name == *segment) {
                let whole: Vec<_> = used.path.iter().chain(&path[index + 1..]).cloned().collect();
                return self.resolve(&at, &whole, passed);
            }
            for glob in text.uses.iter().filter(|used| used.name == "*") {
                let whole: Vec<_> = glob.path.split_last()?.1.iter().chain([segment]).cloned().collect();
                let found = self.resolve(&at, &whole, passed);
                let defines = |module: &ModulePath| self.modules[module].text.defined.contains(segment);
                if found.is_some() && passed.last().is_some_and(defines) {
                    return found;
                }
                passed.truncate(from + 1);
            }
            // An associated item, or what a macro defines.
            return Some(segment.clone());
        }
        None
    }
}

impl Arrows {
    fn add(&mut self, from: &Path, to: &Path, name: &str) {
        if from != to {
            self.0.entry((from.to_owned(), to.to_owned())).or_default().insert(name.to_owned());
        }
    }
}

fn join(at: &[String], name: &str) -> ModulePath {
    at.iter().cloned().chain([name.to_owned()]).collect()
}

fn parent(file: &Path) -> PathBuf {
    file.parent().expect("a file is in a folder").to_owned()
}
