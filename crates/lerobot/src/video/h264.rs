//! H.264 samples of an mp4 file to pictures: length-prefixed NAL units become Annex B for the decoder.

use super::{
    Failure,
    bytes::Bytes,
    color::{Picture, Tags},
    sps::{self, Sps, Tools},
};

/// NAL unit type of a slice of an IDR picture: decoding can start there, and nothing later looks back.
pub(super) const IDR: u8 = 5;
/// NAL unit types of slices.
pub(super) const SLICES: [u8; 2] = [1, IDR];
/// NAL unit type of a sequence parameter set.
const SEQUENCE: u8 = 7;
/// NAL unit type of a picture parameter set.
const PICTURE: u8 = 8;

/// What `avcC` says.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Bytes of a NAL unit's length: 1, 2 or 4.
    length_size: usize,
    /// The parameter sets, as Annex B.
    headers: Vec<u8>,
    sps: Option<Sps>,
    tools: Vec<Tools>,
}

impl Config {
    /// Parses `avcC`. The error says what does not fit.
    pub(super) fn parse(avcc: &[u8]) -> Result<Config, String> {
        let mut config = Config { length_size: 0, headers: Vec::new(), sps: None, tools: Vec::new() };
        config.read(Bytes(avcc)).ok_or("avcC ends too early")?;
        match config.length_size {
            3 => Err("avcC has NAL lengths of 3 bytes".into()),
            _ => Ok(config),
        }
    }

    fn read(&mut self, mut avcc: Bytes) -> Option<()> {
        avcc.skip(4)?;
        self.length_size = usize::from(avcc.u8()? & 3) + 1;
        let sequences = avcc.u8()? & 31;
        for _ in 0..sequences {
            let size = usize::from(avcc.u16()?);
            let nal = avcc.take(size)?;
            self.sps = self.sps.or(Sps::parse(nal));
            push_nal(&mut self.headers, nal);
        }
        let pictures = avcc.u8()?;
        for _ in 0..pictures {
            let size = usize::from(avcc.u16()?);
            let nal = avcc.take(size)?;
            self.tools.extend(Tools::parse(nal));
            push_nal(&mut self.headers, nal);
        }
        Some(())
    }

    /// The NAL units of a sample.
    pub(super) fn nals<'a>(&self, sample: &'a [u8]) -> Result<Vec<&'a [u8]>, String> {
        let mut bytes = Bytes(sample);
        let mut nals = Vec::new();
        while !bytes.0.is_empty() {
            let nal = self.length(&mut bytes).and_then(|n| bytes.take(n));
            nals.push(nal.ok_or("a NAL unit is longer than its sample")?);
        }
        Ok(nals)
    }

    /// The first bytes of the NAL units of a sample, as far as `sample`, which may be cut, has them.
    pub(super) fn starts<'a>(&self, sample: &'a [u8]) -> Vec<&'a [u8]> {
        let mut bytes = Bytes(sample);
        let mut nals = Vec::new();
        while let Some(length) = self.length(&mut bytes) {
            let cut = bytes.take(length.min(bytes.0.len())).unwrap_or_default();
            nals.push(cut);
        }
        nals
    }

    /// The length that stands before a NAL unit.
    fn length(&self, bytes: &mut Bytes) -> Option<usize> {
        let length = match self.length_size {
            1 => bytes.u8().map(u32::from),
            2 => bytes.u16().map(u32::from),
            _ => bytes.u32(),
        };
        length.and_then(|n| usize::try_from(n).ok())
    }

    /// The sequence parameter set, where the file's header has one.
    pub(super) fn sps(&self) -> Option<Sps> {
        self.sps
    }

    /// What of the file's header rules out exact decoding.
    pub(super) fn refused(&self) -> Option<String> {
        let inexact = |tools: &Tools| tools.transform_8x8 && tools.constrained_intra;
        match self.sps {
            Some(sps) if (sps.chroma_format, sps.bit_depth) != (1, 8) => {
                Some(format!("H.264 {}", sps.format()))
            }
            Some(sps) if sps.cropped_at_origin => Some("H.264 pictures cropped at the left or top".into()),
            _ if self.tools.iter().any(inexact) => {
                Some("H.264 with the 8x8 transform and constrained intra prediction".into())
            }
            _ => None,
        }
    }

    /// Whether decoding can start at this sample: only an IDR picture cuts all references to earlier ones.
    /// (An open group's I picture is marked as a sync sample, too, but pictures around it look back.)
    pub(super) fn is_start(&self, sample: &[u8]) -> bool {
        self.nals(sample).is_ok_and(|nals| nals.iter().any(|nal| nal.first().is_some_and(|b| b & 31 == IDR)))
    }
}

