//! Files that the pages name are there.

use std::path::{Path, PathBuf};

use steadyhand_structure::page::quoted;
use steadyhand_structure::{read, root};

/// Every file and folder of the tree that a build did not make, relative to the root.
fn tree() -> Vec<String> {
    let root = root();
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry of a folder that was just opened").path()) {
            let made = path.file_name().is_some_and(|name| name == "target" || name == ".git");
            let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            if path.is_dir() && !made {
                folders.push(path);
            }
            found.push(name);
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    let root = root();
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let paths = entries.map(|entry| entry.expect("an entry of a folder that was just opened").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
    };
    [below(&root), below(&root.join("docs"))].concat()
}

/// `a/b.rs` and `a/c.rs` of `a/{b,c}.rs`.
fn spelled_out(name: &str) -> Vec<String> {
    match name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (inner, after))) => {
            inner.split(',').flat_map(|one| spelled_out(&format!("{before}{one}{after}"))).collect()
        }
        None => vec![name.to_owned()],
    }
}

/// Whether a quoted word is the name of a file of ours: in the tree's folders, or a source by its ending.
/// `NAME.rs` stands for any.
fn names_a_file(word: &str) -> bool {
    // The official code's own folder.
    let official = word.starts_with("gr00t/");
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./{},".contains(c));
    let placeholder = word
        .split(['/', '.', '-'])
        .any(|part| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase()));
    let folder =
        ["crates/", "tests/", "bench/", "docs/", "demo/"].iter().any(|folder| word.starts_with(folder));
    let ending = Path::new(word).extension().and_then(|ending| ending.to_str());
    // Scripts of other projects are named without a folder.
    let source = match ending {
        Some("rs" | "cu" | "cuh") => true,
        Some("py" | "sh") => word.contains('/'),
        _ => false,
    };
    // `x.rs` and `x/` of a rule are no files.
    plain && !placeholder && !official && word.len() > 4 && (folder || source)
}

/// A page that names a file which moved sends its reader nowhere.
#[test]
fn files_that_pages_name_are_there() {
    let tree = tree();
    let (mut named, mut missing) = (0, Vec::new());
    for page in pages() {
        let text = read(&page);
        // Between fences stand commands and what they print.
        let prose: String = text.split("```").step_by(2).collect();
        for word in quoted(&prose).into_iter().filter(|word| names_a_file(word)) {
            for name in spelled_out(word.trim_end_matches('/')) {
                named += 1;
                let below = format!("/{name}");
                if !tree.iter().any(|path| *path == name || path.ends_with(&below)) {
                    missing.push(format!("{}: `{name}`", page.display()));
                }
            }
        }
    }
    assert!(named > 40, "expected names of files in the pages, found {named}");
    assert!(missing.is_empty(), "named, not there:\n{}", missing.join("\n"));
}
