//! Columns of a parquet file: numbers, lists of numbers and texts, for a range of rows.

mod pages;
mod stored;

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use parquet::{
    basic::Compression,
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{AsBytes, DataType},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescriptor,
};
use steadyhand_files::Disguise;

use crate::{Error, Result};
use stored::Stored;

/// Rows decoded at a time, so that a damaged or hostile page is noticed before it fills the memory.
const BATCH_ROWS: usize = 4096;
/// The most values of one column taken into memory: 512 MiB of f32, over a day at 1000 values a second.
const MAX_VALUES: usize = 1 << 27;
/// The most bytes of texts or images of one column taken into memory at once.
const MAX_BYTES: usize = 1 << 28;

/// An open parquet file.
pub(crate) struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    rows: usize,
    /// Row groups and columns whose pages were looked at.
    checked: Mutex<HashSet<(usize, usize)>>,
}

/// The values of one column over some rows.
#[derive(Debug)]
pub(crate) struct Column<V> {
    /// All rows' values, one after the other.
    pub(crate) values: Vec<V>,
    /// The number of values of each row; 0 where the row is null.
    pub(crate) lengths: Vec<usize>,
    /// The first row with a null among its values.
    pub(crate) null: Option<usize>,
}

impl<V> Default for Column<V> {
    fn default() -> Self {
        Column { values: Vec::new(), lengths: Vec::new(), null: None }
    }
}

/// A value that a column can be read as. None where the stored type does not fit.
pub(crate) trait Cell: Sized {
    /// What error messages call such a column.
    const EXPECTED: &'static str;
    /// From a stored float32 or float64.
    fn from_float(_: f64) -> Option<Self> {
        None
    }
    /// From a stored integer or boolean.
    fn from_integer(_: i64) -> Option<Self> {
        None
    }
    /// From a stored unsigned integer.
    fn from_unsigned(_: u64) -> Option<Self> {
        None
    }
    /// From stored bytes.
    fn from_bytes(_: &[u8]) -> Option<Self> {
        None
    }
    /// Bytes of the heap that the value holds.
    fn held(&self) -> usize {
        0
    }
}

impl Cell for f32 {
    const EXPECTED: &'static str = "numbers";
    fn from_float(value: f64) -> Option<f32> {
        Some(value as f32)
    }
    fn from_integer(value: i64) -> Option<f32> {
        Some(value as f32)
    }
    fn from_unsigned(value: u64) -> Option<f32> {
        Some(value as f32)
    }
}

impl Cell for f64 {
    const EXPECTED: &'static str = "numbers";
    fn from_float(value: f64) -> Option<f64> {
        Some(value)
    }
    fn from_integer(value: i64) -> Option<f64> {
        Some(value as f64)
    }
    fn from_unsigned(value: u64) -> Option<f64> {
        Some(value as f64)
    }
}

impl Cell for i64 {
    const EXPECTED: &'static str = "integers";
    fn from_integer(value: i64) -> Option<i64> {
        Some(value)
    }
    fn from_unsigned(value: u64) -> Option<i64> {
        i64::try_from(value).ok()
    }
    // Whole numbers up to where f64 has them all: pandas makes floats of integers beside a null.
    fn from_float(value: f64) -> Option<i64> {
        (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i64)
    }
}

impl Cell for String {
    const EXPECTED: &'static str = "UTF-8 text";
    fn from_bytes(bytes: &[u8]) -> Option<String> {
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }
    fn held(&self) -> usize {
        self.len()
    }
}

impl Cell for Vec<u8> {
    const EXPECTED: &'static str = "bytes";
    fn from_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
    fn held(&self) -> usize {
        self.len()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Table").field("path", &self.path).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens a file and reads its footer. A missing file is [`Error::Missing`] as `what`.
    pub(crate) fn open(path: &Path, what: &str) -> Result<Table> {
        let file = steadyhand_files::open(path).map_err(|e| Error::io(path, what, e))?;
        let file_len = file.metadata().map_err(|e| Error::io(path, what, e))?.len();
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(|source| {
            match Disguise::of_binary_file(path) {
                Some(found) => Error::Disguised { path: path.into(), expected: what.into(), found },
                None if cut_short(path) => {
                    let found = "other bytes, as a file copied or downloaded in part has";
                    Error::field(path, "file", "the footer of a parquet file at its end", found)
                }
                None => Error::Parquet { path: path.into(), column: "file".into(), source },
            }
        })?;
        let rows = reader.metadata().file_metadata().num_rows();
        let rows = usize::try_from(rows)
            .map_err(|_| Error::field(path, "num_rows", "a row count", rows.to_string()))?;
        let table = Table { path: path.into(), reader, rows, checked: Mutex::default() };
        table.check_places(file_len)?;
        Ok(table)
    }

    /// Checks that every column chunk lies in the file: the parquet crate takes the footer's word for it,
    /// and asserts.
    fn check_places(&self, file_len: u64) -> Result<()> {
        for column in self.reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let size = column.compressed_size();
            let end = u64::try_from(start).ok().zip(u64::try_from(size).ok());
            let end = end.and_then(|(start, size)| start.checked_add(size));
            if end.is_none_or(|end| end > file_len) {
                let expected = format!("pages within the file's {file_len} bytes");
                let found = format!("{size} bytes at {start}");
                return Err(Error::field(&self.path, column.column_path().string(), expected, found));
            }
        }
        Ok(())
    }

