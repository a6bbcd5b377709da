//! Patterns of sites: dotted paths with wildcards.

use crate::{Error, Result};
use std::fmt;

/// A dotted path such as `dit.block.{24..31}.attention`. It covers every site that it matches and everything
/// below it.
///
/// A segment is a name, `*` for any one segment, or alternatives in braces: names, and ranges of numbers with both
/// ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    /// The path itself where no segment has a wildcard: most lookups then are one comparison.
    plain: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Any,
    Choice(Vec<Alternative>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Alternative {
    Name(String),
    /// Both ends belong to it.
    Range(usize, usize),
}

impl Pattern {
    /// The segment that stands for these ascending numbers: `3`, or `{0..2,5}`.
    pub fn numbers(numbers: &[usize]) -> String {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &number in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => runs.push((number, number)),
            }
        }
        let run = |(first, last): &(usize, usize)| match first == last {
            true => first.to_string(),
            false => format!("{first}..{last}"),
        };
        match numbers {
            [number] => number.to_string(),
            _ => format!("{{{}}}", runs.iter().map(run).collect::<Vec<_>>().join(",")),
        }
    }

    /// Parses a pattern.
    ///
    /// # Errors
    /// An empty segment, a brace that is not closed, a range that runs backwards, other characters than letters,
    /// digits and `_` in a name.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |what: &str| Error::input("pattern", format!("{what}, found `{text}`"));
        let mut segments = Vec::new();
        let mut rest = text;
        loop {
            let end = match rest.strip_prefix('{') {
                Some(inside) => {
                    let close = inside.find('}').ok_or_else(|| fail("expected `}` after `{`"))?;
                    close + 2
                }
                None => rest.find('.').unwrap_or(rest.len()),
            };
            segments.push(segment(&rest[..end]).map_err(|what| fail(&what))?);
            match rest[end..].strip_prefix('.') {
                Some(behind) => rest = behind,
                None if end == rest.len() => break,
                None => return Err(fail("expected `.` or the end after `}`")),
            }
        }
        Ok(Pattern { plain: plain(&segments), segments })
    }

    /// The path itself, without wildcards; everything lies below the empty path.
    pub fn path(path: &str) -> Self {
        let name = |segment: &str| Segment::Choice(vec![Alternative::Name(segment.to_owned())]);
        let segments = if path.is_empty() { Vec::new() } else { path.split('.').map(name).collect() };
        Pattern { segments, plain: Some(path.to_owned()) }
    }

    /// Whether the path is matched or lies below what is.
    pub fn covers(&self, path: &str) -> bool {
        if let Some(plain) = &self.plain {
            let below = |rest: &str| rest.is_empty() || rest.starts_with('.');
            return plain.is_empty() || path.strip_prefix(plain.as_str()).is_some_and(below);
        }
        let mut parts = path.split('.');
        self.segments.iter().all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
    }

    /// This pattern once for every alternative of its braces, the others left as they are; a range gives its two
    /// ends. Each must cover some site where the pattern is free of slips.
    pub(super) fn alternatives(&self) -> Vec<Pattern> {
        let mut patterns = vec![self.clone()];
        for (index, segment) in self.segments.iter().enumerate() {
            let Segment::Choice(choices) = segment else { continue };
            let singles = choices.iter().flat_map(|choice| match choice {
                Alternative::Name(name) => vec![name.clone()],
                Alternative::Range(first, last) => vec![first.to_string(), last.to_string()],
            });
            for name in singles {
                let mut segments = self.segments.clone();
                segments[index] = Segment::Choice(vec![Alternative::Name(name)]);
                patterns.push(Pattern { plain: plain(&segments), segments });
            }
        }
        patterns
    }

    /// How far a path is from being covered: edits of its segments' letters. 0 where it is.
    pub(super) fn distance(&self, path: &str) -> usize {
        let mut parts = path.split('.');
        let segment = |segment: &Segment| match parts.next() {
            Some(part) if segment.matches(part) => 0,
            Some(part) => segment.distance(part),
            None => segment.distance(""),
        };
        self.segments.iter().map(segment).sum()
    }

    /// The path's beginning, as long as the pattern.
    pub(super) fn prefix_of(&self, path: &str) -> String {
        path.split('.').take(self.segments.len()).collect::<Vec<_>>().join(".")
    }
}

