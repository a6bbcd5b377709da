//! What was measured, in a file that only grows: a run that was cut short goes on where it ended.
//!
//! Each line is `{"checksum":"<16 digits>","record":<JSON>}`. The checksum is over the line's number and the record's
//! bytes, so a changed, lost or exchanged line is found. The first record says what the measurements are of.

use super::error::ActionError;
use super::ranges::Ranges;
use super::target::Cost;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use steadyhand_gr00t::checkpoint::fingerprint;
use steadyhand_gr00t::{Error, Result};

const BEFORE_CHECKSUM: &str = "{\"checksum\":\"";
const BEFORE_RECORD: &str = "\",\"record\":";
const DIGITS: usize = 16;

/// What measurements are of. Another header is another experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the program.
    pub version: String,
    /// The weights' fingerprint.
    pub checkpoint: String,
    /// The dataset's hash, or what stands for one.
    pub dataset: String,
    /// The embodiment.
    pub embodiment_tag: String,
    /// `cuda` or `cpu`.
    pub target: String,
    /// The device's name.
    pub device: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Observations.
    pub frames: usize,
    /// Euler steps.
    pub denoising_steps: usize,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// The first line.
    Header(Header),
    /// The range scan.
    Ranges(Ranges),
    /// How far a policy's actions lie from those of f32.
    Error {
        /// [`PrecisionPolicy::identity`](steadyhand_gr00t::precision::PrecisionPolicy::identity).
        policy: String,
        /// Its error.
        error: ActionError,
    },
    /// What an inference costs under a policy.
    Cost {
        /// As in `Error`.
        policy: String,
        /// Whether it was measured at length, for the report.
        lasting: bool,
        /// Its cost.
        cost: Cost,
    },
    /// A policy that the target refused when it was opened.
    Refused {
        /// As in `Error`.
        policy: String,
        /// Why.
        why: String,
    },
}

/// The measurements so far.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    file: File,
    lines: usize,
    ranges: Option<Ranges>,
    errors: HashMap<String, ActionError>,
    costs: HashMap<(String, bool), Cost>,
    refused: HashMap<String, String>,
    /// Measurements found in the file when it was opened.
    pub taken_over: usize,
    /// Whether the last line was cut short and has been dropped.
    pub torn: bool,
}

impl State {
    /// Opens the measurements of `header` at `path`, or begins them.
    ///
    /// # Errors
    /// A file that cannot be read or written; measurements of something else, with the field that differs; a line
    /// that is damaged, by number. A last line without its end is what a kill leaves: it is dropped.
    pub fn open(path: &Path, header: &Header) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::file(
                path,
                "expected a file that no other run writes, found one that is in use",
            ));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let torn = whole < bytes.len();
        // What a kill leaves of a first line begins as one; anything else is somebody's file.
        let begins = bytes.iter().zip(BEFORE_CHECKSUM.as_bytes()).all(|(found, expected)| found == expected);
        if whole == 0 && !begins {
            return Err(Error::file(path, "expected measurements of steady tune, found another file"));
        }
        bytes.truncate(whole);
        // Everything is checked before the file is changed.
        let records = read(path, &bytes, header)?;
        file.set_len(whole as u64).map_err(io)?;
        let mut state = State {
            path: path.to_owned(),
            file,
            lines: records.len(),
            ranges: None,
            errors: HashMap::new(),
            costs: HashMap::new(),
            refused: HashMap::new(),
            taken_over: records.len().saturating_sub(1),
            torn,
        };
        if records.is_empty() {
            state.write(&Record::Header(header.clone()))?;
        }
        records.into_iter().for_each(|record| state.keep(record));
        Ok(state)
    }

    /// Adds a measurement; it is in the file when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        self.write(&record)?;
        self.keep(record);
        Ok(())
    }

    /// The range scan, where it was made.
    pub fn ranges(&self) -> Option<&Ranges> {
        self.ranges.as_ref()
    }

    /// A policy's error, where it was measured.
    pub fn error(&self, policy: &str) -> Option<&ActionError> {
        self.errors.get(policy)
    }

    /// A policy's cost, where it was measured.
    pub fn cost(&self, policy: &str, lasting: bool) -> Option<Cost> {
        self.costs.get(&(policy.to_owned(), lasting)).copied()
    }

    /// Why the target refused a policy, where it did.
    pub fn refused(&self, policy: &str) -> Option<&str> {
        self.refused.get(policy).map(String::as_str)
    }

    fn keep(&mut self, record: Record) {
        match record {
            Record::Header(_) => {}
            Record::Ranges(ranges) => self.ranges = Some(ranges),
            Record::Error { policy, error } => drop(self.errors.insert(policy, error)),
            Record::Cost { policy, lasting, cost } => drop(self.costs.insert((policy, lasting), cost)),
            Record::Refused { policy, why } => drop(self.refused.insert(policy, why)),
        }
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let record = serde_json::to_string(record).map_err(|e| Error::file(&self.path, e.to_string()))?;
        self.lines += 1;
        let checksum = checksum(self.lines, record.as_bytes());
        let line = format!("{BEFORE_CHECKSUM}{checksum}{BEFORE_RECORD}{record}}}\n");
        // One call: a kill leaves a line without its end, never one in the middle of another.
        self.file.write_all(line.as_bytes()).map_err(|source| Error::io(&self.path, source))
    }
}

