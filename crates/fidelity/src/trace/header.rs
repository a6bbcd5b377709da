//! The header of a safetensors file, checked against the file before anything else is read.
//!
//! Parsed here because the official crate wants the whole file in memory, and keeps the last of two
//! tensors of one name without a word.

use super::dtype::Dtype;
use super::error::TraceError;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest header that the official crate reads, in bytes.
const MAX_HEADER: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
pub(super) const METADATA: &str = "__metadata__";

/// A tensor of one file. Its place was checked against the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub bytes: usize,
}

/// What a safetensors file says of itself.
#[derive(Debug)]
pub(super) struct Contents {
    /// In the order of their bytes.
    pub tensors: Vec<Located>,
    /// Texts by key; empty where the file has none.
    pub metadata: BTreeMap<String, String>,
}

/// Reads the header of the safetensors file at `path`.
pub(super) fn read_header(path: &Path) -> Result<Contents, TraceError> {
    let io = |source| TraceError::io(path, source);
    let mut file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    if file_bytes < LENGTH_BYTES {
        return Err(TraceError::field(path, "file length", "at least 8 bytes", file_bytes));
    }
    let mut length = [0u8; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    let most = MAX_HEADER.min(file_bytes - LENGTH_BYTES);
    if length > most {
        return Err(TraceError::field(path, "header length", format!("at most {most} bytes"), length));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let Header { tensors, metadata } = serde_json::from_slice(&header)
        .map_err(|source| TraceError::Json { path: path.to_path_buf(), field: "header", source })?;
    let data_start = LENGTH_BYTES + length;
    let tensors = locate(path, tensors, data_start, file_bytes - data_start)?;
    Ok(Contents { tensors, metadata })
}

/// Checks that the tensors fill the file's data exactly: no overlap, no hole, nothing beyond the end.
fn locate(
    path: &Path,
    mut tensors: Vec<(String, RawTensor)>,
    data_start: u64,
    data_bytes: u64,
) -> Result<Vec<Located>, TraceError> {
    tensors.sort_by_key(|(_, raw)| raw.data_offsets);
    let mut located: Vec<Located> = Vec::with_capacity(tensors.len());
    let mut end = 0u64;
    for (name, raw) in tensors {
        let wrong = |field: &str, expected: String, found: String| {
            TraceError::field(path, format!("tensor `{name}`, {field}"), expected, found)
        };
        let Some(dtype) = Dtype::from_name(&raw.dtype) else {
            let known = Dtype::ALL.map(|dtype| dtype.to_string()).join(", ");
            return Err(wrong("dtype", format!("one of {known}"), raw.dtype));
        };
        let Some(bytes) = crate::value_count(&raw.shape).and_then(|count| count.checked_mul(dtype.size()))
        else {
            return Err(wrong("shape", "fewer bytes than fit an address".into(), format!("{:?}", raw.shape)));
        };
        let [first, last] = raw.data_offsets;
        if first != end || last < first || last > data_bytes {
            let expected = format!(
                "a start at {end}, where the previous tensor ends, and an end of at most {data_bytes}"
            );
            return Err(wrong("data_offsets", expected, format!("{first} to {last}")));
        }
        if last - first != bytes as u64 {
            let expected = format!("{bytes} bytes of {dtype} {:?}", raw.shape);
            return Err(wrong("data_offsets", expected, format!("{} bytes", last - first)));
        }
        end = last;
        located.push(Located { name, dtype, shape: raw.shape, start: data_start + first, bytes });
    }
    if end != data_bytes {
        return Err(TraceError::field(path, "data length", format!("{end} bytes of tensors"), data_bytes));
    }
    Ok(located)
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The entries of a header, which must not repeat a name.
struct Header {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut tensors, mut metadata) = (Vec::new(), BTreeMap::new());
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!(
                    "expected each name once, found `{name}` twice"
                )));
            }
            if name == METADATA {
                // The format knows texts alone; what else stands there is no tensor and harms nothing.
                if let Value::Object(fields) = map.next_value()? {
                    let texts =
                        fields.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())));
                    metadata.extend(texts);
                }
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(Header { tensors, metadata })
    }
}
