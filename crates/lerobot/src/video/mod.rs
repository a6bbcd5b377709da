//! Video frames by index, as the RGB bytes that FFmpeg gives.
//!
//! Frames are counted in presentation order after the edit list, as FFmpeg and PyAV count them.
//!
//! mp4 files, fragmented ones too, with H.264 or AV1 of 8-bit 4:2:0 are decoded by decoders built in
//! ([`VideoDecoder::Native`]). What was compared with FFmpeg 5.1 and PyAV 18.1 (FFmpeg 8.1), every frame, with no
//! byte different:
//! - AV1 and H.264 (baseline, main, high; B-frames, open groups, several slices, lossless cuts by edit list);
//! - BT.601, BT.709, BT.2020, FCC and SMPTE 240M, limited and full range, tagged in the bitstream or in the
//!   mp4's `colr` box. Unspecified tags mean BT.601 and limited range whatever the size: FFmpeg's default;
//! - even heights, any width.
//!
//! So were 126 more clips of random x264, SVT-AV1 and libaom settings, with FFmpeg 5.1 alone, and AV1 pictures of
//! odd height, which FFmpeg converts by another way (`scaled.rs`).
//!
//! Everything else goes through FFmpeg's own program where it is on `PATH` ([`VideoDecoder::Auto`]): other codecs,
//! 10 bits and more, 4:0:0, 4:2:2, 4:4:4, WebM, Matroska and AVI files, and H.264 with interlacing, lossless
//! blocks, explicit weights in B pictures, cropping at the left or top, or the 8x8 transform together with
//! constrained intra prediction or slices that start inside a row of macroblocks.
//!
//! The display rotation of a file is not applied, nor does PyAV apply it.

mod av1;
mod bytes;
mod color;
mod ffmpeg;
mod fragments;
mod h264;
mod images;
mod jpeg;
mod mp4;
mod native;
mod order;
mod samples;
mod scaled;
mod sps;
mod stream;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ffmpeg::{Ffmpeg, Program};
use images::Images;
use mp4::Movie;
use native::Native;
use steadyhand_files::Disguise;
pub use stream::FrameStream;

use crate::{Error, Result, parquet::Table};

/// The most pixels of a picture that are decoded: 8192 x 8192.
const MAX_PIXELS: u32 = 1 << 26;

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// H.264 / AVC.
    H264,
    /// AV1.
    Av1,
    /// H.265 / HEVC.
    Hevc,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
    /// MPEG-4 part 2, as `cv2.VideoWriter` writes `mp4v`.
    Mpeg4,
    /// JPEG pictures in a video file.
    MotionJpeg,
    /// Image files (PNG, JPEG) instead of a video.
    Images,
    /// Any other, or not known before it is decoded.
    Other,
}

impl Codec {
    /// `H.264`, `AV1`, ….
    pub fn name(self) -> &'static str {
        match self {
            Codec::H264 => "H.264",
            Codec::Av1 => "AV1",
            Codec::Hevc => "HEVC",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
            Codec::Mpeg4 => "MPEG-4 part 2",
            Codec::MotionJpeg => "Motion JPEG",
            Codec::Images => "images",
            Codec::Other => "another codec",
        }
    }
}

/// Which decoder to take for videos. `FromStr` reads the names that [`VideoDecoder::name`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VideoDecoder {
    /// The decoders built in where they are exact, otherwise FFmpeg's program where it is on `PATH`.
    #[default]
    Auto,
    /// The decoders built in; what they do not decode exactly is an error.
    Native,
    /// FFmpeg's program, whatever the file.
    Ffmpeg,
}

impl VideoDecoder {
    /// Every choice, in the order of the documentation.
    pub const ALL: [VideoDecoder; 3] = [VideoDecoder::Auto, VideoDecoder::Native, VideoDecoder::Ffmpeg];

    /// `auto`, `native` or `ffmpeg`.
    pub fn name(self) -> &'static str {
        match self {
            VideoDecoder::Auto => "auto",
            VideoDecoder::Native => "native",
            VideoDecoder::Ffmpeg => "ffmpeg",
        }
    }
}

