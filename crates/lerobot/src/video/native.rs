//! Frames of an mp4 file by the decoders built in: H.264 and AV1, 8-bit 4:2:0.

use std::collections::BTreeMap;

use super::{
    Codec, Failure, Frame, av1,
    color::{self, Matrix, Picture},
    decode_error, h264,
    mp4::Movie,
};
use crate::{Error, Result};
use steadyhand_files::guarded;

/// Pictures kept that were decoded ahead of their turn: H.264 reorders over at most 16.
const KEPT_PICTURES: usize = 17;

/// An open mp4 file with its decoder.
///
/// [`Native::frame`] at the next index decodes on; anywhere else it decodes from the nearest keyframe before.
pub(super) struct Native {
    movie: Movie,
    decoder: Decoder,
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

impl Decoder {
    /// One that has decoded nothing yet.
    fn new(movie: &Movie) -> Result<Decoder> {
        let failed = |reason| decode_error(&movie.path, 0, movie.codec, reason);
        match movie.codec {
            Codec::H264 => {
                let config = h264::Config::parse(&movie.config).map_err(failed)?;
                Ok(Decoder::H264(Box::new(h264::Decoder::new(config.clone())), config))
            }
            Codec::Av1 => Ok(Decoder::Av1(av1::Decoder::new().map_err(failed)?)),
            _ => Err(failed("no decoder is built in".into())),
        }
    }
}

/// What of a file the decoders built in cannot decode, as far as its index tells.
pub(super) fn refused(movie: &Movie) -> Option<String> {
    match movie.codec {
        Codec::H264 => h264::Config::parse(&movie.config).ok()?.refused(),
        Codec::Av1 => av1::refused(&movie.config),
        Codec::Other => Some(format!("codec `{}`", movie.fourcc)),
        codec => Some(codec.name().to_owned()),
    }
}

impl Native {
    /// Makes the decoder for a file; decodes nothing yet.
    pub(super) fn new(movie: Movie) -> Result<Native> {
        let decoder = Decoder::new(&movie)?;
        let mut frame_of = vec![usize::MAX; movie.samples.len()];
        for (frame, sample) in movie.shown.iter().enumerate() {
            frame_of[*sample] = frame_of[*sample].min(frame);
        }
        let syncs = (0..movie.samples.len()).filter(|i| movie.samples[*i].sync).collect();
        let (starts, kept) = (BTreeMap::new(), BTreeMap::new());
        Ok(Native { movie, decoder, frame_of, syncs, starts, next: None, kept })
    }

    /// Decodes the frame at `frame`, counted from 0 in presentation order.
    pub(super) fn frame(&mut self, frame: usize) -> Result<Frame> {
        let Some(sample) = self.movie.shown.get(frame).copied() else {
            let count = self.movie.shown.len();
            return Err(Error::FrameRange { path: self.movie.path.clone(), index: frame, count });
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
            _ => picture.tags,
        };
        let matrix = Matrix::new(tags).ok_or_else(|| Error::Unsupported {
            path: self.movie.path.clone(),
            what: "colour matrix (ITU-T H.273)".into(),
            found: tags.matrix.map_or("none".into(), |m| m.to_string()),
            supported: "1, 2, 4, 5, 6, 7, 9, 10".into(),
        })?;
        Ok(color::to_rgb(picture, matrix))
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
        let decoder = &mut self.decoder;
        // H.264's may panic on what fuzzing has not found; a panic of AV1's ends the process, guard or not.
        let decoded = guarded(|| match decoder {
            Decoder::H264(decoder, _) => decoder.decode(&data),
            Decoder::Av1(decoder) => decoder.decode(data),
        });
        let Some(decoded) = decoded else {
            // What it holds may be half done.
            self.decoder = Decoder::new(&self.movie)?;
            return Err(self.failed(sample, "the decoder panicked".into()));
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
