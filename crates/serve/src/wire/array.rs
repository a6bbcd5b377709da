//! Arrays in messages, in either dialect.

use super::msgpack::{Ndarray, Value, Writer};
use super::npy;
use crate::{Error, Result};
use std::borrow::Cow;

/// Most dimensions of an array.
const MAX_DIMENSIONS: usize = 8;

/// How arrays are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// `{"__ndarray_class__": true, "as_npy": bytes of an .npy file}`: the serializer of Isaac-GR00T.
    #[default]
    Npy,
    /// `{b"nd": true, b"type": "<f4", b"kind": b"", b"shape": […], b"data": bytes}`: the package msgpack-numpy.
    MsgpackNumpy,
    /// `{b"__ndarray__": true, b"data": bytes, b"dtype": "<f4", b"shape": […]}`: OpenPI's clients.
    OpenPi,
}

/// What an array holds, of what requests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// `|u1`.
    U8,
    /// `<f4`.
    F32,
    /// `<f8`.
    F64,
    /// `<U…`: texts of so many UTF-32 characters, padded with zeros.
    Text(usize),
}

/// An array of a request. Its values stay in the message.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<'m> {
    /// What it holds.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian values in C order, as many as the shape says.
    data: Cow<'m, [u8]>,
}

impl Dtype {
    fn of(descr: &str) -> Result<Self, String> {
        match descr {
            "|u1" | "u1" | "<u1" | ">u1" => Ok(Dtype::U8),
            "<f4" => Ok(Dtype::F32),
            "<f8" => Ok(Dtype::F64),
            text if text.starts_with("<U") => {
                let width = text[2..].parse().ok().filter(|width| (1..=1 << 16).contains(width));
                width.map(Dtype::Text).ok_or_else(|| format!("unreadable dtype {descr}"))
            }
            other if other.ends_with('O') => Err("object arrays are pickles, which are not read".to_owned()),
            other => Err(format!("expected dtype |u1, <f4, <f8 or <U…, found {other}")),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Dtype::U8 => 1,
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::Text(width) => 4 * width,
        }
    }

    /// As NumPy writes it, for errors.
    pub fn name(self) -> String {
        match self {
            Dtype::U8 => "uint8".to_owned(),
            Dtype::F32 => "float32".to_owned(),
            Dtype::F64 => "float64".to_owned(),
            Dtype::Text(width) => format!("<U{width}"),
        }
    }
}

/// The dialect of a map, where it is an array.
fn dialect(value: &Value) -> Option<Dialect> {
    match value {
        value if value.get("__ndarray_class__").is_some() => Some(Dialect::Npy),
        value if value.get("nd").is_some() => Some(Dialect::MsgpackNumpy),
        value if value.get("__ndarray__").is_some() => Some(Dialect::OpenPi),
        _ => None,
    }
}

/// The dialect of the first array in a value.
pub fn dialect_of(value: &Value) -> Option<Dialect> {
    match value {
        Value::Map(entries) => {
            dialect(value).or_else(|| entries.iter().find_map(|(_, value)| dialect_of(value)))
        }
        Value::Array(values) => values.iter().find_map(dialect_of),
        _ => None,
    }
}

impl<'m> Array<'m> {
    /// The array that a value is; `None` where it is none. `field` is what errors name.
    ///
    /// # Errors
    /// An array of other types than [`Dtype`], of objects or structures; another number of bytes than its shape says.
    pub fn of(value: &Value<'m>, field: &str) -> Result<Option<Self>> {
        let read = match (value, dialect(value)) {
            (Value::Ndarray(Ndarray { descr, shape, data }), _) => {
                Array::new(descr, shape.clone(), data.clone())
            }
            (_, None) => return Ok(None),
            (_, Some(Dialect::Npy)) => of_npy(value),
            (_, Some(Dialect::MsgpackNumpy)) => of_msgpack_numpy(value),
            (_, Some(Dialect::OpenPi)) => of_openpi(value),
        };
        read.map(Some).map_err(|what| Error::field(field, what))
    }

