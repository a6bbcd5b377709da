//! The headers of a column's pages, read before the pages are unpacked: the parquet crate takes as much memory as a
//! header says, whatever the page holds. Headers are structs of Thrift's compact protocol.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// The most bytes of an unpacked page.
pub(super) const MAX_PAGE: i64 = 1 << 28;
/// Bytes that are read for a header. Its statistics may have texts.
const HEADER: u64 = 1 << 16;
/// Structs within each other.
const MAX_DEPTH: usize = 8;

/// What a header says of its page.
#[derive(Debug, PartialEq)]
struct Page {
    /// Bytes of the header.
    header: u64,
    /// Bytes of the page when it is unpacked.
    unpacked: i64,
    /// Bytes of the page in the file.
    packed: u64,
}

/// Whether all pages in `length` bytes at `start` of a file have headers, and take little memory. The error is what was
/// expected, and what was found.
pub(super) fn check(path: &Path, start: u64, length: u64) -> Result<(), (String, String)> {
    let failed = |error: std::io::Error| ("a file that can be read".to_owned(), error.to_string());
    let mut file = File::open(path).map_err(failed)?;
    let (mut at, end) = (start, start.saturating_add(length));
    let mut header = Vec::new();
    while at < end {
        header.clear();
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        (&file).take(HEADER.min(end - at)).read_to_end(&mut header).map_err(failed)?;
        let Some(page) = page(&header) else {
            return Err((format!("a page's header at byte {at}"), "other bytes".to_owned()));
        };
        if !(0..=MAX_PAGE).contains(&page.unpacked) {
            let expected = format!("pages of at most {MAX_PAGE} bytes");
            return Err((expected, format!("one of {} at byte {at}", page.unpacked)));
        }
        at = at.saturating_add(page.header).saturating_add(page.packed);
    }
    Ok(())
}

/// The header that `bytes` start with.
fn page(bytes: &[u8]) -> Option<Page> {
    let mut rest = Cursor { bytes };
    let (mut unpacked, mut packed) = (None, None);
    let mut field = 0;
    loop {
        let kind = rest.field(&mut field)?;
        match (kind, field) {
            (0, _) => break,
            (I32, 2) => unpacked = Some(rest.integer()?),
            (I32, 3) => packed = Some(rest.integer()?),
            _ => rest.skip(kind, MAX_DEPTH)?,
        }
    }
    let header = (bytes.len() - rest.bytes.len()) as u64;
    Some(Page { header, unpacked: unpacked?, packed: u64::try_from(packed?).ok()? })
}

/// Thrift's numbers of types.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// What is left of a header.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn pass(&mut self, count: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    /// An unsigned number in groups of 7 bits, the lowest first.
    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A signed number, whose sign is its lowest bit.
    fn integer(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// The type of a struct's next field, whose number follows from the one before; 0 at the struct's end.
    fn field(&mut self, number: &mut i64) -> Option<u8> {
        let byte = self.byte()?;
        let (step, kind) = (byte >> 4, byte & 15);
        *number = match step {
            _ if kind == 0 => *number,
            0 => self.integer()?,
            step => *number + i64::from(step),
        };
        Some(kind)
    }

    /// Passes over a value. Headers have no maps.
    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.pass(1),
            I16 | I32 | I64 => self.integer().map(drop),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.unsigned()?;
                self.pass(length)
            }
            LIST | SET => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
                // Each element has a byte at least, booleans too.
                (0..count).try_for_each(|_| match byte & 15 {
                    TRUE | FALSE => self.pass(1),
                    kind => self.skip(kind, depth),
                })
            }
            STRUCT => {
                let mut field = 0;
                loop {
                    match self.field(&mut field)? {
                        0 => return Some(()),
                        kind => self.skip(kind, depth)?,
                    }
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_too_large_pages_refused() {
        // type DATA_PAGE, 300 bytes unpacked, 40 packed, a data page header {num_values: 2, encoding: 0, 3, 3}, end.
        let header = [0x15, 0, 0x15, 0xd8, 0x04, 0x15, 0x50, 0x2c, 0x15, 4, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0];
        let bytes = [&header[..], &[0; 40]].concat();
        assert_eq!(page(&bytes), Some(Page { header: 18, unpacked: 300, packed: 40 }));
        for length in 0..header.len() {
            assert_eq!(page(&header[..length]), None);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let twice = [&bytes[..], &bytes].concat();
        std::fs::write(file.path(), &twice).unwrap();
        assert_eq!(check(file.path(), 0, 116), Ok(()));
        assert!(check(file.path(), 1, 115).is_err());
        // 2 GiB unpacked, in the second header.
        let mut large = twice[..58].to_vec();
        large.extend([0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 0x50, 0]);
        std::fs::write(file.path(), &large).unwrap();
        let (_, found) = check(file.path(), 0, large.len() as u64).unwrap_err();
        assert_eq!(found, "one of 2147483647 at byte 58");
    }
}
