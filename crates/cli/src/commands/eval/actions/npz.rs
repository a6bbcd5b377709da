//! Actions as NPZ: a ZIP archive of arrays, stored without compression, as `numpy.savez` writes it.
//!
//! Formats: numpy's `lib.format` (NPY 1.0), and APPNOTE.TXT of ZIP without its extensions, so below 4 GiB.

use super::Table;
use crate::report::output::{WRITTEN_BY, write_file};
use anyhow::{Context, Result};
use std::path::Path;

/// Writes the table: `predicted` and `recorded` `[rows, joints]` f32, `episode`, `step` and `inference` `[rows]` i64,
/// `joints` `[joints]` text.
///
/// # Errors
/// The file cannot be written, or is larger than the form allows.
pub fn write(table: &Table, path: &Path) -> Result<()> {
    write_file(path, &archive(table)?)
}

fn archive(table: &Table) -> Result<Vec<u8>> {
    let (rows, joints) = (table.episode.len(), table.joints.len());
    let floats =
        |values: &[f32]| array("<f4", &[rows, joints], values.iter().copied().flat_map(f32::to_le_bytes));
    let integers = |values: &[i64]| array("<i8", &[rows], values.iter().copied().flat_map(i64::to_le_bytes));
    let mut zip = Zip::default();
    zip.add("written_by.npy", &texts(&[WRITTEN_BY.to_owned()]))?;
    zip.add("joints.npy", &texts(&table.joints))?;
    zip.add("episode.npy", &integers(&table.episode))?;
    zip.add("step.npy", &integers(&table.step))?;
    zip.add("inference.npy", &integers(&table.inference))?;
    zip.add("predicted.npy", &floats(&table.predicted))?;
    zip.add("recorded.npy", &floats(&table.recorded))?;
    zip.finish()
}

/// An array of texts, UTF-32 padded with zeros.
fn texts(texts: &[String]) -> Vec<u8> {
    let longest = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let padded = texts.iter().flat_map(|text| {
        let letters = text.chars().map(u32::from);
        letters.chain(std::iter::repeat(0)).take(longest).flat_map(u32::to_le_bytes)
    });
    array(&format!("<U{longest}"), &[texts.len()], padded)
}

/// An array in row-major order.
fn array(kind: &str, shape: &[usize], data: impl Iterator<Item = u8>) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // Magic, version and the header's length take 10 bytes; data begins at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded as u16).to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = padded - 1).into_bytes());
    bytes.extend(data);
    bytes
}

/// An archive as it grows.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    files: u16,
}

impl Zip {
    fn add(&mut self, name: &str, contents: &[u8]) -> Result<()> {
        let (begin, length) = (size(self.bytes.len())?, size(contents.len())?);
        let mut fields = Vec::new();
        // Version 2.0, no flags, stored; 1980-01-01, so that the same actions give the same bytes.
        for field in [20u16, 0, 0, 0, 0x21] {
            fields.extend(field.to_le_bytes());
        }
        for field in [crc32fast::hash(contents), length, length] {
            fields.extend(field.to_le_bytes());
        }
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend(0u16.to_le_bytes());
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&fields);
        self.bytes.extend(name.as_bytes());
        self.bytes.extend(contents);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(&fields);
        // No comment, first disk, no attributes.
        self.directory.extend([0; 10]);
        self.directory.extend(begin.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.files += 1;
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let (begin, length) = (size(self.bytes.len())?, size(self.directory.len())?);
        self.bytes.append(&mut self.directory);
        self.bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
        for field in [self.files, self.files] {
            self.bytes.extend(field.to_le_bytes());
        }
        for field in [length, begin] {
            self.bytes.extend(field.to_le_bytes());
        }
        self.bytes.extend(0u16.to_le_bytes());
        Ok(self.bytes)
    }
}

fn size(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).context("an .npz file holds less than 4 GiB: use .parquet")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::eval::actions::tests::table;

    /// The header is numpy's, and data begins where numpy looks for it.
    #[test]
    fn an_array_is_what_numpy_reads() {
        let bytes = array("<i8", &[2], [1i64, -1].into_iter().flat_map(i64::to_le_bytes));
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00v\x00");
        assert!(bytes[10..].starts_with(b"{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }   "));
        assert_eq!((bytes[127], &bytes[128..136], bytes.len()), (b'\n', &1i64.to_le_bytes()[..], 144));
    }

    #[test]
    fn the_directory_names_every_array() {
        let zip = archive(&table()).unwrap();
        assert_eq!(zip, archive(&table()).unwrap());
        let end = zip.len() - 22;
        assert_eq!(&zip[end..end + 4], b"PK\x05\x06");
        assert_eq!(u16::from_le_bytes([zip[end + 10], zip[end + 11]]), 7);
        let begin = u32::from_le_bytes(zip[end + 16..end + 20].try_into().unwrap()) as usize;
        assert_eq!(&zip[begin..begin + 4], b"PK\x01\x02");
        let names = String::from_utf8_lossy(&zip[begin..end]);
        for name in ["written_by", "joints", "episode", "step", "inference", "predicted", "recorded"] {
            assert!(names.contains(&format!("{name}.npy")), "{name}");
        }
    }
}
