//! Pictures that lie one by one, as PNG or JPEG files, in a column of the episode's parquet file.

use std::ops::Range;

use steadyhand_files::{Disguise, Kind};

use super::{Frame, MAX_PIXELS, jpeg};
use crate::{Error, Result, parquet::Table};

/// Rows read at a time: neighbours are asked for next, and a page is unpacked once for all of them.
const ROWS: usize = 32;
/// The part of the structure that holds the file's bytes; the other is its path at recording time.
const BYTES: &str = "bytes";

/// The images of one column.
#[derive(Debug)]
pub(super) struct Images {
    table: Table,
    column: String,
    rows: Range<usize>,
    /// The first image read and those after it.
    read: (usize, Vec<Vec<u8>>),
}

impl Images {
    pub(super) fn new(table: Table, column: &str, rows: Range<usize>) -> Images {
        Images { table, column: column.to_owned(), rows, read: (0, Vec::new()) }
    }

    /// The image of the episode's row `row`.
    pub(super) fn frame(&mut self, row: usize) -> Result<Frame> {
        let (first, files) = &self.read;
        if row.checked_sub(*first).is_none_or(|at| at >= files.len()) {
            self.read = (row, self.files(row)?);
        }
        let (first, files) = &self.read;
        let file = row.checked_sub(*first).and_then(|at| files.get(at)).map_or(&[][..], Vec::as_slice);
        decode(file).map_err(|(expected, found)| {
            Error::field(self.table.path(), format!("{}, row {row}", self.column), expected, found)
        })
    }

    /// The files of `ROWS` rows from `row` on.
    fn files(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        let start = self.rows.start.saturating_add(row).min(self.rows.end);
        let range = start..start.saturating_add(ROWS).min(self.rows.end);
        let column = self.table.part::<Vec<u8>>(&self.column, BYTES, range)?;
        match column.lengths.iter().position(|length| *length != 1) {
            None => Ok(column.values),
            Some(at) => {
                let field = format!("{}, row {}", self.column, row + at);
                let found = "none (only the path of a file, perhaps)";
                Err(Error::field(self.table.path(), field, "the bytes of one image file", found))
            }
        }
    }
}

/// The pixels of an image file; or what was expected and what was found.
pub(super) fn decode(file: &[u8]) -> Result<Frame, (String, String)> {
    match Disguise::of(file) {
        Some(Disguise::Other(Kind::Png)) => png(file).map_err(|found| ("a whole PNG image".into(), found)),
        Some(Disguise::Other(Kind::Jpeg)) => jpeg::decode(file)
            .map(|(width, height, rgb)| Frame { width, height, rgb })
            .map_err(|found| ("a whole JPEG image".into(), found)),
        Some(found) => Err(("a PNG or JPEG image".into(), found.to_string())),
        None => Err(("a PNG or JPEG image".into(), format!("{} bytes of something else", file.len()))),
    }
}

/// As Pillow's `convert("RGB")`: palettes looked up, grey repeated, transparency dropped, 16 bits cut to 8.
fn png(file: &[u8]) -> Result<Frame, String> {
    let limits = png::Limits { bytes: MAX_PIXELS as usize * 8 };
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(file), limits);
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let size = reader.output_buffer_size().filter(|size| *size <= MAX_PIXELS as usize * 4);
    let mut data = vec![0; size.ok_or("an image too large")?];
    let info = reader.next_frame(&mut data).map_err(|error| error.to_string())?;
    let (width, height) = (info.width as usize, info.height as usize);
    let data = data.get(..info.buffer_size()).unwrap_or_default();
    let rgb = match info.color_type {
        png::ColorType::Rgb => data.to_vec(),
        png::ColorType::Rgba => {
            data.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        }
        png::ColorType::Grayscale => data.iter().flat_map(|level| [*level; 3]).collect(),
        png::ColorType::GrayscaleAlpha => data.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        png::ColorType::Indexed => return Err("a palette that was not looked up".into()),
    };
    whole(width, height, rgb)
}

fn whole(width: usize, height: usize, rgb: Vec<u8>) -> Result<Frame, String> {
    match width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) == Some(rgb.len()) {
        true => Ok(Frame { width, height, rgb }),
        false => Err(format!("{} bytes for {width}x{height} pixels", rgb.len())),
    }
}
