//! The first video track of an mp4 file: codec, colour tags, and where each picture's bytes lie.
//!
//! A reader of its own, because every count and offset of the file is checked before it is used (a damaged
//! file is an error, never a panic), and because exact frame indices need the edit list and the colour box.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Codec,
    bytes::{Bytes, code},
    color::Tags,
    samples::{self, Sample},
};
use crate::{Error, Result};

/// The largest `moov` box taken into memory; an hour of video at 60 frames a second needs about 10 MiB.
const MAX_MOOV: u64 = 256 << 20;

/// An open mp4 file.
#[derive(Debug)]
pub(super) struct Movie {
    pub(super) path: PathBuf,
    file: File,
    pub(super) codec: Codec,
    /// As the track says, before decoding.
    pub(super) width: usize,
    /// As the track says, before decoding.
    pub(super) height: usize,
    /// The `avcC` of H.264; empty for AV1.
    pub(super) config: Vec<u8>,
    /// The `colr` box, where there is one.
    pub(super) colour: Option<Tags>,
    /// In decoding order.
    pub(super) samples: Vec<Sample>,
    /// The samples shown, in presentation order, as indices into `samples`.
    pub(super) shown: Vec<usize>,
}

/// What goes wrong in a box.
pub(super) struct Damage {
    pub(super) field: String,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Damage {
    pub(super) fn new(
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Damage {
        Damage { field: field.into(), expected: expected.into(), found: found.into() }
    }

    /// A box that is absent or ends too early.
    pub(super) fn short(field: &str) -> Damage {
        Damage::new(field, "a whole box", "nothing, or too few bytes")
    }

    pub(super) fn at(self, path: &Path) -> Error {
        Error::Container { path: path.into(), field: self.field, expected: self.expected, found: self.found }
    }
}

impl Movie {
    /// Reads the file's index. A missing file is [`Error::Missing`] as `what`.
    pub(super) fn open(path: &Path, what: &str) -> Result<Movie> {
        let mut file = File::open(path).map_err(|e| Error::io(path, what, e))?;
        let (moov, file_len) = read_moov(path, &mut file)?;
        let moov = Bytes(&moov);
        let track = video_track(moov).ok_or_else(|| {
            Damage::new("moov", "a video track (trak with handler `vide`)", "none").at(path)
        })?;
        let table = stbl(track).ok_or_else(|| Damage::short("trak/mdia/minf/stbl").at(path))?;
        if moov.find(b"mvex").is_some() {
            return Err(Error::Unsupported {
                path: path.into(),
                what: "mp4 layout".into(),
                found: "a fragmented file (mvex)".into(),
                supported: "files with one sample table".into(),
            });
        }
        let entry = SampleEntry::read(path, table)?;
        let samples = samples::read(table, file_len).map_err(|damage| damage.at(path))?;
        let shown = samples::shown(moov, track, &samples).map_err(|damage| damage.at(path))?;
        Ok(Movie {
            path: path.into(),
            file,
            codec: entry.codec,
            width: entry.width,
            height: entry.height,
            config: entry.config,
            colour: entry.colour,
            samples,
            shown,
        })
    }

    /// The coded bytes of a sample. Its place in the file was checked when the file was opened.
    pub(super) fn read_sample(&mut self, sample: Sample) -> Result<Vec<u8>> {
        let path = &self.path;
        let failed = |source| Error::Io { path: path.clone(), source };
        self.file.seek(SeekFrom::Start(sample.offset)).map_err(failed)?;
        let mut bytes = vec![0; sample.size];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

/// Walks the top-level boxes and reads `moov`; gives the file's length, too.
fn read_moov(path: &Path, file: &mut File) -> Result<(Vec<u8>, u64)> {
    let failed = |source| Error::Io { path: path.into(), source };
    let file_len = file.metadata().map_err(failed)?.len();
    let mut at = 0u64;
    while at < file_len {
        let damaged = |found: String| Damage::new(format!("box at byte {at}"), "a whole box", found).at(path);
        let mut header = [0; 16];
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let available = usize::try_from(file_len - at).unwrap_or(usize::MAX).min(16);
        let header = &mut header[..available];
        file.read_exact(header).map_err(failed)?;
        let mut bytes = Bytes(header);
        let (Some(size), Some(kind)) = (bytes.u32(), bytes.u32().map(u32::to_be_bytes)) else {
            return Err(damaged(format!("{available} bytes")));
        };
        let (head, size) = match size {
            0 => (8, Some(file_len - at)),
            1 => (16, bytes.u64()),
            size => (8, Some(u64::from(size))),
        };
        let size = size.filter(|size| *size >= head);
        let end = size.and_then(|size| at.checked_add(size)).filter(|end| *end <= file_len);
        let (Some(size), Some(end)) = (size, end) else {
            let size = size.map_or("of impossible size".into(), |size| format!("of {size} bytes"));
            let left = file_len - at;
            let found = format!("`{}` {size} where the file has {left} (truncated?)", code(&kind));
            return Err(damaged(found));
        };
        if &kind == b"moov" {
            let length = size - head;
            let fits = usize::try_from(length).ok().filter(|_| length <= MAX_MOOV);
            let length = fits.ok_or_else(|| damaged(format!("`moov` of {length} bytes")))?;
            let mut moov = vec![0; length];
            file.seek(SeekFrom::Start(at + head)).map_err(failed)?;
            file.read_exact(&mut moov).map_err(failed)?;
            return Ok((moov, file_len));
        }
        at = end;
    }
    let found = format!("none in {file_len} bytes (truncated, or not an mp4 file)");
    Err(Damage::new("moov", "the index of the video", found).at(path))
}

/// The first track whose handler is `vide`.
fn video_track(mut moov: Bytes) -> Option<Bytes> {
    while let Some(Some((kind, track))) = moov.next_box() {
        let handler = || {
            let mut hdlr = track.find(b"mdia")?.find(b"hdlr")?;
            hdlr.skip(8)?;
            hdlr.take(4)
        };
        if &kind == b"trak" && handler() == Some(b"vide") {
            return Some(track);
        }
    }
    None
}

/// The sample table of a track.
fn stbl(track: Bytes) -> Option<Bytes> {
    track.find(b"mdia")?.find(b"minf")?.find(b"stbl")
}

/// The first entry of `stsd`.
struct SampleEntry {
    codec: Codec,
    width: usize,
    height: usize,
    config: Vec<u8>,
    colour: Option<Tags>,
}

impl SampleEntry {
    fn read(path: &Path, table: Bytes) -> Result<SampleEntry> {
        let short = || Damage::short("stbl/stsd").at(path);
        let mut stsd = table.find(b"stsd").ok_or_else(short)?;
        stsd.skip(8).ok_or_else(short)?;
        let (kind, mut entry) = stsd.next_box().flatten().ok_or_else(short)?;
        let codec = match &kind {
            b"avc1" | b"avc3" => Codec::H264,
            b"av01" => Codec::Av1,
            _ => {
                return Err(Error::Unsupported {
                    path: path.into(),
                    what: "video codec".into(),
                    found: code(&kind),
                    supported: "H.264 (avc1, avc3), AV1 (av01)".into(),
                });
            }
        };
        let mut size = || {
            entry.skip(24)?;
            let size = (usize::from(entry.u16()?), usize::from(entry.u16()?));
            entry.skip(50)?;
            Some(size)
        };
        let (width, height) = size().ok_or_else(short)?;
        let config = match codec {
            Codec::H264 => entry.find(b"avcC").ok_or_else(|| Damage::short("stsd/avc1/avcC").at(path))?,
            Codec::Av1 => Bytes(&[]),
        };
        let colour = entry.find(b"colr").and_then(colour);
        Ok(SampleEntry { codec, width, height, config: config.0.to_vec(), colour })
    }
}

/// A `colr` box: `nclx` has a range flag, QuickTime's `nclc` has none.
fn colour(mut colr: Bytes) -> Option<Tags> {
    let kind = colr.take(4)?;
    colr.skip(4)?;
    let matrix = u8::try_from(colr.u16()?).ok()?;
    match kind {
        b"nclx" => Some(Tags { matrix: Some(matrix), full_range: Some(colr.u8()? & 0x80 != 0) }),
        b"nclc" => Some(Tags { matrix: Some(matrix), full_range: None }),
        _ => None,
    }
}
