//! JSON as datasets have it: whole files, one value a line, and objects whose order matters.

use std::{fmt, io, marker::PhantomData, path::Path};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use steadyhand_files::{Disguise, MAX_TEXT, MAX_VALUE, json};

use crate::{Error, Result};

/// Reads a JSON file. A missing file is [`Error::Missing`] as `what`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let text = contents(path, what, MAX_VALUE)?;
    if text.is_empty() {
        return Err(Error::Disguised { path: path.into(), expected: what.into(), found: Disguise::Empty });
    }
    json::from_slice(&text).map_err(|source| not_json(path, None, &text, source))
}

/// Reads a JSON file that may be absent.
pub(crate) fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read(path, "the file").map(Some),
    }
}

/// A line of a `.jsonl` file that is no value. It matters to those who need what stands there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BadLine {
    /// Its number, counted from 1.
    line: usize,
    /// Why it is no value.
    reason: String,
}

impl BadLine {
    /// The error of those who need a line of `path`.
    pub(crate) fn error(&self, path: &Path) -> Error {
        let expected = "one whole JSON object, with the fields that are read";
        Error::field(path, format!("line {}", self.line), expected, self.reason.as_str())
    }
}

/// Reads a `.jsonl` file: one value a line; blank lines are skipped.
///
/// # Errors
/// The file cannot be read, is laid out otherwise, or has no line that is a value.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<Result<T, BadLine>>> {
    let bytes = contents(path, what, MAX_TEXT)?;
    let mut values = Vec::new();
    let mut first = None;
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if line.len() as u64 > MAX_VALUE {
            values.push(Err(BadLine { line: i + 1, reason: format!("{} bytes", line.len()) }));
            continue;
        }
        let value = json::from_slice(line).map_err(|source| {
            let bad = BadLine { line: i + 1, reason: json::why(line, &source) };
            first.get_or_insert((i + 1, source));
            bad
        });
        values.push(value);
    }
    match first {
        Some((line, source)) if values.iter().all(Result::is_err) || !by_line(&bytes) => {
            Err(bad_line(path, &bytes, line, source))
        }
        _ => Ok(values),
    }
}

/// Whether a text has its values line by line, apart from damage: it is not one value as a whole.
fn by_line(bytes: &[u8]) -> bool {
    json::from_slice::<IgnoredAny>(bytes).is_err()
}

/// Why no line of a `.jsonl` file is a value: often the file is laid out otherwise.
fn bad_line(path: &Path, bytes: &[u8], line: usize, source: serde_json::Error) -> Error {
    let found = match bytes.trim_ascii_start().first() {
        Some(b'[') => "a list of objects",
        // What ends in the middle of a value goes on in the next line.
        _ if source.is_eof() && json::from_slice::<IgnoredAny>(bytes).is_ok() => {
            "one that goes over several lines"
        }
        _ if source.is_eof() && line == 1 => "one that goes over several lines",
        _ => {
            let text = bytes.split(|byte| *byte == b'\n').nth(line - 1).unwrap_or_default();
            return not_json(path, Some(line), text, source);
        }
    };
    Error::field(path, format!("line {line}"), "one whole JSON object on each line", found)
}

fn not_json(path: &Path, line: Option<usize>, text: &[u8], source: serde_json::Error) -> Error {
    Error::Json { path: path.into(), line, reason: json::why(text, &source), source }
}

/// The bytes of a text file of at most `limit`, which must not be something else.
fn contents(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>> {
    let bytes = steadyhand_files::read_up_to(path, limit).map_err(|e| Error::io(path, what, e))?;
    match Disguise::of(&bytes) {
        // A list without lines is a list.
        Some(Disguise::Empty) | None => Ok(bytes),
        Some(found) => Err(Error::Disguised { path: path.into(), expected: what.into(), found }),
    }
}

/// A JSON object in the order of the file: the order of groups and features is part of a dataset.
#[derive(Debug, Clone)]
pub(crate) struct Ordered<T>(pub(crate) Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A value of the form wanted, or of any other: what nobody uses may look as it likes, and who uses it says so.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Maybe<T> {
    /// As wanted.
    Is(T),
    /// Anything else.
    Other(IgnoredAny),
}

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Maybe::Other(IgnoredAny)
    }
}

impl<T> Maybe<T> {
    pub(crate) fn get(self) -> Option<T> {
        match self {
            Maybe::Is(value) => Some(value),
            Maybe::Other(_) => None,
        }
    }
}
