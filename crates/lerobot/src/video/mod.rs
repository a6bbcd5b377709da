//! Video frames by index: mp4 with H.264 or AV1, 8-bit 4:2:0, as the RGB bytes that FFmpeg gives.
//!
//! Frames are counted in presentation order after the edit list, as FFmpeg and PyAV count them.
//!
//! What was compared with FFmpeg 5.1 and PyAV 18.1 (FFmpeg 8.1), every frame, with no byte different:
//! - AV1 and H.264 (baseline, main, high; B-frames, open groups, several slices, lossless cuts by edit list);
//! - BT.601, BT.709, BT.2020, FCC and SMPTE 240M, limited and full range, tagged in the bitstream or in the
//!   mp4's `colr` box. Unspecified tags mean BT.601 and limited range whatever the size: FFmpeg's default;
//! - even heights, any width.
//!
//! So were 126 more clips of random x264, SVT-AV1 and libaom settings, with FFmpeg 5.1 alone.
//!
//! Not exact: pictures of odd height, which only AV1 has here (FFmpeg's versions differ from each other).
//! The mp4's display rotation is not applied, nor does PyAV apply it.
//! Refused with an error: 10 bits and more, 4:0:0, 4:2:2, 4:4:4, other matrices, fragmented mp4 files, and
//! H.264 with interlacing, lossless blocks, explicit weights in B pictures, cropping at the left or top, or the
//! 8x8 transform together with constrained intra prediction or slices that start inside a row of macroblocks.

mod av1;
mod bytes;
mod color;
mod h264;
mod mp4;
mod samples;
mod sps;
mod stream;

use std::{collections::BTreeMap, ops::Range, path::Path};

use color::{Coefficients, Picture};
use mp4::Movie;
pub use stream::FrameStream;

use crate::{Error, Result};

/// The most pixels of a picture that are decoded: 8192 x 8192.
const MAX_PIXELS: u32 = 1 << 26;
/// Pictures kept that were decoded ahead of their turn: H.264 reorders over at most 16.
const KEPT_PICTURES: usize = 17;

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// H.264 / AVC.
    H264,
    /// AV1.
    Av1,
}

impl Codec {
    /// `H.264` or `AV1`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::H264 => "H.264",
            Codec::Av1 => "AV1",
        }
    }
}

/// One video frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]` bytes: red, green, blue.
    pub rgb: Vec<u8>,
}

/// An open video, or the part of one that belongs to an episode.
///
/// [`Video::frame`] at the next index decodes on; anywhere else it decodes from the nearest keyframe before.
pub struct Video {
    movie: Movie,
    decoder: Decoder,
    /// The frames of the file that this video shows.
    window: Range<usize>,
    /// By sample: its frame in presentation order, the first one where edits repeat it.
    frame_of: Vec<usize>,
    /// The samples that the file marks as sync samples, in order.
    syncs: Vec<usize>,
    /// H.264: whether decoding can really start at a sync sample, looked up when first needed.
    starts: BTreeMap<usize, bool>,
    /// The next sample that the decoder expects; None where it must be reset first.
    next: Option<usize>,
    /// Pictures that were decoded and may be asked for, by sample.
    kept: BTreeMap<usize, Picture>,
}

/// The two decoders.
enum Decoder {
    H264(Box<h264::Decoder>, h264::Config),
    Av1(av1::Decoder),
}

impl Video {
    /// Opens an mp4 file: reads its index, decodes nothing yet.
    pub fn open(path: impl AsRef<Path>) -> Result<Video> {
        Video::open_as(path.as_ref(), "the video")
    }

    /// Opens a file that [`Error::Missing`] calls `what`.
    pub(crate) fn open_as(path: &Path, what: &str) -> Result<Video> {
        let movie = Movie::open(path, what)?;
        let failed = |reason| decode_error(path, 0, movie.codec, reason);
        let decoder = match movie.codec {
            Codec::H264 => {
                let config = h264::Config::parse(&movie.config).map_err(failed)?;
                Decoder::H264(Box::new(h264::Decoder::new(config.clone())), config)
            }
            Codec::Av1 => Decoder::Av1(av1::Decoder::new().map_err(failed)?),
        };
        let mut frame_of = vec![usize::MAX; movie.samples.len()];
        for (frame, sample) in movie.shown.iter().enumerate() {
            frame_of[*sample] = frame_of[*sample].min(frame);
        }
        let window = 0..movie.shown.len();
        let syncs = (0..movie.samples.len()).filter(|i| movie.samples[*i].sync).collect();
        let (starts, kept) = (BTreeMap::new(), BTreeMap::new());
        Ok(Video { movie, decoder, window, frame_of, syncs, starts, next: None, kept })
    }

    /// The part `frames` of the video, as far as it has them; frame 0 is then the first of them.
    pub(crate) fn window(mut self, frames: Range<usize>) -> Video {
        let count = self.movie.shown.len();
        let start = frames.start.min(count);
        self.window = start..frames.end.clamp(start, count);
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.movie.path
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.movie.codec
    }

    /// Pixels a row, as the file's track says; a decoded [`Frame`] has its own.
    pub fn width(&self) -> usize {
        self.movie.width
    }

    /// Rows, as the file's track says; a decoded [`Frame`] has its own.
    pub fn height(&self) -> usize {
        self.movie.height
    }

    /// The number of frames.
    pub fn frame_count(&self) -> usize {
        self.window.len()
    }

