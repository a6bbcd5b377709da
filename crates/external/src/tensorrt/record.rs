//! What is kept beside an engine of how it was built: a runtime reads an engine only where there is an NVIDIA driver.

use crate::bindings::Bindings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::checkpoint::fingerprint;
use steadyhand_gr00t::{Error, Result};

const FORMAT: &str = "steadyhand-engine";
const VERSION: u32 = 1;
/// Far above any record (a million operations).
const MOST_BYTES: u64 = 256 << 20;

/// The record of one engine, in `FILE.json` beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildRecord {
    format: String,
    version: u32,
    /// What built it, such as `TensorRT-RTX 1.7.1`.
    pub builder: String,
    /// Fingerprint of the engine's bytes.
    pub engine: String,
    /// What the graph's metadata said of its export; empty for a graph of another's.
    pub source: BTreeMap<String, String>,
    /// Flags that were set.
    pub flags: Vec<String>,
    /// Whether the network was weakly typed: the builder then chose types within what the flags allow.
    #[serde(default)]
    pub weakly_typed: bool,
    /// Inputs and outputs of the network that was built.
    pub bindings: Bindings,
    /// The operations of that network whose type a policy decides.
    pub operations: Vec<Operation>,
}

/// An operation of the network that the builder was given. Of a strongly typed network the builder keeps its types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The graph's node, such as `dit.block.7.query/MatMul`.
    pub name: String,
    /// What it does.
    pub kind: OperationKind,
    /// The type of its result; none for one of less than a byte.
    pub dtype: Option<Dtype>,
}

/// Kinds of [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A matrix product.
    Product,
    /// A softmax.
    Softmax,
    /// A normalization.
    Normalization,
}

impl OperationKind {
    /// The kind of this `LayerType`; none for one whose type follows from those around it.
    pub(super) fn of(layer_type: i32) -> Option<Self> {
        match layer_type {
            17 => Some(OperationKind::Product),
            6 => Some(OperationKind::Softmax),
            45 => Some(OperationKind::Normalization),
            _ => None,
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            OperationKind::Product => "product",
            OperationKind::Softmax => "softmax",
            OperationKind::Normalization => "normalization",
        })
    }
}

impl BuildRecord {
    /// A record of an engine's bytes.
    pub(super) fn new(builder: String, engine: &[u8], bindings: Bindings) -> Self {
        BuildRecord {
            format: FORMAT.to_owned(),
            version: VERSION,
            builder,
            engine: engine_fingerprint(engine),
            source: BTreeMap::new(),
            flags: Vec::new(),
            weakly_typed: false,
            bindings,
            operations: Vec::new(),
        }
    }

    /// Where the record of an engine lies.
    pub fn path_of(engine: &Path) -> PathBuf {
        let mut path = OsString::from(engine);
        path.push(".json");
        PathBuf::from(path)
    }

    /// Writes the record beside `engine`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, engine: &Path) -> Result<()> {
        let path = BuildRecord::path_of(engine);
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| Error::file(&path, error.to_string()))?;
        std::fs::write(&path, text + "\n").map_err(|source| Error::io(&path, source))
    }

    /// Reads the record beside `engine`, whose bytes are `bytes`; none where there is none.
    ///
    /// # Errors
    /// It cannot be read, is of another form, or is of another engine.
    pub fn read(engine: &Path, bytes: &[u8]) -> Result<Option<Self>> {
        let path = BuildRecord::path_of(engine);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io(&path, source)),
        };
        if length > MOST_BYTES {
            return Err(Error::file(&path, format!("expected at most {MOST_BYTES} bytes, found {length}")));
        }
        let text = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        let record: BuildRecord = steadyhand_files::json::from_slice(&text)
            .map_err(|error| Error::file(&path, steadyhand_files::json::why(&text, &error)))?;
        if (record.format.as_str(), record.version) != (FORMAT, VERSION) {
            let found = format!("{} {}", record.format, record.version);
            return Err(Error::file(&path, format!("expected {FORMAT} {VERSION}, found {found}")));
        }
        let found = engine_fingerprint(bytes);
        if record.engine != found {
            let what =
                format!("engine: expected {found}, that of {}, found {}", engine.display(), record.engine);
            return Err(Error::file(&path, what));
        }
        Ok(Some(record))
    }
}

fn engine_fingerprint(bytes: &[u8]) -> String {
    fingerprint([("engine", bytes)])
}