    fn new(descr: &str, shape: Vec<usize>, data: Cow<'m, [u8]>) -> Result<Self, String> {
        let dtype = Dtype::of(descr)?;
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("expected at most {MAX_DIMENSIONS} dimensions, found {}", shape.len()));
        }
        let expected = shape.iter().try_fold(dtype.bytes(), |bytes, size| bytes.checked_mul(*size));
        if expected != Some(data.len()) {
            let found = data.len();
            return Err(format!("expected the bytes of {descr} in shape {shape:?}, found {found}"));
        }
        Ok(Array { dtype, shape, data })
    }

    /// The same array of values that lay in Fortran's order.
    fn in_c_order(mut self) -> Self {
        let size = self.dtype.bytes();
        let count = self.data.len() / size;
        let mut sorted = Vec::with_capacity(self.data.len());
        let mut index = vec![0; self.shape.len()];
        for _ in 0..count {
            // The place of this index where the first dimension varies fastest.
            let place = self.shape.iter().zip(&index).rev().fold(0, |place, (size, i)| place * size + i);
            sorted.extend_from_slice(&self.data[place * size..(place + 1) * size]);
            for (i, size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        self.data = Cow::Owned(sorted);
        self
    }

    /// The values of an array of bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        (self.dtype == Dtype::U8).then_some(&self.data)
    }

    /// The values of an array of numbers; 64-bit ones are rounded.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let data = &self.data;
        match self.dtype {
            Dtype::F32 => Some(data.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()),
            Dtype::F64 => {
                Some(data.as_chunks().0.iter().map(|raw| f64::from_le_bytes(*raw) as f32).collect())
            }
            Dtype::U8 | Dtype::Text(_) => None,
        }
    }

    /// The values of an array of texts; `None` for other arrays and for what is no text.
    pub fn texts(&self) -> Option<Vec<String>> {
        let Dtype::Text(width) = self.dtype else { return None };
        let text = |raw: &[u8]| {
            let characters = raw.as_chunks().0.iter().map(|raw| u32::from_le_bytes(*raw));
            characters.take_while(|character| *character != 0).map(char::from_u32).collect()
        };
        self.data.chunks_exact(4 * width).map(text).collect()
    }
}

fn of_npy<'m>(value: &Value<'m>) -> Result<Array<'m>, String> {
    let Some(Value::Bin(file)) = value.get("as_npy") else {
        return Err("expected as_npy with bytes beside __ndarray_class__".to_owned());
    };
    let npy::Header { descr, fortran_order, shape, data } = npy::split(file)?;
    let array = Array::new(descr, shape, Cow::Borrowed(data))?;
    Ok(if fortran_order { array.in_c_order() } else { array })
}

fn of_msgpack_numpy<'m>(value: &Value<'m>) -> Result<Array<'m>, String> {
    match value.get("kind").and_then(Value::text) {
        None | Some("") => {}
        Some("O") => return Err("object arrays are pickles, which are not read".to_owned()),
        Some(kind) => return Err(format!("expected no structured array, found kind {kind}")),
    }
    let descr = value.get("type").and_then(Value::text).ok_or("expected type with a dtype such as <f4")?;
    let Some(Value::Bin(data)) = value.get("data") else {
        return Err("expected data with bytes".to_owned());
    };
    let shape = match value.get("nd") {
        // A NumPy scalar.
        Some(Value::Bool(false)) => Vec::new(),
        _ => shape_of(value)?,
    };
    Array::new(descr, shape, Cow::Borrowed(data))
}

fn of_openpi<'m>(value: &Value<'m>) -> Result<Array<'m>, String> {
    let descr = value.get("dtype").and_then(Value::text).ok_or("expected dtype with a name such as <f4")?;
    match value.get("data") {
        Some(Value::Bin(data)) => Array::new(descr, shape_of(value)?, Cow::Borrowed(data)),
        _ => Err("expected data with bytes".to_owned()),
    }
}