    /// Checks, once, that the pages of a column in a row group take little memory: unpacked, they may be far larger than
    /// the file.
    fn check_pages(&self, name: &str, group: usize, leaf: usize) -> Result<()> {
        let chunk = self.reader.metadata().row_group(group).column(leaf);
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if chunk.compression() == Compression::UNCOMPRESSED || checked.contains(&(group, leaf)) {
            return Ok(());
        }
        // Both are within the file.
        let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
        let (start, size) = (start.unsigned_abs(), chunk.compressed_size().unsigned_abs());
        pages::check(&self.path, start, size)
            .map_err(|(expected, found)| Error::field(&self.path, name, expected, found))?;
        checked.insert((group, leaf));
        Ok(())
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of rows, as the footer says.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The names of all columns.
    pub(crate) fn columns(&self) -> Vec<String> {
        let schema = self.reader.metadata().file_metadata().schema();
        match schema.is_group() {
            true => schema.get_fields().iter().map(|field| field.name().to_owned()).collect(),
            false => Vec::new(),
        }
    }

    /// The file's single leaf below the column `name`, or its leaf `part` where the column is a structure.
    fn leaf(&self, name: &str, part: Option<&str>) -> Result<usize> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let below = |column: &ColumnDescriptor| {
            let parts = column.path().parts();
            parts.first().is_some_and(|root| root == name)
                && part.is_none_or(|part| parts.len() == 1 || parts.get(1).is_some_and(|p| p == part))
        };
        let mut leaves = schema.columns().iter().enumerate().filter(|(_, column)| below(column));
        match (leaves.next(), leaves.next()) {
            (Some((leaf, _)), None) => Ok(leaf),
            (Some(_), Some(_)) => {
                let twice = self.columns().iter().filter(|column| *column == name).count() > 1;
                let found = if twice { "two columns of this name" } else { "a structure" };
                Err(Error::field(&self.path, name, "one value or one list a row", found))
            }
            (None, _) => Err(Error::Unknown {
                path: self.path.clone(),
                what: "column".into(),
                name: name.into(),
                known: self.columns(),
            }),
        }
    }

    /// Reads the rows `range` of a column, each row any number of values.
    pub(crate) fn column<V: Cell>(&self, name: &str, range: Range<usize>) -> Result<Column<V>> {
        self.leaf_column(name, self.leaf(name, None)?, range)
    }

    /// Reads the rows `range` of the part `part` of a structure, or of the column itself where it is none.
    pub(crate) fn part<V: Cell>(&self, name: &str, part: &str, range: Range<usize>) -> Result<Column<V>> {
        self.leaf_column(name, self.leaf(name, Some(part))?, range)
    }

    fn leaf_column<V: Cell>(&self, name: &str, leaf: usize, range: Range<usize>) -> Result<Column<V>> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let stored = Stored::of(&schema.column(leaf));
        let failed = |source| Error::Parquet { path: self.path.clone(), column: name.into(), source };
        let mut column = Column::default();
        let mut start = 0usize;
        for index in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(index).map_err(failed)?;
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let end = start.saturating_add(rows);
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                self.check_pages(name, index, leaf)?;
                let wanted = column.lengths.len().saturating_add(to - from);
                let found = guarded(|| {
                    let reader = group.get_column_reader(leaf)?;
                    read_any(reader, stored, from - start, to - from, &mut column)
                })
                .map_err(failed)?;
                if let Some(found) = found {
                    return Err(Error::field(&self.path, name, V::EXPECTED, found));
                }
                if column.lengths.len() != wanted {
                    let found = format!("{} rows in row group {index}", column.lengths.len());
                    return Err(Error::field(&self.path, name, format!("{wanted} rows"), found));
                }
            }
            start = end;
        }
        let found = column.lengths.len();
        if found != range.len() {
            let expected = format!("{} rows", range.len());
            return Err(Error::field(&self.path, name, expected, format!("{found} rows")));
        }
        Ok(column)
    }

    /// Reads the rows `range` of a column that holds exactly one value a row.
    pub(crate) fn scalars<V: Cell>(&self, name: &str, range: Range<usize>) -> Result<Vec<V>> {
        let first = range.start;
        let column = self.column(name, range)?;
        match column.lengths.iter().position(|len| *len != 1) {
            None => Ok(column.values),
            Some(row) => {
                let found = match column.lengths[row] {
                    0 => "null".to_owned(),
                    n => format!("{n} values"),
                };
                let field = format!("{name}, row {}", first + row);
                Err(Error::field(&self.path, field, "one value", found))
            }
        }
    }
}

