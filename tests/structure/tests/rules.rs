//! What ARCHITECTURE.md says of the workspace, held against its sources and manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use steadyhand_structure::imports::Crate;
use steadyhand_structure::manifest::{Member, members};
use steadyhand_structure::tokens::{Token, tokens};
use steadyhand_structure::{circles, page, read, root, rust_files};

fn architecture() -> String {
    read(&root().join("ARCHITECTURE.md"))
}

/// `gr00t` of `crates/gr00t`.
fn name(folder: &str) -> &str {
    folder.rsplit('/').next().unwrap_or(folder)
}

/// A crate of `crates/`; one that is not there would make a rule hold of nothing.
fn member<'a>(all: &'a BTreeMap<String, Member>, name: &str) -> &'a Member {
    all.get(&format!("crates/{name}"))
        .unwrap_or_else(|| panic!("crates/{name}: expected a crate, found none"))
}

/// Files of one folder may import each other as they like; files of different folders only one way.
#[test]
fn no_import_circle_between_folders() {
    let root = root();
    let mut found = String::new();
    for member in members(&root).values() {
        for file in member.roots(&root) {
            let krate = Crate::load(&file);
            let circles = circles::between_folders(&krate, &krate.arrows(), &root);
            for (number, circle) in circles.iter().enumerate() {
                found += &format!("{} circle {} of {}\n{circle}", member.folder, number + 1, circles.len());
            }
        }
    }
    assert!(found.is_empty(), "files of different folders import each other:\n{found}");
}

/// The picture names every crate, what it depends on and the modules at its root; crates come after what they need.
#[test]
fn the_picture_shows_the_crates_as_they_are() {
    let root = root();
    let drawn = page::picture(&architecture());
    let mut wrong = Vec::new();
    let mut above = BTreeSet::new();
    let all = members(&root);
    for (folder, entry) in &drawn {
        let Some(member) = all.get(folder) else {
            wrong.push(format!("{folder}: drawn, no member of the workspace"));
            continue;
        };
        let needs: BTreeSet<_> = member.needs.iter().map(|folder| name(folder).to_owned()).collect();
        if needs != entry.depends_on {
            wrong.push(format!("{folder}: drawn with {:?}, depends on {needs:?}", entry.depends_on));
        }
        let modules: BTreeSet<_> =
            member.roots(&root).iter().flat_map(|file| Crate::load(file).root_modules()).collect();
        for module in modules.symmetric_difference(&entry.modules) {
            let drawn = if modules.contains(module) { "not drawn" } else { "drawn, not there" };
            wrong.push(format!("{folder}: module {module}: {drawn}"));
        }
        wrong.extend(
            needs.difference(&above).map(|need| format!("{folder}: drawn above {need}, which it depends on")),
        );
        above.insert(name(folder).to_owned());
    }
    let names: BTreeSet<_> = drawn.iter().map(|(folder, _)| folder).collect();
    wrong.extend(
        all.keys().filter(|folder| !names.contains(folder)).map(|folder| format!("{folder}: not drawn")),
    );
    assert!(
        wrong.is_empty(),
        "ARCHITECTURE.md differs from the Cargo.toml files and sources:\n{}",
        wrong.join("\n")
    );
}

