//! One module as written: what it declares, imports and names by path.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::Token;

/// What a module's text says. Items under `#[cfg(test)]` are left out: tests may know everything.
#[derive(Debug, Default)]
pub struct Module {
    /// Modules whose text is in files of their own.
    pub children: BTreeSet<String>,
    /// Modules written inside this one.
    pub inline: BTreeMap<String, Module>,
    /// Names of functions, types, constants and macros.
    pub defined: BTreeSet<String>,
    /// One entry for each name that a `use` brings in.
    pub uses: Vec<Use>,
    /// Paths of two segments and more, wherever they are written.
    pub paths: Vec<Vec<String>>,
    /// Names used outside `use`: types and constants anywhere, functions where they are called or name a path.
    pub names: BTreeSet<String>,
}

/// A name that a `use` brings in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Segments as written; the last is `*` for a glob. `a::{self}` is `a`.
    pub path: Vec<String>,
    /// What it is called here.
    pub name: String,
    /// Whether it is given on: `pub use`, however far.
    pub public: bool,
}

const DEFINING: [&str; 9] =
    ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];

impl Module {
    /// Reads a module's tokens, all of them.
    pub fn parse(tokens: &[Token]) -> Self {
        let mut module = Self::default();
        let mut at = 0;
        let mut depth = 0_usize;
        while at < tokens.len() {
            at = module.step(tokens, at, &mut depth);
        }
        module
    }

    /// Reads what starts at a token and says where the next thing starts.
    fn step(&mut self, tokens: &[Token], at: usize, depth: &mut usize) -> usize {
        let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text);
        match text(0) {
            "#" if text(1) == "[" => {
                let end = group_end(tokens, at + 1);
                return if for_tests(&tokens[at..end]) { item_end(tokens, end) } else { end };
            }
            "#" if text(1) == "!" => return group_end(tokens, at + 2),
            "{" => *depth += 1,
            "}" => *depth = depth.saturating_sub(1),
            "use" => {
                let end = statement_end(tokens, at);
                let public = at > 0 && matches!(tokens[at - 1].text, "pub" | ")");
                use_tree(&tokens[at + 1..end - 1], &mut Vec::new(), public, &mut self.uses);
                return end;
            }
            "mod" if text(2) == ";" => {
                self.children.insert(text(1).to_owned());
                return at + 3;
            }
            "mod" if text(2) == "{" => {
                let end = group_end(tokens, at + 2);
                self.inline.insert(text(1).to_owned(), Self::parse(&tokens[at + 3..end - 1]));
                return end;
            }
            keyword if DEFINING.contains(&keyword) && *depth == 0 => {
                let name = tokens[at + 1..].iter().find(|token| token.is_word() && token.text != "mut");
                self.defined.extend(name.filter(|name| name.text != "fn").map(|name| name.text.to_owned()));
            }
            _ if tokens[at].is_word() => return self.path(tokens, at),
            _ => {}
        }
        at + 1
    }

    /// Reads a path or a single name.
    fn path(&mut self, tokens: &[Token], at: usize) -> usize {
        let text = |index: usize| tokens.get(index).map_or("", |token| token.text);
        let continued = at > 0 && matches!(tokens[at - 1].text, "." | "::");
        let mut segments = vec![text(at).to_owned()];
        let mut end = at + 1;
        while text(end) == "::" && tokens.get(end + 1).is_some_and(Token::is_word) {
            segments.push(text(end + 1).to_owned());
            end += 2;
        }
        if !continued {
            let constant = segments[0].starts_with(char::is_uppercase);
            if constant || segments.len() > 1 || matches!(text(end), "(" | "!") {
                self.names.insert(segments[0].clone());
            }
            if segments.len() > 1 {
                self.paths.push(segments);
            }
        }
        end
    }
}

/// Whether an attribute leaves its item to tests.
fn for_tests(attribute: &[Token]) -> bool {
    let has = |word| attribute.iter().any(|token| token.text == word);
    has("cfg") && has("test") && !has("not")
}