impl FromStr for VideoDecoder {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = VideoDecoder::ALL.into_iter().find(|decoder| decoder.name() == name);
        found.ok_or_else(|| format!("expected auto, native or ffmpeg, found {name}"))
    }
}

/// What decoded a video's frames so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecodedBy {
    /// A decoder built in.
    Native,
    /// FFmpeg's program, at least in part.
    Ffmpeg,
}

impl DecodedBy {
    /// `native` or `ffmpeg`.
    pub fn name(self) -> &'static str {
        match self {
            DecodedBy::Native => "native",
            DecodedBy::Ffmpeg => "ffmpeg",
        }
    }
}

/// One video frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pixels a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]` bytes: red, green, blue.
    pub rgb: Vec<u8>,
}

impl Frame {
    /// The pixels of a PNG or JPEG file, as those of a column of images: what Pillow's `convert("RGB")` gives.
    ///
    /// # Errors
    /// What was expected, and what was found in its place.
    pub fn from_image(file: &[u8]) -> Result<Frame, String> {
        images::decode(file).map_err(|(expected, found)| format!("expected {expected}, found {found}"))
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("width", &self.width)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

/// An open video, or the part of one that belongs to an episode.
///
/// [`Video::frame`] at the next index decodes on; elsewhere decoding starts again at an earlier place.
pub struct Video {
    path: PathBuf,
    codec: Codec,
    width: usize,
    height: usize,
    source: Source,
    frames: Frames,
    /// The file's presentation times in seconds, ascending; by frame of the file.
    times: Arc<[f64]>,
    /// Whether FFmpeg's program may take over where the decoders built in give up.
    may_switch: bool,
    decoders: Decoders,
}

/// What decodes a video, known also to those who only hold its frames' stream or its episode.
#[derive(Debug, Clone)]
pub(crate) struct Decoders {
    by_ffmpeg: Arc<AtomicBool>,
}

impl Decoders {
    fn new(by_ffmpeg: bool) -> Decoders {
        Decoders { by_ffmpeg: Arc::new(AtomicBool::new(by_ffmpeg)) }
    }

    /// The last one used; before the first frame, the one that will be tried.
    pub(crate) fn last(&self) -> DecodedBy {
        match self.by_ffmpeg.load(Ordering::Relaxed) {
            true => DecodedBy::Ffmpeg,
            false => DecodedBy::Native,
        }
    }
}

/// What gives the frames of a file.
enum Source {
    Native(Box<Native>),
    Ffmpeg(Ffmpeg),
    Images(Images),
}

/// Which frames of the file a video shows.
enum Frames {
    /// All of so many.
    All(usize),
    /// These, in this order.
    Chosen(Vec<usize>),
}

impl Video {
    /// Opens a video file with [`VideoDecoder::Auto`]: reads its index, decodes nothing yet.
    pub fn open(path: impl AsRef<Path>) -> Result<Video> {
        Video::open_with(path, VideoDecoder::Auto)
    }

    /// Opens a video file: reads its index, decodes nothing yet.
    ///
    /// # Errors
    /// The file is missing or damaged, or `decoder` does not decode it (with the command that converts it).
    pub fn open_with(path: impl AsRef<Path>, decoder: VideoDecoder) -> Result<Video> {
        Video::open_as(path.as_ref(), "the video", decoder)
    }

    /// Opens a file that errors call `what`.
    pub(crate) fn open_as(path: &Path, what: &str, decoder: VideoDecoder) -> Result<Video> {
        match Disguise::of_binary_file(path) {
            Some(Disguise::Other(kind)) if ffmpeg::demuxer(kind).is_some() => {
                return Video::open_listed(path, what, kind, decoder);
            }
            None => {}
            Some(found) => return Err(Error::Disguised { path: path.into(), expected: what.into(), found }),
        }
        let movie = Movie::open(path, what)?;
        let (codec, width, height) = (movie.codec, movie.width, movie.height);
        let (times, frames): (Arc<[f64]>, _) =
            (movie.times.as_slice().into(), Frames::All(movie.shown.len()));
        let refused = native::refused(&movie);
        let source = match (decoder, refused) {
            (VideoDecoder::Auto | VideoDecoder::Native, None) => {
                Source::Native(Box::new(Native::new(movie)?))
            }
            (VideoDecoder::Native, Some(found)) => return Err(undecodable(path, found, decoder)),
            (VideoDecoder::Auto, Some(found)) => match Program::find() {
                Some(program) => Source::Ffmpeg(Ffmpeg::new(program, path, "mov", Arc::clone(&times))),
                None => return Err(undecodable(path, found, decoder)),
            },
            (VideoDecoder::Ffmpeg, _) => match Program::find() {
                Some(program) => Source::Ffmpeg(Ffmpeg::new(program, path, "mov", Arc::clone(&times))),
                None => return Err(undecodable(path, codec.name().to_owned(), decoder)),
            },
        };
        let decoders = Decoders::new(matches!(source, Source::Ffmpeg(_)));
        let may_switch = decoder == VideoDecoder::Auto;
        Ok(Video { path: path.into(), codec, width, height, source, frames, times, may_switch, decoders })
    }

    /// Opens a file of another container, which FFmpeg's program lists and decodes. One whose name claims
    /// something else is taken for a mistake, unless FFmpeg was asked for.
    fn open_listed(
        path: &Path,
        what: &str,
        kind: steadyhand_files::Kind,
        decoder: VideoDecoder,
    ) -> Result<Video> {
        let demuxer = ffmpeg::demuxer(kind).unwrap_or_default();
        let program = match decoder {
            VideoDecoder::Auto if !ffmpeg::fits(kind, path) => {
                let command = ffmpeg::conversion(path);
                let expected = format!("an mp4 file as {what}, as its name says (to convert it: {command})");
                let found = Disguise::Other(kind);
                return Err(Error::Disguised { path: path.into(), expected, found });
            }
            VideoDecoder::Auto | VideoDecoder::Ffmpeg => Program::find(),
            VideoDecoder::Native => None,
        };
        let program = program.ok_or_else(|| undecodable(path, kind.to_string(), decoder))?;
        let listing = ffmpeg::list(program, path, demuxer)?;
        let times: Arc<[f64]> = listing.times.into();
        Ok(Video {
            path: path.into(),
            codec: Codec::Other,
            width: listing.width,
            height: listing.height,
            source: Source::Ffmpeg(Ffmpeg::new(program, path, demuxer, Arc::clone(&times))),
            frames: Frames::All(times.len()),
            times,
            may_switch: false,
            decoders: Decoders::new(true),
        })
    }

    /// The images of a column, one for each of the table's `rows`.
    pub(crate) fn of_images(table: Table, column: &str, rows: Range<usize>) -> Video {
        let path = table.path().to_owned();
        let frames = Frames::All(rows.len());
        let source = Source::Images(Images::new(table, column, rows));
        let decoders = Decoders::new(false);
        let (times, may_switch): (Arc<[f64]>, _) = (Arc::new([]), false);
        Video { path, codec: Codec::Images, width: 0, height: 0, source, frames, times, may_switch, decoders }
    }

    /// The frames nearest in presentation time to `times` (in seconds), the earlier of two equally near; frame 0 is
    /// then the first of them. The error is the number of leading times for which there are frames: a time that
    /// lies a whole `interval` (the seconds of a frame) before the first or behind the last frame has none.
    pub(crate) fn nearest(mut self, times: &[f64], interval: f64) -> Result<Video, usize> {
        // Times are multiples of an interval up to rounding.
        let reach = interval * 0.999;
        let mut chosen = Vec::with_capacity(times.len());
        for time in times {
            let after = self.times.partition_point(|shown| shown < time);
            let distance = |frame: &usize| (self.times[*frame] - time).abs();
            let near = [after.checked_sub(1), Some(after).filter(|frame| *frame < self.times.len())];
            let nearest = near.into_iter().flatten().min_by(|a, b| distance(a).total_cmp(&distance(b)));
            let at_an_end = after == 0 || after == self.times.len();
            match nearest.filter(|frame| !at_an_end || distance(frame) < reach) {
                Some(frame) => chosen.push(frame),
                None => return Err(chosen.len()),
            }
        }
        self.frames = Frames::Chosen(chosen);
        Ok(self)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// What decoded the frames so far; before the first one, what will be tried.
    pub fn decoded_by(&self) -> DecodedBy {
        self.decoders.last()
    }

    /// The same, to be asked later.
    pub(crate) fn decoders(&self) -> Decoders {
        self.decoders.clone()
    }

    /// Pixels a row, as the file's track says; a decoded [`Frame`] has its own. 0 where only the frames say it.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows, as the file's track says; a decoded [`Frame`] has its own. 0 where only the frames say it.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The number of frames.
    pub fn frame_count(&self) -> usize {
        match &self.frames {
            Frames::All(count) => *count,
            Frames::Chosen(frames) => frames.len(),
        }
    }

    /// Decodes the frame at `index`, counted from 0 in presentation order.
    pub fn frame(&mut self, index: usize) -> Result<Frame> {
        let frame = match &self.frames {
            Frames::All(count) => Some(index).filter(|index| index < count),
            Frames::Chosen(frames) => frames.get(index).copied(),
        };
        let Some(frame) = frame else {
            return Err(Error::FrameRange { path: self.path.clone(), index, count: self.frame_count() });
        };
        match &mut self.source {
            Source::Native(native) => match native.frame(frame) {
                Err(error @ (Error::Unsupported { .. } | Error::Decode { .. })) => self.switch(frame, error),
                result => result,
            },
            Source::Ffmpeg(ffmpeg) => ffmpeg.frame(frame),
            Source::Images(images) => images.frame(frame),
        }
    }

    /// The frame by FFmpeg's program, which then goes on: the decoder built in gave up with `error`. FFmpeg stops
    /// at damaged pictures, too, so that what it gives is right.
    fn switch(&mut self, frame: usize, error: Error) -> Result<Frame> {
        let give_up = |error, decoder| match error {
            Error::Unsupported { path, found, .. } => Err(undecodable(&path, found, decoder)),
            error => Err(error),
        };
        if !self.may_switch {
            return give_up(error, VideoDecoder::Native);
        }
        self.may_switch = false;
        let Some(program) = Program::find() else { return give_up(error, VideoDecoder::Auto) };
        let mut ffmpeg = Ffmpeg::new(program, &self.path, "mov", Arc::clone(&self.times));
        match ffmpeg.frame(frame) {
            Ok(decoded) => {
                self.source = Source::Ffmpeg(ffmpeg);
                self.decoders.by_ffmpeg.store(true, Ordering::Relaxed);
                Ok(decoded)
            }
            Err(_) => Err(error),
        }
    }

    /// Decodes the frames at `indices` in a thread of its own, at most `ahead` finished frames in advance.
    pub fn stream(self, indices: Vec<usize>, ahead: usize) -> FrameStream {
        FrameStream::new(self, indices, ahead)
    }
}

impl std::fmt::Debug for Video {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Video")
            .field("path", &self.path)
            .field("codec", &self.codec)
            .field("frames", &self.frame_count())
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

/// A file that the decoder chosen does not decode.
fn undecodable(path: &Path, found: String, decoder: VideoDecoder) -> Error {
    let why = match decoder {
        VideoDecoder::Native => "native decoding was asked for, which does not give it exactly",
        VideoDecoder::Auto => {
            "the decoders built in do not give it exactly, and FFmpeg's program is not on PATH"
        }
        VideoDecoder::Ffmpeg => "FFmpeg's program, which was asked for, is not on PATH",
    };
    Error::Undecodable { path: path.into(), found, why, command: ffmpeg::conversion(path) }
}