/// What a crate must not need, not even for its tests, on any way.
#[test]
fn crates_do_not_depend_on_what_they_must_not_know() {
    let all = members(&root());
    let engines = ["cuda-driver", "gr00t-cuda", "external", "gr00t-lab", "serve", "cli"];
    let forbidden: [(&str, &[&str]); 7] = [
        ("fidelity", &["lerobot", "gr00t", "cuda-driver", "gr00t-cuda", "external", "gr00t-lab", "cli"]),
        ("lerobot", &["fidelity", "gr00t", "cuda-driver", "gr00t-cuda", "external", "gr00t-lab", "cli"]),
        ("cuda-driver", &["lerobot", "gr00t", "gr00t-cuda", "external", "gr00t-lab", "cli"]),
        ("gr00t", &engines),
        ("gr00t-lab", &["cuda-driver", "gr00t-cuda", "external", "cli"]),
        ("external", &["gr00t-cuda", "gr00t-lab", "cli"]),
        ("serve", &["cuda-driver", "gr00t-cuda", "external", "gr00t-lab", "cli"]),
    ];
    for (krate, others) in forbidden {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<_> =
            member(&all, krate).needs_for_tests.iter().chain(&member(&all, krate).needs).collect();
        while let Some(folder) = waiting.pop() {
            if reached.insert(name(folder)) {
                waiting.extend(&all[folder].needs);
            }
        }
        for other in others {
            member(&all, other);
            assert!(!reached.contains(other), "{krate} must not depend on {other}, and does");
        }
    }
}

/// The mathematics knows neither number formats nor who computes.
#[test]
fn the_model_knows_no_format_and_no_device() {
    let source = root().join("crates/gr00t/src");
    let arrows = Crate::load(&source.join("lib.rs")).arrows();
    let model = source.join("model");
    assert!(
        arrows.0.keys().any(|(from, _)| from.starts_with(&model)),
        "no file of the model imports anything"
    );
    for ((from, to), names) in &arrows.0 {
        let known =
            ["precision", "ops/cpu", "ops/onnx"].iter().any(|other| to.starts_with(source.join(other)));
        assert!(
            !from.starts_with(&model) || !known,
            "{} imports {names:?} from {}",
            from.display(),
            to.display()
        );
    }
}

/// The keyword, in any file of Rust: tests and examples too.
#[test]
fn unsafe_only_where_listed() {
    let root = root();
    let page = architecture();
    let stated = page::invariants(&page);
    let line = stated.iter().find(|(_, holders)| holders.contains(&"unsafe_only_where_listed"));
    let (line, _) = line.expect("the line that lists where `unsafe` may stand");
    let listed: Vec<_> = page::quoted(line).into_iter().filter(|path| path.starts_with("crates/")).collect();
    let mut used = BTreeSet::new();
    for file in rust_files(&root.join("crates")) {
        let source = read(&file);
        let relative = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        let Some(token) = tokens(&source).into_iter().find(|token| token.text == "unsafe") else { continue };
        let Some(place) = listed.iter().find(|place| relative.starts_with(**place)) else {
            panic!("{relative}:{}: `unsafe` in a file that ARCHITECTURE.md does not list", token.line);
        };
        used.insert(*place);
    }
    for place in &listed {
        assert!(used.contains(place), "{place}: listed in ARCHITECTURE.md, has no `unsafe`");
    }
}

/// The lints that deny `unsafe` and missing documentation reach every crate.
#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let root = root();
    for folder in members(&root).keys() {
        let manifest = read(&root.join(folder).join("Cargo.toml"));
        assert!(
            manifest.contains("\n[lints]\nworkspace = true\n"),
            "{folder}/Cargo.toml: expected the workspace's lints"
        );
    }
}

/// Libraries give values and errors to who calls them.
#[test]
fn libraries_neither_print_nor_exit() {
    let root = root();
    for member in members(&root).values().filter(|member| member.folder != "crates/cli") {
        for file in rust_files(&root.join(&member.folder).join("src")) {
            let source = read(&file);
            let tokens = tokens(&source);
            for (index, token) in tokens.iter().enumerate() {
                let next = |offset: usize| tokens.get(index + offset).map_or("", |next: &Token| next.text);
                let prints =
                    ["print", "println", "eprint", "eprintln", "dbg"].contains(&token.text) && next(1) == "!";
                let exits =
                    token.text == "process" && next(1) == "::" && ["exit", "abort"].contains(&next(2));
                assert!(!prints && !exits, "{}:{}: a library prints or exits", file.display(), token.line);
            }
        }
    }
}

/// Longest that a source file may be.
const LINES: usize = 500;

