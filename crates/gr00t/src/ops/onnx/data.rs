//! The tensors beside the graph: a table of where each lies, and a file written one tensor at a time.
//!
//! Weights go from the mapped checkpoint to the file in pieces; a weight whose format in its file is already the
//! wanted one is copied as its bytes are.

use super::proto::{EXTERNAL, StringStringEntryProto, TensorProto, data_type};
use crate::checkpoint::Weight;
use half::{bf16, f16};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use steadyhand_fidelity::Format;

/// Where tensors begin: a page, so that a runtime may map each of them.
const ALIGNMENT: u64 = 4096;
/// Tensors below this many bytes lie in the graph's own file.
const INLINE: usize = 1024;
/// Elements converted at a time.
const PIECE: usize = 1 << 18;

/// Where a tensor's elements come from.
#[derive(Debug)]
enum Source {
    Weight(Weight, Format),
    Bytes(Vec<u8>),
}

/// A tensor of the data file.
#[derive(Debug)]
struct Stored {
    offset: u64,
    source: Source,
}

/// The data file's contents, laid out but not yet written.
#[derive(Debug, Default)]
pub(super) struct Data {
    tensors: Vec<Stored>,
    end: u64,
}

impl Data {
    /// Lays out a weight in `format` as the initializer `name`.
    pub(super) fn weight(&mut self, name: &str, weight: &Weight, format: Format) -> TensorProto {
        let bytes = weight.len() * size(format);
        let place = self.place(Source::Weight(weight.clone(), format), bytes as u64);
        TensorProto {
            name: name.to_owned(),
            dims: dims(weight.shape()),
            data_type: element_type(format),
            external_data: place,
            data_location: Some(EXTERNAL),
            raw_data: None,
        }
    }

    /// Lays out a constant, in the graph itself where it is small.
    pub(super) fn constant(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
        format: Format,
    ) -> TensorProto {
        let mut bytes = Vec::with_capacity(values.len() * size(format));
        encode(values, format, &mut bytes);
        let mut tensor = TensorProto {
            name: name.to_owned(),
            dims: dims(shape),
            data_type: element_type(format),
            ..TensorProto::default()
        };
        if bytes.len() < INLINE {
            tensor.raw_data = Some(bytes);
        } else {
            let length = bytes.len() as u64;
            tensor.external_data = self.place(Source::Bytes(bytes), length);
            tensor.data_location = Some(EXTERNAL);
        }
        tensor
    }

    /// The file's length.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    fn place(&mut self, source: Source, length: u64) -> Vec<StringStringEntryProto> {
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.end = offset + length;
        self.tensors.push(Stored { offset, source });
        let entry =
            |key: &str, value: u64| StringStringEntryProto { key: key.to_owned(), value: value.to_string() };
        vec![entry("offset", offset), entry("length", length)]
    }

    /// Writes the file.
    pub(super) fn write(&self, file: &mut File) -> io::Result<()> {
        let mut file = BufWriter::new(file);
        let mut values = Vec::new();
        let mut bytes = Vec::new();
        for tensor in &self.tensors {
            // Between tensors the file has holes, which read as zeros.
            file.seek(SeekFrom::Start(tensor.offset))?;
            match &tensor.source {
                Source::Bytes(bytes) => file.write_all(bytes)?,
                Source::Weight(weight, format) => {
                    if let Some(bytes) = weight.bytes().filter(|_| weight.dtype().format() == *format) {
                        file.write_all(bytes)?;
                        continue;
                    }
                    for start in (0..weight.len()).step_by(PIECE) {
                        let range = start..weight.len().min(start + PIECE);
                        values.resize(range.len(), 0.0);
                        weight.read_into(range, *format, &mut values);
                        bytes.clear();
                        encode(&values, *format, &mut bytes);
                        file.write_all(&bytes)?;
                    }
                }
            }
        }
        file.flush()
    }
}

/// Names the data file in every tensor that lies in it: a path beside the graph's file.
pub(super) fn set_location(initializers: &mut [TensorProto], file_name: &str) {
    for tensor in initializers.iter_mut().filter(|tensor| tensor.data_location == Some(EXTERNAL)) {
        let entry = StringStringEntryProto { key: "location".to_owned(), value: file_name.to_owned() };
        tensor.external_data.insert(0, entry);
    }
}

fn dims(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|dim| *dim as i64).collect()
}

/// Bytes of one element. The recorder refuses policies with other formats than these three.
fn size(format: Format) -> usize {
    match format {
        Format::Bf16 | Format::Fp16 => 2,
        _ => 4,
    }
}

/// ONNX's name of a format.
pub(super) fn element_type(format: Format) -> i32 {
    match format {
        Format::Bf16 => data_type::BFLOAT16,
        Format::Fp16 => data_type::FLOAT16,
        _ => data_type::FLOAT,
    }
}

fn encode(values: &[f32], format: Format, bytes: &mut Vec<u8>) {
    match format {
        Format::Bf16 => values.iter().for_each(|value| bytes.extend(bf16::from_f32(*value).to_le_bytes())),
        Format::Fp16 => values.iter().for_each(|value| bytes.extend(f16::from_f32(*value).to_le_bytes())),
        _ => values.iter().for_each(|value| bytes.extend(value.to_le_bytes())),
    }
}