fn checksum(line: usize, record: &[u8]) -> String {
    fingerprint([(line.to_string(), record)])
}

/// The records of whole lines.
fn read(path: &Path, bytes: &[u8], header: &Header) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let fail =
            |what: &str| Error::file(path, format!("line {number}: {what}; remove the file to begin anew"));
        let record = parse(number, &line[..line.len() - 1]).map_err(|what| fail(&what))?;
        match (&record, index) {
            (Record::Header(found), 0) => same(path, header, found)?,
            (Record::Header(_), _) => return Err(fail("expected a measurement, found a second header")),
            (_, 0) => return Err(fail("expected a header, found a measurement")),
            _ => {}
        }
        records.push(record);
    }
    Ok(records)
}

/// One line's record.
fn parse(number: usize, line: &[u8]) -> Result<Record, String> {
    let text = std::str::from_utf8(line).map_err(|_| "expected UTF-8, found other bytes".to_owned())?;
    let form = || {
        let shown: String = text.chars().take(40).collect();
        format!("expected {BEFORE_CHECKSUM}…{BEFORE_RECORD}…}}, found `{shown}`")
    };
    let rest = text.strip_prefix(BEFORE_CHECKSUM).ok_or_else(form)?;
    let (expected, rest) = rest.split_at_checked(DIGITS).ok_or_else(form)?;
    let rest = rest.strip_prefix(BEFORE_RECORD).and_then(|rest| rest.strip_suffix('}'));
    let record = rest.ok_or_else(form)?;
    let found = checksum(number, record.as_bytes());
    if found != expected {
        return Err(format!("checksum: expected {expected} as the line says, found {found} of its record"));
    }
    serde_json::from_str(record).map_err(|error| format!("record: {error}"))
}