#[test]
fn files_stay_short() {
    let root = root();
    let mut long = Vec::new();
    for file in sources(&root.join("crates")) {
        let lines = read(&file).lines().count();
        long.extend((lines > LINES).then(|| format!("{}: {lines} lines", file.display())));
    }
    assert!(long.is_empty(), "{LINES} lines at most:\n{}", long.join("\n"));
}

/// Rust and CUDA.
fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let kernels = folder.join("gr00t-cuda/src/kernels");
    let kernels =
        std::fs::read_dir(&kernels).unwrap_or_else(|error| panic!("{}: {error}", kernels.display()));
    let kernels: Vec<_> =
        kernels.map(|entry| entry.expect("an entry of a folder that was just opened").path()).collect();
    assert!(
        kernels.iter().any(|path| path.extension().is_some_and(|extension| extension == "cu")),
        "no kernels found"
    );
    rust_files(folder).into_iter().chain(kernels.into_iter().filter(|path| path.is_file())).collect()
}

/// Every invariant names the compiler or tests that there are.
#[test]
fn every_invariant_is_held() {
    let root = root();
    let mut tests = BTreeSet::new();
    for file in rust_files(&root.join("crates")).into_iter().chain(rust_files(&root.join("tests"))) {
        let source = read(&file);
        let tokens = tokens(&source);
        tests.extend(
            tokens.windows(2).filter(|pair| pair[0].text == "fn").map(|pair| pair[1].text.to_owned()),
        );
    }
    let page = architecture();
    let stated = page::invariants(&page);
    assert!(
        stated.len() > 4,
        "ARCHITECTURE.md: expected lines that begin with **Invariant.**, found {}",
        stated.len()
    );
    for (line, holders) in stated {
        assert!(!holders.is_empty() || line.ends_with("Held by the compiler."), "nothing holds this: {line}");
        for holder in holders {
            assert!(tests.contains(holder), "no test is named {holder}: {line}");
        }
    }
}

/// The README's first commands are steps of `.ci/run`, as they are written there.
#[test]
fn ci_runs_what_the_readme_promises() {
    let (readme, ci) = (read(&root().join("README.md")), read(&root().join(".ci/run")));
    let block = readme
        .split("```sh")
        .nth(1)
        // What else stands in the opening line is for `.ci/commands.py`.
        .and_then(|rest| rest.split_once('\n')?.1.split("```").next())
        .expect("a block of commands");
    let commands: Vec<_> = block.lines().map(|line| line.split('#').next().unwrap_or(line).trim()).collect();
    assert_eq!(
        commands.len(),
        2,
        "README.md: expected the two commands that it begins with, found {commands:?}"
    );
    for command in commands {
        let steps: Vec<_> = ci.lines().filter_map(|line| line.strip_prefix("step ")).collect();
        let found =
            steps.iter().filter(|step| **step == command || step.starts_with(&format!("{command} "))).count();
        assert_eq!(found, 1, ".ci/run: expected `step {command}` once, found it {found} times");
    }
}

/// The program of the first page is an example, which `.ci/run` runs.
#[test]
fn the_first_page_has_a_program_that_is_run() {
    let readme = read(&root().join("README.md"));
    let programs: Vec<_> = readme.split("```rust").skip(1).filter_map(|rest| rest.split_once('\n')).collect();
    assert_eq!(programs.len(), 1, "README.md: expected one program");
    let program = programs[0].1.split("```").next().unwrap_or_default();
    let example = read(&root().join("crates/gr00t/examples/readme.rs"));
    let (_, code) = example.split_once("\n\n").expect("a comment and the program");
    assert_eq!(code, program, "crates/gr00t/examples/readme.rs: expected the program of README.md");
    let ci = read(&root().join(".ci/run"));
    assert!(
        ci.contains("for example in crates/gr00t/examples/*.rs"),
        ".ci/run: expected to run the examples"
    );
}
