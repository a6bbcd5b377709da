//! msgpack (<https://github.com/msgpack/msgpack/blob/master/spec.md>), as much of it as requests and replies need.
//!
//! A value borrows its texts and bytes from the message. A message cannot take much more memory than it has bytes: the
//! number of values and the depth are limited before anything is taken for them.

use crate::{Error, Result};
use std::borrow::Cow;

/// Most values of a message: an observation of a hundred arrays has a thousand.
const MAX_VALUES: usize = 1 << 16;
/// Most containers within each other.
const MAX_DEPTH: usize = 24;

/// One value of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'m> {
    /// None.
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number; 32-bit ones are widened.
    Float(f64),
    /// Text.
    Str(&'m str),
    /// Bytes.
    Bin(&'m [u8]),
    /// Values in order.
    Array(Vec<Value<'m>>),
    /// Keys and values in order.
    Map(Vec<(Value<'m>, Value<'m>)>),
    /// An array as a program in this process has it. Messages have none: there an array is a map.
    Ndarray(Ndarray<'m>),
    /// Something else that a program in this process has and messages do not, by the name of its type.
    Object(&'m str),
}

/// An array in memory, with no promise that a request can use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ndarray<'m> {
    /// NumPy's type string, such as `<f4`.
    pub descr: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian values in C order.
    pub data: Cow<'m, [u8]>,
}

impl<'m> Value<'m> {
    /// What it is, for errors.
    pub fn kind(&self) -> &'m str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "a truth value",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Str(_) => "text",
            Value::Bin(_) => "bytes",
            Value::Array(_) => "a list",
            Value::Map(_) => "a map",
            Value::Ndarray(_) => "an array",
            Value::Object(name) => name,
        }
    }

    /// Text, or bytes that are text: older packers write one as the other.
    pub fn text(&self) -> Option<&'m str> {
        match self {
            Value::Str(text) => Some(text),
            Value::Bin(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<&[(Value<'m>, Value<'m>)]> {
        match self {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key of a map, last one first as in Python.
    pub fn get(&self, key: &str) -> Option<&Value<'m>> {
        let mut entries = self.entries()?.iter().rev();
        entries.find(|(found, _)| found.text() == Some(key)).map(|(_, value)| value)
    }
}

/// Reads one whole value.
///
/// # Errors
/// Another number of values than one, a value cut short, texts that are not UTF-8, extension types, more values or more
/// depth than a request needs.
pub fn read(message: &[u8]) -> Result<Value<'_>> {
    let mut reader = Reader { rest: message, values: 0 };
    let value = reader.value(0)?;
    match reader.rest.len() {
        0 => Ok(value),
        more => Err(malformed(format!("expected one msgpack value, found {more} bytes behind it"))),
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Message(what.into())
}

struct Reader<'m> {
    rest: &'m [u8],
    values: usize,
}

impl<'m> Reader<'m> {
    fn take(&mut self, count: usize) -> Result<&'m [u8]> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => {
                let found = self.rest.len();
                Err(malformed(format!("not whole msgpack: expected {count} more bytes, found {found}")))
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A length of `bytes` bytes, big-endian.
    fn length(&mut self, bytes: usize) -> Result<usize> {
        let length = self.take(bytes)?.iter().fold(0u64, |length, byte| length << 8 | u64::from(*byte));
        usize::try_from(length).map_err(|_| malformed("a length that no machine holds"))
    }

    fn value(&mut self, depth: usize) -> Result<Value<'m>> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(malformed(format!("expected at most {MAX_VALUES} values")));
        }
        let [first] = self.array()?;
        Ok(match first {
            0x00..=0x7f => Value::Int(i128::from(first)),
            0x80..=0x8f => self.map(usize::from(first & 0x0f), depth)?,
            0x90..=0x9f => self.list(usize::from(first & 0x0f), depth)?,
            0xa0..=0xbf => self.text(usize::from(first & 0x1f))?,
            0xc0 => Value::Nil,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(1 << (first - 0xc4))?;
                Value::Bin(self.take(length)?)
            }
            0xca => Value::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Int(i128::from(u8::from_be_bytes(self.array()?))),
            0xcd => Value::Int(i128::from(u16::from_be_bytes(self.array()?))),
            0xce => Value::Int(i128::from(u32::from_be_bytes(self.array()?))),
            0xcf => Value::Int(i128::from(u64::from_be_bytes(self.array()?))),
            0xd0 => Value::Int(i128::from(i8::from_be_bytes(self.array()?))),
            0xd1 => Value::Int(i128::from(i16::from_be_bytes(self.array()?))),
            0xd2 => Value::Int(i128::from(i32::from_be_bytes(self.array()?))),
            0xd3 => Value::Int(i128::from(i64::from_be_bytes(self.array()?))),
            0xd9..=0xdb => {
                let length = self.length(1 << (first - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => {
                let count = self.length(2 << (first - 0xdc))?;
                self.list(count, depth)?
            }
            0xde | 0xdf => {
                let count = self.length(2 << (first - 0xde))?;
                self.map(count, depth)?
            }
            0xe0..=0xff => Value::Int(i128::from(first as i8)),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err(malformed(format!("expected no extension types, found 0x{first:02x}")));
            }
        })
    }

    fn text(&mut self, length: usize) -> Result<Value<'m>> {
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(Value::Str).map_err(|_| malformed("a text that is not UTF-8"))
    }

    /// Every value takes a byte at least: more values than bytes are refused before memory is taken.
    fn room(&self, values: usize, depth: usize) -> Result<()> {
        if values > self.rest.len() {
            let found = self.rest.len();
            return Err(malformed(format!(
                "not whole msgpack: expected {values} more values, found {found} bytes"
            )));
        }
        if values > MAX_VALUES - self.values {
            return Err(malformed(format!("expected at most {MAX_VALUES} values")));
        }
        match depth < MAX_DEPTH {
            true => Ok(()),
            false => Err(malformed(format!("expected at most {MAX_DEPTH} containers within each other"))),
        }
    }

    fn list(&mut self, count: usize, depth: usize) -> Result<Value<'m>> {
        self.room(count, depth)?;
        (0..count).map(|_| self.value(depth + 1)).collect::<Result<_>>().map(Value::Array)
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Value<'m>> {
        self.room(count.saturating_mul(2), depth)?;
        let entry = |_| Ok((self.value(depth + 1)?, self.value(depth + 1)?));
        (0..count).map(entry).collect::<Result<_>>().map(Value::Map)
    }
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn sized(&mut self, codes: [u8; 3], length: usize) {
        // Messages are far below 4 GiB.
        match length {
            0..=0xff => self.bytes.extend([codes[0], length as u8]),
            0x100..=0xffff => {
                self.bytes.push(codes[1]);
                self.bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                self.bytes.push(codes[2]);
                self.bytes.extend((length as u32).to_be_bytes());
            }
        }
    }

    /// None.
    pub fn nil(&mut self) {
        self.bytes.push(0xc0);
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(0xc2 + u8::from(value));
    }

    /// A whole number.
    pub fn int(&mut self, value: i64) {
        match value {
            -0x20..=0x7f => self.bytes.push(value as u8),
            _ => {
                self.bytes.push(0xd3);
                self.bytes.extend(value.to_be_bytes());
            }
        }
    }

    /// A whole number that may need all of 64 bits.
    pub fn uint(&mut self, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.int(value),
            Err(_) => {
                self.bytes.push(0xcf);
                self.bytes.extend(value.to_be_bytes());
            }
        }
    }

    /// A number.
    pub fn float(&mut self, value: f64) {
        self.bytes.push(0xcb);
        self.bytes.extend(value.to_be_bytes());
    }

    /// Text.
    pub fn str(&mut self, text: &str) {
        match text.len() {
            length @ 0..=0x1f => self.bytes.push(0xa0 | length as u8),
            length => self.sized([0xd9, 0xda, 0xdb], length),
        }
        self.bytes.extend(text.as_bytes());
    }

    /// Bytes.
    pub fn bin(&mut self, bytes: &[u8]) {
        self.bin_of(&[bytes]);
    }

    /// Bytes that lie in several pieces.
    pub fn bin_of(&mut self, pieces: &[&[u8]]) {
        self.sized([0xc4, 0xc5, 0xc6], pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| self.bytes.extend(*piece));
    }

    /// A list of `count` values, which follow.
    pub fn list(&mut self, count: usize) {
        match count {
            0..=0xf => self.bytes.push(0x90 | count as u8),
            0x10..=0xffff => {
                self.bytes.push(0xdc);
                self.bytes.extend((count as u16).to_be_bytes());
            }
            _ => {
                self.bytes.push(0xdd);
                self.bytes.extend((count as u32).to_be_bytes());
            }
        }
    }

    /// A map of `count` keys and values, which follow.
    pub fn map(&mut self, count: usize) {
        match count {
            0..=0xf => self.bytes.push(0x80 | count as u8),
            0x10..=0xffff => {
                self.bytes.push(0xde);
                self.bytes.extend((count as u16).to_be_bytes());
            }
            _ => {
                self.bytes.push(0xdf);
                self.bytes.extend((count as u32).to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(300);
        let mut writer = Writer::default();
        writer.map(2);
        writer.str("a");
        writer.list(8);
        writer.uint(u64::MAX);
        writer.nil();
        writer.bool(true);
        writer.int(-32);
        writer.int(-33);
        writer.int(1 << 40);
        writer.float(0.5);
        writer.bin(&[1; 70_000]);
        writer.str(&long);
        writer.list(20);
        (0..20).for_each(|i| writer.int(i));
        let bytes = writer.into_bytes();
        let value = read(&bytes).expect("whole");
        let Some(Value::Array(list)) = value.get("a") else { panic!("{value:?}") };
        let [most, nil, truth, small, less, large, half, bin] = &list[..] else { panic!("{list:?}") };
        assert_eq!(most, &Value::Int(i128::from(u64::MAX)));
        assert_eq!((nil, truth), (&Value::Nil, &Value::Bool(true)));
        assert_eq!((small, less, large), (&Value::Int(-32), &Value::Int(-33), &Value::Int(1 << 40)));
        assert_eq!((half, bin), (&Value::Float(0.5), &Value::Bin(&[1; 70_000])));
        assert!(matches!(value.get(&long), Some(Value::Array(list)) if list.len() == 20));
        for cut in 0..bytes.len().min(400) {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn claims_are_refused_before_memory_is_taken() {
        for (bytes, words) in [
            (&[0xdd, 0xff, 0xff, 0xff, 0xff][..], "4294967295 more values"),
            (&[0xdf, 0xff, 0xff, 0xff, 0xff], "8589934590 more values"),
            (&[0xc6, 0x40, 0, 0, 0], "1073741824 more bytes"),
            (&[0xdb, 0x40, 0, 0, 0], "1073741824 more bytes"),
            (&[0xc7, 1, 1, 1], "extension"),
            (&[0xa1, 0xff], "UTF-8"),
            (&[0xc0, 0xc0], "1 bytes behind"),
            (&[], "more bytes"),
            (&[0x91; 100], "24 containers"),
        ] {
            let error = read(bytes).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
        let many = [&[0xdd, 0, 1, 0, 1][..], &[0xc0; 65537]].concat();
        assert!(read(&many).expect_err("refused").to_string().contains("65536 values"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