/// Whether a file's measurements are of `expected`.
fn same(path: &Path, expected: &Header, found: &Header) -> Result<()> {
    let fields = |header: &Header| {
        [
            ("version", header.version.clone()),
            ("checkpoint", header.checkpoint.clone()),
            ("dataset", header.dataset.clone()),
            ("embodiment_tag", header.embodiment_tag.clone()),
            ("target", header.target.clone()),
            ("device", header.device.clone()),
            ("seed", header.seed.to_string()),
            ("frames", header.frames.to_string()),
            ("denoising_steps", header.denoising_steps.to_string()),
        ]
    };
    let mut pairs = fields(expected).into_iter().zip(fields(found));
    match pairs.find(|(expected, found)| expected != found) {
        None => Ok(()),
        Some(((field, expected), (_, found))) => {
            let what = format!(
                "line 1: {field}: expected {expected}, found {found}: these are measurements of something else; \
                 remove the file or choose another folder"
            );
            Err(Error::file(path, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: "1".to_owned(),
            checkpoint: "c".to_owned(),
            dataset: "d".to_owned(),
            embodiment_tag: "e".to_owned(),
            target: "cpu".to_owned(),
            device: "x".to_owned(),
            seed: 1,
            frames: 2,
            denoising_steps: 4,
        }
    }

    fn measured(policy: &str, value: Option<f64>) -> Record {
        Record::Error {
            policy: policy.to_owned(),
            error: ActionError { groups: vec![("arm".to_owned(), value)] },
        }
    }

    fn filled(folder: &Path) -> PathBuf {
        let path = folder.join("state.jsonl");
        let mut state = State::open(&path, &header()).expect("a new file");
        assert_eq!((state.taken_over, state.torn), (0, false));
        for (policy, value) in [("a\n", Some(0.1)), ("b", None), ("c", Some(1e-9))] {
            state.add(measured(policy, value)).expect("written");
        }
        path
    }

    #[test]
    fn measurements_are_taken_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = filled(folder.path());
        let mut state = State::open(&path, &header()).expect("the same");
        assert_eq!((state.taken_over, state.torn), (3, false));
        assert_eq!(state.error("a\n").expect("known").groups[0].1, Some(0.1));
        assert_eq!(state.error("b").expect("known").groups[0].1, None);
        let cost = Cost { value: 7.85, baseline: 7.9, noise: 0.01 };
        state.add(Record::Cost { policy: "b".to_owned(), lasting: true, cost }).expect("written");
        let error = State::open(&path, &header()).expect_err("two at a time").to_string();
        assert!(error.contains("state.jsonl") && error.contains("in use"), "{error}");
        drop(state);
        let state = State::open(&path, &header()).expect("the same");
        assert_eq!((state.cost("b", true), state.cost("b", false)), (Some(cost), None));
    }

    #[test]
    fn a_torn_last_line_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = filled(folder.path());
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 7]).expect("written");
        let mut state = State::open(&path, &header()).expect("the rest");
        assert_eq!((state.taken_over, state.torn), (2, true));
        state.add(measured("c", Some(1e-9))).expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), whole);
    }

    #[test]
    fn damage_and_other_experiments_are_refused_by_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = filled(folder.path());
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        let exchanged = [lines[0], lines[2], lines[1], lines[3]].join("\n") + "\n";
        let cut = format!("{}\n{}\n{}\n", lines[0], &lines[1][..50], lines[2]);
        for (damaged, parts) in [
            (text.replace("0.1", "0.2"), ["line 2", "checksum: expected"]),
            (text.replace("\"b\"", "\"d\""), ["line 3", "checksum: expected"]),
            (exchanged, ["line 2", "checksum: expected"]),
            (cut, ["line 2", "expected {\"checksum\""]),
            (lines[1].to_owned() + "\n", ["line 1", "checksum"]),
            ("somebody's only copy".to_owned(), ["measurements of steady tune", "another file"]),
        ] {
            std::fs::write(&path, &damaged).expect("written");
            let error = State::open(&path, &header()).expect_err("damaged").to_string();
            assert!(error.contains("state.jsonl") && parts.iter().all(|p| error.contains(p)), "{error}");
            assert_eq!(
                std::fs::read_to_string(&path).expect("read"),
                damaged,
                "a refused file is left alone"
            );
        }
        std::fs::write(&path, &text).expect("written");
        let other = Header { checkpoint: "f".to_owned(), ..header() };
        let error = State::open(&path, &other).expect_err("another checkpoint").to_string();
        assert!(error.contains("line 1: checkpoint: expected f, found c"), "{error}");
        let other = Header { seed: 2, ..header() };
        assert!(
            State::open(&path, &other).expect_err("another seed").to_string().contains("seed: expected 2")
        );
    }
}