/// Whether a file starts as parquet does and does not end so.
fn cut_short(path: &Path) -> bool {
    const MARK: [u8; 4] = *b"PAR1";
    let ends = || -> std::io::Result<[[u8; 4]; 2]> {
        let (mut file, mut ends) = (File::open(path)?, [[0; 4]; 2]);
        file.read_exact(&mut ends[0])?;
        file.seek(SeekFrom::End(-4))?;
        file.read_exact(&mut ends[1])?;
        Ok(ends)
    };
    // With its metadata encrypted a file ends in PARE.
    ends().is_ok_and(|[start, end]| start == MARK && end != MARK && end != *b"PARE")
}

/// Runs the parquet crate's reader. It panics on some damaged pages (a text that ends within its length, for
/// one), which cannot be told beforehand: such a panic becomes an error. All it can leave half done is the column at
/// hand, which the error discards.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    steadyhand_files::guarded(read)
        .unwrap_or_else(|| Err(ParquetError::General("damaged data broke the reader off".into())))
}

/// Reads `rows` rows after `skip`. Gives the stored type's name where `V` cannot hold it.
fn read_any<V: Cell>(
    reader: ColumnReader,
    stored: Stored,
    skip: usize,
    rows: usize,
    out: &mut Column<V>,
) -> Result<Option<&'static str>, ParquetError> {
    let (fits, name) = match reader {
        ColumnReader::BoolColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| V::from_integer(i64::from(*v)))?, "booleans")
        }
        ColumnReader::Int32ColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| stored.integer(i64::from(*v), 32))?, "integers")
        }
        ColumnReader::Int64ColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| stored.integer(*v, 64))?, "integers")
        }
        ColumnReader::FloatColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| V::from_float(f64::from(*v)))?, "floats")
        }
        ColumnReader::DoubleColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| V::from_float(*v))?, "floats")
        }
        ColumnReader::ByteArrayColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| stored.bytes(v.data()))?, "bytes or text")
        }
        ColumnReader::FixedLenByteArrayColumnReader(r) => {
            (read_leaf(r, skip, rows, out, |v| stored.bytes(v.as_bytes()))?, "fixed-length bytes")
        }
        ColumnReader::Int96ColumnReader(_) => (false, "96-bit timestamps"),
    };
    Ok((!fits).then_some(name))
}

/// Reads `rows` rows after `skip` from one row group; false where a value does not convert.
fn read_leaf<T: DataType, V: Cell>(
    mut reader: ColumnReaderImpl<T>,
    skip: usize,
    rows: usize,
    out: &mut Column<V>,
    convert: impl Fn(&T::T) -> Option<V>,
) -> Result<bool, ParquetError> {
    let mut skipped = 0;
    while skipped < skip {
        match reader.skip_records(skip - skipped)? {
            0 => return Ok(true),
            n => skipped += n,
        }
    }
    let mut done = 0;
    let mut held: usize = out.values.iter().map(Cell::held).sum();
    while done < rows {
        let (mut defs, mut reps, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let batch = (rows - done).min(BATCH_ROWS);
        let (records, _, levels) =
            reader.read_records(batch, Some(&mut defs), Some(&mut reps), &mut values)?;
        if records == 0 {
            break;
        }
        done += records;
        if out.values.len() + values.len() > MAX_VALUES {
            return Err(ParquetError::General(format!("more than {MAX_VALUES} values in one column")));
        }
        row_lengths(&defs, &reps, levels, values.len(), out);
        for value in &values {
            let Some(value) = convert(value) else { return Ok(false) };
            held += value.held();
            if held > MAX_BYTES {
                return Err(ParquetError::General(format!("more than {MAX_BYTES} bytes at once")));
            }
            out.values.push(value);
        }
    }
    Ok(true)
}

/// Appends each row's number of values. `reps` and `defs` are empty for columns without such levels.
///
/// The definition level is highest exactly where a value is stored; anything lower is a null row, an
/// empty list or a null element and stores none.
fn row_lengths<V>(defs: &[i16], reps: &[i16], levels: usize, values: usize, out: &mut Column<V>) {
    let lengths = &mut out.lengths;
    let full = defs.iter().copied().max().unwrap_or(0);
    // Without a single stored value the highest level seen means a null.
    let stored = |i: usize| values > 0 && defs.get(i).is_none_or(|def| *def == full);
    for i in 0..levels {
        if reps.get(i).is_none_or(|rep| *rep == 0) {
            lengths.push(0);
        }
        // A level that is one of several of its row is an element's.
        let among = |i: usize| reps.get(i).is_some_and(|rep| *rep > 0);
        if !stored(i) && (among(i) || among(i + 1)) && out.null.is_none() {
            out.null = lengths.len().checked_sub(1);
        }
        if let Some(last) = lengths.last_mut() {
            *last += usize::from(stored(i));
        }
    }
}

#[cfg(test)]
mod tests;