/// Where the group that opens at a token has ended.
fn group_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Where the statement's `;` has ended it.
fn statement_end(tokens: &[Token], from: usize) -> usize {
    let mut at = from;
    while at < tokens.len() && tokens[at].text != ";" {
        at = if matches!(tokens[at].text, "(" | "[" | "{") { group_end(tokens, at) } else { at + 1 };
    }
    (at + 1).min(tokens.len())
}

/// Where an item has ended: by `;`, or by its braces if it is no `use` and no constant.
fn item_end(tokens: &[Token], from: usize) -> usize {
    let mut at = from;
    while at < tokens.len() {
        match tokens[at].text {
            "#" => at = group_end(tokens, at + 1),
            "use" | "const" | "static" if tokens.get(at + 1).is_none_or(|next| next.text != "fn") => {
                return statement_end(tokens, at);
            }
            ";" | "," => return at + 1,
            "{" => return group_end(tokens, at),
            "}" => return at,
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// Takes a use tree apart: `a::{b, c::{self, d as e}, f::*}`.
fn use_tree(tokens: &[Token], prefix: &mut Vec<String>, public: bool, found: &mut Vec<Use>) {
    let length = prefix.len();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].text {
            "{" => {
                let end = group_end(tokens, at);
                for branch in split_by_comma(&tokens[at + 1..end - 1]) {
                    use_tree(branch, prefix, public, found);
                }
                prefix.truncate(length);
                return;
            }
            "::" => {}
            segment => prefix.push(segment.to_owned()),
        }
        at += 1;
        if tokens.get(at).is_some_and(|token| token.text == "as") {
            break;
        }
    }
    let path: Vec<_> = match prefix.split_last() {
        Some((last, parent)) if last == "self" && !parent.is_empty() => parent.to_vec(),
        _ => prefix.clone(),
    };
    let renamed = tokens.get(at + 1).map(|token| token.text.to_owned());
    if let Some(name) = renamed.or_else(|| path.last().cloned()) {
        found.push(Use { path, name, public });
    }
    prefix.truncate(length);
}

fn split_by_comma<'a, 'b>(tokens: &'a [Token<'b>]) -> Vec<&'a [Token<'b>]> {
    let mut branches = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        if tokens[at].text == "," {
            branches.push(&tokens[start..at]);
            start = at + 1;
        }
        at = if tokens[at].text == "{" { group_end(tokens, at) } else { at + 1 };
    }
    branches.push(&tokens[start..]);
    branches.retain(|branch| !branch.is_empty());
    branches
}

#[cfg(test)]
mod tests {
    use super::{Module, Use};
    use crate::tokens::tokens;

    fn parse(source: &str) -> Module {
        Module::parse(&tokens(source))
    }

    fn brought(path: &[&str], name: &str, public: bool) -> Use {
        Use { path: path.iter().map(ToString::to_string).collect(), name: name.to_owned(), public }
    }

    #[test]
    fn nested_use_trees_are_taken_apart() {
        let module = parse("pub(crate) use crate::a::{self, b::{C, D as E}, f::*}; use super::g;");
        let expected = [
            brought(&["crate", "a"], "a", true),
            brought(&["crate", "a", "b", "C"], "C", true),
            brought(&["crate", "a", "b", "D"], "E", true),
            brought(&["crate", "a", "f", "*"], "*", true),
            brought(&["super", "g"], "g", false),
        ];
        assert_eq!(module.uses, expected);
    }

    #[test]
    fn paths_in_code_and_macros_count_and_tests_do_not() {
        let module = parse(
            "mod child; mod inner { fn deep() {} } fn f() { crate::a::b(); m!(super::X); y.c::<u8>(); D::new() }
             #[cfg(test)] mod tests { use crate::never; } #[cfg(test)] use crate::{not, this}; const K: u8 = 1;",
        );
        assert_eq!(module.paths, [vec!["crate", "a", "b"], vec!["super", "X"], vec!["D", "new"]]);
        assert_eq!(module.uses, []);
        assert!(module.children.contains("child") && module.inline["inner"].defined.contains("deep"));
        assert!(["f", "K"].iter().all(|name| module.defined.contains(*name)));
    }
}
