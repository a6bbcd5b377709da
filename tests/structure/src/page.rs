//! What ARCHITECTURE.md states in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};

/// One crate of the picture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Names of the crates that it depends on.
    pub depends_on: BTreeSet<String>,
    /// Names of the modules at its root.
    pub modules: BTreeSet<String>,
}

/// The crates of the picture, by folder, in its order.
///
/// An entry begins with its folder at the start of a line; a line below it begins with two spaces and `depends on` or
/// `modules`, and may go on in lines that begin with more. `no other` stands for no crate.
pub fn picture(page: &str) -> Vec<(String, Entry)> {
    let mut found: Vec<(String, Entry)> = Vec::new();
    let block =
        page.split("```").find(|block| block.contains("\n  depends on ")).expect("the picture of the crates");
    let mut modules = false;
    for line in block.lines() {
        if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            let folder = line.split_whitespace().next().unwrap_or_default();
            found.push((folder.to_owned(), Entry::default()));
            continue;
        }
        let Some((_, entry)) = found.last_mut() else { continue };
        let line = line.trim_start();
        let (list, names) = match (line.strip_prefix("depends on "), line.strip_prefix("modules ")) {
            (Some(names), _) => (false, names),
            (_, Some(names)) => (true, names),
            _ => (modules, line),
        };
        modules = list;
        let named = names.split_whitespace().map(str::to_owned);
        if modules {
            entry.modules.extend(named);
        } else if names.trim() != "no other" {
            entry.depends_on.extend(named);
        }
    }
    found
}

/// Lines of the page that begin with `**Invariant.**`, and the names that follow `Held by`.
pub fn invariants(page: &str) -> BTreeMap<&str, Vec<&str>> {
    let lines = page
        .lines()
        .map(|line| line.trim_start_matches("- "))
        .filter(|line| line.starts_with("**Invariant.**"));
    lines
        .map(|line| (line, line.rsplit_once("Held by ").map_or(Vec::new(), |(_, holders)| quoted(holders))))
        .collect()
}

/// What a text has between backticks.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::{Entry, invariants, picture};

    #[test]
    fn entries_go_on_over_lines() {
        let page = "a\n```\nx\n```\n```\ncrates/a  text\n  depends on  no other\n  modules     m n\n              o\ncrates/b\n  depends on  a\n```";
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let a = Entry { depends_on: set(&[]), modules: set(&["m", "n", "o"]) };
        let b = Entry { depends_on: set(&["a"]), modules: set(&[]) };
        assert_eq!(picture(page), [("crates/a".to_owned(), a), ("crates/b".to_owned(), b)]);
    }

    #[test]
    fn an_invariant_names_what_holds_it() {
        let page =
            "- **Invariant.** `x` is y. Held by `test_of_x`, `other`.\n- **Invariant.** Nothing holds this.";
        assert_eq!(invariants(page).into_values().collect::<Vec<_>>(), [vec![], vec!["test_of_x", "other"]]);
    }
}