/// Appends a NAL unit with its start code.
fn push_nal(out: &mut Vec<u8>, nal: &[u8]) {
    out.extend([0, 0, 0, 1]);
    out.extend(nal);
}

/// An H.264 decoder that is fed whole samples in decoding order.
pub(super) struct Decoder {
    config: Config,
    /// The parameter set in force.
    sps: Option<Sps>,
    /// The tools of all picture parameter sets so far; a slice may use any of them.
    tools: Vec<Tools>,
    decoder: rusty_h264_decoder::Decoder,
    started: bool,
}

impl Decoder {
    pub(super) fn new(config: Config) -> Decoder {
        let (sps, tools) = (config.sps, config.tools.clone());
        Decoder { config, sps, tools, decoder: rusty_h264_decoder::Decoder::new(), started: false }
    }

    /// Forgets all pictures; the next sample must be one that decoding can start at.
    pub(super) fn reset(&mut self) {
        *self = Decoder::new(self.config.clone());
    }

    /// Refuses slices that the decoder or the conversion would not give exactly.
    fn check(&self, slice: &[u8]) -> Result<(), Failure> {
        let Some(sps) = self.sps else { return Ok(()) };
        if (sps.chroma_format, sps.bit_depth) != (1, 8) {
            return Err(Failure::Format(format!("H.264 {}", sps.format())));
        }
        if sps.cropped_at_origin {
            return Err(Failure::Format("H.264 pictures cropped at the left or top".into()));
        }
        // With the 8x8 transform the decoder takes the pixel above and left of a block for usable where it is
        // not, or the other way round, if a slice starts inside a row or intra prediction is constrained. Some
        // pixels are then a little off, silently; without the 8x8 transform all is exact (measured).
        let inside_a_row = sps::first_macroblock(slice).is_none_or(|first| first % sps.row != 0);
        let inexact = |tools: &Tools| tools.transform_8x8 && (tools.constrained_intra || inside_a_row);
        if self.tools.iter().any(inexact) {
            let found =
                if inside_a_row { "slices that start inside a row" } else { "constrained intra prediction" };
            return Err(Failure::Format(format!("H.264 with the 8x8 transform and {found}")));
        }
        Ok(())
    }

    /// Decodes one sample to its picture.
    pub(super) fn decode(&mut self, sample: &[u8]) -> Result<Picture, Failure> {
        let mut annex_b = Vec::with_capacity(sample.len() + self.config.headers.len() + 64);
        if !self.started {
            annex_b.extend(&self.config.headers);
            self.started = true;
        }
        for nal in self.config.nals(sample).map_err(Failure::Damaged)? {
            let kind = nal.first().map(|b| b & 31);
            if kind == Some(SEQUENCE) {
                self.sps = Sps::parse(nal).or(self.sps);
            }
            if kind == Some(PICTURE) {
                let tools = Tools::parse(nal).filter(|tools| !self.tools.contains(tools));
                self.tools.extend(tools);
            }
            if kind.is_some_and(|kind| SLICES.contains(&kind)) {
                self.check(nal)?;
            }
            push_nal(&mut annex_b, nal);
        }
        let frame = self.decoder.decode(&annex_b).map_err(|e| Failure::Damaged(e.to_string()))?;
        let frame = frame.ok_or_else(|| Failure::Damaged("the sample holds no whole picture".into()))?;
        Ok(Picture {
            width: frame.width,
            height: frame.height,
            y: frame.y,
            u: frame.u,
            v: frame.v,
            tags: self.sps.map_or(Tags::default(), |sps| sps.tags),
        })
    }
}
