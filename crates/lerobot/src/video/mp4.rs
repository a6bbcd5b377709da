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
    fragments, order,
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
    /// The sample entry's four-character code.
    pub(super) fourcc: String,
    /// As the track says, before decoding.
    pub(super) width: usize,
    /// As the track says, before decoding.
    pub(super) height: usize,
    /// The `avcC` of H.264, the `av1C` of AV1; empty for others.
    pub(super) config: Vec<u8>,
    /// The `colr` box, where there is one.
    pub(super) colour: Option<Tags>,
    /// In decoding order.
    pub(super) samples: Vec<Sample>,
    /// The samples shown, in presentation order, as indices into `samples`.
    pub(super) shown: Vec<usize>,
    /// When they are shown, in seconds of the movie, ascending.
    pub(super) times: Vec<f64>,
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
        let mut file = steadyhand_files::open(path).map_err(|e| Error::io(path, what, e))?;
        let index = read_index(path, &mut file)?;
        let moov = Bytes(&index.moov);
        let track = video_track(moov).ok_or_else(|| {
            Damage::new("moov", "a video track (trak with handler `vide`)", "none").at(path)
        })?;
        let table = stbl(track).ok_or_else(|| Damage::short("trak/mdia/minf/stbl").at(path))?;
        let entry = SampleEntry::read(path, table)?;
        let mut samples = samples::read(table, index.file_len).map_err(|damage| damage.at(path))?;
        // The table of a fragmented file has the pictures before its first fragment, if any.
        if let Some(mvex) = moov.find(b"mvex") {
            let ends = samples::duration(table).map_err(|damage| damage.at(path))?;
            let rest = fragments::read(mvex, track, &index.fragments, index.file_len, ends);
            samples.extend(rest.map_err(|damage| damage.at(path))?);
        }
        let shown = samples::shown(moov, track, &samples).map_err(|damage| damage.at(path))?;
        let (shown, times) = shown.into_iter().unzip();
        let mut movie = Movie {
            path: path.into(),
            file,
            codec: entry.codec,
            fourcc: entry.fourcc,
            width: entry.width,
            height: entry.height,
            config: entry.config,
            colour: entry.colour,
            samples,
            shown,
            times,
        };
        order::by_picture_count(&mut movie)?;
        Ok(movie)
    }

    /// The first `limit` coded bytes of a sample.
    pub(super) fn read_start(&mut self, sample: Sample, limit: usize) -> Result<Vec<u8>> {
        self.read_sample(Sample { size: sample.size.min(limit), ..sample })
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

/// What a file says of its pictures.
struct Index {
    moov: Vec<u8>,
    /// The `moof` boxes of a fragmented file, each with its place.
    fragments: Vec<Fragment>,
    file_len: u64,
}

/// A `moof` box.
pub(super) struct Fragment {
    /// Its first byte in the file.
    pub(super) start: u64,
    /// Its contents.
    pub(super) moof: Vec<u8>,
}

/// Walks the top-level boxes and reads `moov` and, of fragmented files, every `moof`.
fn read_index(path: &Path, file: &mut File) -> Result<Index> {
    let failed = |source| Error::Io { path: path.into(), source };
    let file_len = file.metadata().map_err(failed)?.len();
    let mut index = Index { moov: Vec::new(), fragments: Vec::new(), file_len };
    let (mut at, mut taken) = (0u64, 0u64);
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
        let is_moov = &kind == b"moov" && index.moov.is_empty();
        if is_moov || &kind == b"moof" {
            let length = size - head;
            taken = taken.saturating_add(length);
            let fits = usize::try_from(length).ok().filter(|_| taken <= MAX_MOOV);
            let length = fits.ok_or_else(|| damaged(format!("`{}` of {length} bytes", code(&kind))))?;
            let mut contents = vec![0; length];
            file.seek(SeekFrom::Start(at + head)).map_err(failed)?;
            file.read_exact(&mut contents).map_err(failed)?;
            if is_moov {
                let fragmented = Bytes(&contents).find(b"mvex").is_some();
                index.moov = contents;
                if !fragmented {
                    return Ok(index);
                }
            } else {
                index.fragments.push(Fragment { start: at, moof: contents });
            }
        }
        at = end;
    }
    if !index.moov.is_empty() {
        return Ok(index);
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
    fourcc: String,
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
            b"hvc1" | b"hev1" => Codec::Hevc,
            b"vp08" => Codec::Vp8,
            b"vp09" => Codec::Vp9,
            b"mjpg" | b"jpeg" => Codec::MotionJpeg,
            b"mp4v" => Codec::Mpeg4,
            _ => Codec::Other,
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
            Codec::Av1 => entry.find(b"av1C").unwrap_or(Bytes(&[])),
            _ => Bytes(&[]),
        };
        let codec = match codec {
            // The code stands for several codecs, which the elementary stream's descriptor tells apart.
            Codec::Mpeg4 => entry.find(b"esds").and_then(object_type).map_or(Codec::Mpeg4, codec_of_object),
            codec => codec,
        };
        let colour = entry.find(b"colr").and_then(colour);
        let config = config.0.to_vec();
        Ok(SampleEntry { codec, fourcc: code(&kind), width, height, config, colour })
    }
}

/// The object type of an `esds` box (ISO/IEC 14496-1): elementary stream, then decoder configuration.
fn object_type(mut esds: Bytes) -> Option<u8> {
    const STREAM: u8 = 3;
    const DECODER: u8 = 4;
    esds.skip(4)?;
    let mut descriptor = |tag: u8| {
        let found = esds.u8()?;
        // The length has up to four bytes of seven bits.
        for _ in 0..4 {
            if esds.u8()? & 0x80 == 0 {
                break;
            }
        }
        (found == tag).then_some(())?;
        if tag == STREAM {
            esds.skip(2)?;
            let flags = esds.u8()?;
            esds.skip(if flags & 0x80 != 0 { 2 } else { 0 })?;
            let url = if flags & 0x40 != 0 { usize::from(esds.u8()?) } else { 0 };
            esds.skip(url + if flags & 0x20 != 0 { 2 } else { 0 })?;
        }
        Some(())
    };
    descriptor(STREAM)?;
    descriptor(DECODER)?;
    esds.u8()
}

/// The codec of an object type of MPEG-4 systems.
fn codec_of_object(kind: u8) -> Codec {
    match kind {
        0x20 => Codec::Mpeg4,
        0x21 => Codec::H264,
        0x23 => Codec::Hevc,
        0x6c => Codec::MotionJpeg,
        _ => Codec::Other,
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