fn shape_of(value: &Value) -> Result<Vec<usize>, String> {
    let Some(Value::Array(sizes)) = value.get("shape") else {
        return Err("expected shape with a list".to_owned());
    };
    let size = |size: &Value| match size {
        Value::Int(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    sizes
        .iter()
        .map(size)
        .collect::<Option<_>>()
        .ok_or_else(|| "expected shape with whole numbers".to_owned())
}

/// Writes an array of f32.
pub fn write_f32(writer: &mut Writer, dialect: Dialect, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    write(writer, dialect, ("<f4", shape), &[&bytes]);
}

/// Writes an array of bytes that lie in several pieces.
pub fn write_u8(writer: &mut Writer, dialect: Dialect, shape: &[usize], pieces: &[&[u8]]) {
    write(writer, dialect, ("|u1", shape), pieces);
}

fn write_shape(writer: &mut Writer, shape: &[usize]) {
    writer.bin(b"shape");
    writer.list(shape.len());
    shape.iter().for_each(|size| writer.int(*size as i64));
}

fn write(writer: &mut Writer, dialect: Dialect, (descr, shape): (&str, &[usize]), pieces: &[&[u8]]) {
    match dialect {
        Dialect::Npy => {
            writer.map(2);
            writer.str("__ndarray_class__");
            writer.bool(true);
            writer.str("as_npy");
            let header = npy::header(descr, shape);
            writer.bin_of(&[&[&header[..]], pieces].concat());
        }
        Dialect::MsgpackNumpy => {
            writer.map(5);
            writer.bin(b"nd");
            writer.bool(true);
            writer.bin(b"type");
            writer.str(descr);
            writer.bin(b"kind");
            writer.bin(b"");
            write_shape(writer, shape);
            writer.bin(b"data");
            writer.bin_of(pieces);
        }
        Dialect::OpenPi => {
            writer.map(4);
            writer.bin(b"__ndarray__");
            writer.bool(true);
            writer.bin(b"data");
            writer.bin_of(pieces);
            writer.bin(b"dtype");
            writer.str(descr);
            write_shape(writer, shape);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::msgpack::read;
    use super::*;
    use proptest::prelude::*;

    fn written(dialect: Dialect, shape: &[usize], values: &[f32]) -> Vec<u8> {
        let mut writer = Writer::default();
        write_f32(&mut writer, dialect, shape, values);
        writer.into_bytes()
    }

    fn npy(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let size = (header.len() as u16).to_le_bytes();
        let file = [b"\x93NUMPY\x01\x00", &size[..], header.as_bytes(), data].concat();
        let mut writer = Writer::default();
        writer.map(2);
        writer.str("__ndarray_class__");
        writer.bool(true);
        writer.str("as_npy");
        writer.bin(&file);
        writer.into_bytes()
    }

    #[test]
    fn fortran_order_is_undone() {
        let message = npy("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6]);
        let value = read(&message).expect("whole");
        let array = Array::of(&value, "x").expect("fits").expect("an array");
        assert_eq!((array.bytes(), &array.shape[..]), (Some(&[1, 2, 3, 4, 5, 6][..]), &[2, 3][..]));
    }

    #[test]
    fn texts_are_utf_32() {
        let data: Vec<u8> = ['h', 'é', '\0'].iter().flat_map(|c| (*c as u32).to_le_bytes()).collect();
        let message = npy("<U3", "False", "(1,)", &data);
        let value = read(&message).expect("whole");
        let array = Array::of(&value, "x").expect("fits").expect("an array");
        assert_eq!(array.texts(), Some(vec!["hé".to_owned()]));
    }

    #[test]
    fn a_numpy_scalar_has_no_dimensions() {
        let mut writer = Writer::default();
        writer.map(3);
        writer.bin(b"nd");
        writer.bool(false);
        writer.bin(b"type");
        writer.str("<f8");
        writer.bin(b"data");
        writer.bin(&0.25f64.to_le_bytes());
        let message = writer.into_bytes();
        let value = read(&message).expect("whole");
        let array = Array::of(&value, "x").expect("fits").expect("an array");
        assert_eq!((array.floats(), array.shape.len()), (Some(vec![0.25]), 0));
    }

    #[test]
    fn pickles_and_wrong_sizes_are_refused() {
        let refused = |message: &[u8]| {
            let value = read(message).expect("whole");
            Array::of(&value, "state.arm").expect_err("refused").to_string()
        };
        assert!(
            refused(&npy("|O", "False", "(1,)", &[0; 8])).contains("state.arm: object arrays are pickles")
        );
        assert!(refused(&npy("<f4", "False", "(2,)", &[0; 4])).contains("in shape [2], found 4"));
        let huge = format!("({0}, {0})", usize::MAX);
        assert!(refused(&npy("<f4", "False", &huge, &[0; 4])).contains("found 4"));
        assert!(refused(&npy(">f4", "False", "(1,)", &[0; 4])).contains("found >f4"));
        let mut writer = Writer::default();
        writer.map(3);
        for (key, value) in [("nd", "yes"), ("kind", "O"), ("type", "O")] {
            writer.bin(key.as_bytes());
            writer.str(value);
        }
        assert!(refused(&writer.into_bytes()).contains("pickles"));
    }

    proptest! {
        #[test]
        fn arrays_survive_every_dialect(rows in 0usize..4, cols in 0usize..5, seed in any::<u32>()) {
            let values: Vec<f32> = (0..rows * cols).map(|i| f32::from_bits(seed.rotate_left(i as u32)))
                .map(|value| if value.is_nan() { 0.0 } else { value }).collect();
            for dialect in [Dialect::Npy, Dialect::MsgpackNumpy, Dialect::OpenPi] {
                let message = written(dialect, &[rows, cols], &values);
                let value = read(&message).expect("whole");
                prop_assert_eq!(dialect_of(&value), Some(dialect));
                let array = Array::of(&value, "x").expect("fits").expect("an array");
                prop_assert_eq!(&array.shape, &[rows, cols]);
                prop_assert_eq!(array.floats(), Some(values.clone()));
            }
        }

        #[test]
        fn damaged_arrays_never_panic(place in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
            for dialect in [Dialect::Npy, Dialect::MsgpackNumpy, Dialect::OpenPi] {
                let mut message = written(dialect, &[2, 3], &[1.5; 6]);
                let place = place % message.len();
                message[place] = byte;
                for message in [&message[..], &message[..cut.min(message.len())]] {
                    if let Ok(value) = read(message) {
                        let _ = Array::of(&value, "x").map(|array| array.map(|array| (array.floats(), array.texts())));
                    }
                }
            }
        }
    }
}