    /// Decodes the frame at `index`, counted from 0 in presentation order.
    pub fn frame(&mut self, index: usize) -> Result<Frame> {
        let count = self.window.len();
        let frame = self.window.start.saturating_add(index);
        let sample = self.movie.shown.get(frame).copied().filter(|_| index < count);
        let Some(sample) = sample else {
            return Err(Error::FrameRange { path: self.movie.path.clone(), index, count });
        };
        // Pictures shown before this one are not waited for any more.
        self.kept.retain(|kept, _| self.frame_of.get(*kept).is_some_and(|shown| *shown >= frame));
        if !self.kept.contains_key(&sample) {
            self.decode_to(sample, frame)?;
        }
        let Some(picture) = self.kept.get(&sample) else {
            return Err(self.failed(sample, "the decoder gave no picture".into()));
        };
        let tags = match self.movie.codec {
            // H.264's own tags come first, then the file's; AV1's header always has them.
            Codec::H264 => picture.tags.or(self.movie.colour.unwrap_or_default()),
            Codec::Av1 => picture.tags,
        };
        let coefficients = Coefficients::new(tags).ok_or_else(|| Error::Unsupported {
            path: self.movie.path.clone(),
            what: "colour matrix (ITU-T H.273)".into(),
            found: tags.matrix.map_or("none".into(), |m| m.to_string()),
            supported: "1, 2, 4, 5, 6, 7, 9, 10".into(),
        })?;
        Ok(color::to_rgb(picture, coefficients))
    }

    /// Decodes the frames at `indices` in a thread of its own, at most `ahead` finished frames in advance.
    pub fn stream(self, indices: Vec<usize>, ahead: usize) -> FrameStream {
        FrameStream::new(self, indices, ahead)
    }

    /// Decodes up to `sample`, keeping it and the pictures shown after `frame`.
    fn decode_to(&mut self, sample: usize, frame: usize) -> Result<()> {
        let start = self.start_before(sample)?;
        // Going on is cheaper than starting over, unless a starting point lies in between.
        let from = match self.next {
            Some(next) if next <= sample && next >= start => next,
            _ => {
                match &mut self.decoder {
                    Decoder::H264(decoder, _) => decoder.reset(),
                    Decoder::Av1(decoder) => decoder.reset(),
                }
                start
            }
        };
        for at in from..=sample {
            // Until this picture is decoded, the decoder's state is unknown.
            self.next = None;
            let picture = self.decode(at)?;
            self.next = Some(at + 1);
            let shown_later = |shown: &usize| *shown >= frame && *shown != usize::MAX;
            if at == sample || self.frame_of.get(at).is_some_and(shown_later) {
                self.kept.insert(at, picture);
            }
            while self.kept.len() > KEPT_PICTURES {
                // The one shown last is wanted last.
                let last = self.kept.keys().copied().filter(|kept| *kept != sample);
                match last.max_by_key(|kept| self.frame_of.get(*kept)) {
                    Some(last) => drop(self.kept.remove(&last)),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Decodes one sample, which must be the decoder's next.
    fn decode(&mut self, sample: usize) -> Result<Picture> {
        let Some(place) = self.movie.samples.get(sample).copied() else {
            return Err(self.failed(sample, "the sample does not exist".into()));
        };
        let data = self.movie.read_sample(place)?;
        let decoded = match &mut self.decoder {
            Decoder::H264(decoder, _) => decoder.decode(&data),
            Decoder::Av1(decoder) => decoder.decode(data),
        };
        decoded.map_err(|failure| match failure {
            Failure::Damaged(reason) => self.failed(sample, reason),
            Failure::Format(found) => Error::Unsupported {
                path: self.movie.path.clone(),
                what: format!("{} format", self.movie.codec.name()),
                found,
                supported: "4:2:0 8-bit, not cropped at the left or top, without these tools".into(),
            },
        })
    }

    /// The nearest sample up to `sample` at which decoding can start; the first sample where none is marked.
    fn start_before(&mut self, sample: usize) -> Result<usize> {
        let count = self.syncs.partition_point(|sync| *sync <= sample);
        for index in (0..count).rev() {
            let at = self.syncs[index];
            let Some(place) = self.movie.samples.get(at).copied() else { continue };
            let Decoder::H264(_, config) = &self.decoder else { return Ok(at) };
            let is_start = match self.starts.get(&at) {
                Some(known) => *known,
                None => {
                    let is_start = config.is_start(&self.movie.read_sample(place)?);
                    self.starts.insert(at, is_start);
                    is_start
                }
            };
            if is_start {
                return Ok(at);
            }
        }
        Ok(0)
    }

    /// A sample that gave no picture.
    fn failed(&self, sample: usize, reason: String) -> Error {
        let shown = self.frame_of.get(sample).copied().filter(|frame| *frame != usize::MAX);
        decode_error(&self.movie.path, shown.unwrap_or(sample), self.movie.codec, reason)
    }
}

impl std::fmt::Debug for Video {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Video")
            .field("path", &self.movie.path)
            .field("codec", &self.movie.codec)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Why a sample gave no picture.
#[derive(Debug)]
enum Failure {
    /// The bitstream is damaged, or uses a tool that the decoder lacks.
    Damaged(String),
    /// The pictures have a format that is not converted.
    Format(String),
}

/// A picture that cannot be decoded.
fn decode_error(path: &Path, frame: usize, codec: Codec, reason: String) -> Error {
    Error::Decode { path: path.into(), frame, codec: codec.name(), reason }
}