/// The path of a pattern without wildcards.
fn plain(segments: &[Segment]) -> Option<String> {
    let name = |segment: &Segment| match segment {
        Segment::Choice(choices) => match &choices[..] {
            [Alternative::Name(name)] => Some(name.clone()),
            _ => None,
        },
        Segment::Any => None,
    };
    segments.iter().map(name).collect::<Option<Vec<_>>>().map(|names| names.join("."))
}

fn segment(text: &str) -> Result<Segment, String> {
    if text == "*" {
        return Ok(Segment::Any);
    }
    let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Ok(Segment::Choice(vec![Alternative::Name(name(text)?)]));
    };
    let choice = |text: &str| match text.split_once("..") {
        None => Ok(Alternative::Name(name(text)?)),
        Some((first, last)) => match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Alternative::Range(first, last)),
            _ => Err(format!("expected a range such as 24..31, found `{text}`")),
        },
    };
    inside.split(',').map(|text| choice(text.trim())).collect::<Result<_, _>>().map(Segment::Choice)
}

fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !text.is_empty() && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("expected names, `*` or `{{a,b,0..3}}` between dots, found `{text}`"))
}

impl Segment {
    /// Edits that the nearest alternative is away from a name that is not matched.
    fn distance(&self, part: &str) -> usize {
        match self {
            Segment::Any => 1,
            Segment::Choice(choices) => {
                choices.iter().map(|choice| edits(&choice.to_string(), part)).min().unwrap_or(part.len())
            }
        }
    }

    fn matches(&self, part: &str) -> bool {
        match self {
            Segment::Any => true,
            Segment::Choice(choices) => choices.iter().any(|choice| match choice {
                Alternative::Name(name) => name == part,
                Alternative::Range(first, last) => {
                    part.parse().is_ok_and(|number: usize| (*first..=*last).contains(&number))
                }
            }),
        }
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alternative::Name(name) => formatter.write_str(name),
            Alternative::Range(first, last) => write!(formatter, "{first}..{last}"),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Segment::Any => formatter.write_str("*"),
            Segment::Choice(choices) => match &choices[..] {
                [Alternative::Name(name)] => formatter.write_str(name),
                choices => {
                    let choices: Vec<_> = choices.iter().map(ToString::to_string).collect();
                    write!(formatter, "{{{}}}", choices.join(","))
                }
            },
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return formatter.write_str("*");
        }
        let segments: Vec<_> = self.segments.iter().map(ToString::to_string).collect();
        formatter.write_str(&segments.join("."))
    }
}

/// Levenshtein's distance: insertions, deletions and replacements of letters.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, path: &str) -> bool {
        let parsed = Pattern::parse(pattern).expect("a pattern");
        assert_eq!(parsed.to_string(), pattern);
        parsed.covers(path)
    }

    #[test]
    fn a_pattern_covers_what_it_matches_and_what_lies_below() {
        assert!(covers("dit", "dit.block.3.fc1") && covers("dit.block.3", "dit.block.3"));
        assert!(!covers("dit.block.3", "dit.block.30"));
        assert!(!covers("dit.block.3", "dit.block"));
        assert!(covers("*", "euler") && covers("dit.*.3", "dit.block.3.key"));
        assert!(covers("dit.block.*.attention", "dit.block.17.attention"));
        assert!(!covers("dit.block.*.attention", "dit.block.17.attention_output"));
        assert!(!covers("dit.block.*.attention", "dit.block.17"));
        assert!(covers("dit.block.{24..31}.fc1", "dit.block.24.fc1"));
        assert!(covers("dit.block.{24..31}.fc1", "dit.block.31.fc1"));
        assert!(!covers("dit.block.{24..31}.fc1", "dit.block.32.fc1"));
        assert!(covers("dit.block.{0,4..5}.{fc1,fc2}", "dit.block.4.fc2"));
        assert!(!covers("dit.block.{0,4..5}.{fc1,fc2}", "dit.block.1.fc2"));
        assert!(Pattern::path("").covers("anything") && Pattern::path("dit").covers("dit.output"));
    }

    #[test]
    fn slips_are_errors_that_show_the_pattern() {
        for text in
            ["", "dit..fc1", "dit.{3", "dit.{3}x", "dit.{5..3}", "dit.fc*", "dit.{}", "dit.{a,}", "dit."]
        {
            let error = Pattern::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("pattern: expected") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn nearness() {
        assert_eq!(edits("kitten", "sitting"), 3);
        let pattern = Pattern::parse("dit.blocks.*").expect("a pattern");
        assert_eq!(pattern.distance("dit.block.4.fc1"), 1);
        assert_eq!(pattern.prefix_of("dit.block.4.fc1"), "dit.block.4");
    }
}
