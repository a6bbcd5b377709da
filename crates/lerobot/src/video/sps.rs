//! H.264 parameter sets, as far as the decoder does not say it: format, cropping, colour tags, coding tools.

use super::color::Tags;

/// What a sequence parameter set says of the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sps {
    /// 1 is 4:2:0.
    pub(super) chroma_format: u32,
    /// Bits of a luma sample.
    pub(super) bit_depth: u32,
    /// Bits of `frame_num` in slice headers.
    pub(super) frame_num_bits: u32,
    /// Bits of the low part of the picture order count in slice headers; None where the count is not sent.
    pub(super) order_bits: Option<u32>,
    /// Whether every picture is a whole frame.
    pub(super) frames_only: bool,
    /// Macroblocks a row.
    pub(super) row: u32,
    /// Whether pictures are cropped at the left or the top.
    pub(super) cropped_at_origin: bool,
    /// From the video usability information.
    pub(super) tags: Tags,
}

/// The profiles whose sequence parameter sets carry the chroma format.
const HIGH_PROFILES: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

impl Sps {
    /// Parses a NAL unit of type 7, header included. None where it ends too early or makes no sense.
    pub(super) fn parse(nal: &[u8]) -> Option<Sps> {
        let rbsp = unescape(nal.get(1..)?);
        let mut bits = Bits { bytes: &rbsp, at: 0 };
        let profile = bits.take(8)?;
        bits.take(16)?; // constraints, level
        bits.ue()?; // identifier
        let (mut chroma_format, mut bit_depth) = (1, 8);
        if HIGH_PROFILES.contains(&profile) {
            chroma_format = bits.ue()?;
            if chroma_format == 3 {
                bits.take(1)?;
            }
            bit_depth = bits.ue()?.checked_add(8)?;
            bits.ue()?;
            bits.take(1)?;
            if bits.take(1)? == 1 {
                scaling_lists(&mut bits, if chroma_format == 3 { 12 } else { 8 })?;
            }
        }
        let frame_num_bits = bits.ue().filter(|n| *n <= 12)? + 4;
        let mut order_bits = None;
        match bits.ue()? {
            0 => order_bits = Some(bits.ue().filter(|n| *n <= 12)? + 4),
            1 => {
                bits.take(1)?;
                bits.ue()?;
                bits.ue()?;
                for _ in 0..bits.ue().filter(|n| *n <= 255)? {
                    bits.ue()?;
                }
            }
            _ => {}
        }
        bits.ue()?; // reference frames
        bits.take(1)?;
        let row = bits.ue()?.checked_add(1)?;
        bits.ue()?; // height
        let frames_only = bits.take(1)? == 1;
        if !frames_only {
            bits.take(1)?;
        }
        bits.take(1)?;
        let mut cropped_at_origin = false;
        if bits.take(1)? == 1 {
            let (left, _right, top, _bottom) = (bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?);
            cropped_at_origin = left > 0 || top > 0;
        }
        let tags = if bits.take(1)? == 1 { vui_tags(&mut bits)? } else { Tags::default() };
        Some(Sps {
            chroma_format,
            bit_depth,
            frame_num_bits,
            order_bits,
            frames_only,
            row,
            cropped_at_origin,
            tags,
        })
    }

    /// The pixel format's name, such as `4:2:0 8-bit`.
    pub(super) fn format(&self) -> String {
        let chroma = ["4:0:0", "4:2:0", "4:2:2", "4:4:4"];
        let chroma = usize::try_from(self.chroma_format).ok().and_then(|i| chroma.get(i));
        format!("{} {}-bit", chroma.unwrap_or(&"unknown chroma"), self.bit_depth)
    }
}

/// The coding tools that a picture parameter set allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tools {
    /// Intra blocks are not predicted from inter blocks.
    pub(super) constrained_intra: bool,
    /// Macroblocks may have 8x8 transforms.
    pub(super) transform_8x8: bool,
}

impl Tools {
    /// Parses a NAL unit of type 8, header included. None where it ends too early or has slice groups (which
    /// the decoder refuses).
    pub(super) fn parse(nal: &[u8]) -> Option<Tools> {
        let rbsp = unescape(nal.get(1..)?);
        let mut bits = Bits { bytes: &rbsp, at: 0 };
        bits.ue()?; // identifier
        bits.ue()?; // sequence
        bits.take(2)?; // entropy coding, order of fields
        if bits.ue()? > 0 {
            return None;
        }
        bits.ue()?; // references, list 0
        bits.ue()?; // references, list 1
        bits.take(3)?; // weighted prediction
        for _ in 0..3 {
            bits.ue()?; // quantizers, chroma offset
        }
        bits.take(1)?; // deblocking control
        let constrained_intra = bits.take(1)? == 1;
        bits.take(1)?; // redundant pictures
        // What follows is optional: it is there unless only the stop bit and zeros are left.
        let last = rbsp.iter().rposition(|byte| *byte != 0)?;
        let stop = last * 8 + 7 - usize::try_from(rbsp[last].trailing_zeros()).ok()?;
        let transform_8x8 = bits.at < stop && bits.take(1)? == 1;
        Some(Tools { constrained_intra, transform_8x8 })
    }
}

/// The first macroblock of a slice, given as its NAL unit.
pub(super) fn first_macroblock(slice: &[u8]) -> Option<u32> {
    let start = unescape(slice.get(1..slice.len().min(16))?);
    Bits { bytes: &start, at: 0 }.ue()
}

/// The low part of the picture order count of a slice, given as its NAL unit's first bytes.
pub(super) fn picture_order(slice: &[u8], sps: &Sps, is_idr: bool) -> Option<u32> {
    let start = unescape(slice.get(1..slice.len().min(48))?);
    let mut bits = Bits { bytes: &start, at: 0 };
    bits.ue()?; // first macroblock
    bits.ue()?; // type
    bits.ue()?; // picture parameter set
    bits.take(sps.frame_num_bits as usize)?;
    if is_idr {
        bits.ue()?; // identifier
    }
    bits.take(sps.order_bits? as usize)
}

/// The colour tags of the video usability information.
fn vui_tags(bits: &mut Bits) -> Option<Tags> {
    const EXTENDED_ASPECT: u32 = 255;
    if bits.take(1)? == 1 && bits.take(8)? == EXTENDED_ASPECT {
        bits.take(32)?;
    }
    if bits.take(1)? == 1 {
        bits.take(1)?; // overscan
    }
    let mut tags = Tags::default();
    if bits.take(1)? == 1 {
        bits.take(3)?; // video_format
        tags.full_range = Some(bits.take(1)? == 1);
        if bits.take(1)? == 1 {
            bits.take(16)?; // primaries, transfer
            tags.matrix = u8::try_from(bits.take(8)?).ok();
        }
    }
    Some(tags)
}

/// Steps over the scaling lists.
fn scaling_lists(bits: &mut Bits, count: usize) -> Option<()> {
    for list in 0..count {
        if bits.take(1)? == 0 {
            continue;
        }
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + bits.se()?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

/// Removes the emulation prevention bytes (the 3 of 0, 0, 3).
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// A reader of bits, most significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `n` bits, at most 32.
    fn take(&mut self, n: usize) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..n {
            let byte = self.bytes.get(self.at / 8)?;
            value = (value << 1) | u32::from((byte >> (7 - self.at % 8)) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// An unsigned exponential Golomb code.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.take(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.take(zeros)?)
    }

    /// A signed exponential Golomb code.
    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }
}
