//! H.264 streams whose container gives times in decoding order: the picture order count in the slices says
//! when a picture is shown, and FFmpeg follows it.

use super::{
    Codec,
    h264::{Config, IDR, SLICES},
    mp4::Movie,
    sps::{self, Sps},
};
use crate::Result;

/// Bytes of a sample in which its first slice is looked for, before all of it is read.
const START: usize = 256;

/// Puts the pictures shown into the order of their picture order count, where that is another than by time. The
/// times stay, in ascending order.
///
/// Streams without B pictures do not send the count; where it cannot be read the container's times stand.
pub(super) fn by_picture_count(movie: &mut Movie) -> Result<()> {
    if movie.codec != Codec::H264 {
        return Ok(());
    }
    let Ok(config) = Config::parse(&movie.config) else { return Ok(()) };
    let Some(sps) = config.sps().filter(|sps| sps.frames_only && sps.order_bits.is_some()) else {
        return Ok(());
    };
    let mut times: Vec<usize> = movie.shown.clone();
    times.sort_unstable();
    times.dedup();
    // Edits that repeat or reorder pictures know what they do.
    if times.len() != movie.shown.len() || !movie.times.is_sorted() {
        return Ok(());
    }
    let Some(counts) = counts(movie, &config, &sps)? else { return Ok(()) };
    movie.shown.sort_by_key(|sample| counts[*sample]);
    Ok(())
}

/// By sample: how often decoding started anew, and the picture order count since. None where a sample does not
/// say it, or two say the same.
fn counts(movie: &mut Movie, config: &Config, sps: &Sps) -> Result<Option<Vec<(usize, i64)>>> {
    let Some(range) = sps.order_bits.map(|bits| 1i64 << bits) else { return Ok(None) };
    let mut counts = Vec::with_capacity(movie.samples.len());
    let (mut started, mut high, mut low) = (0usize, 0i64, 0i64);
    for index in 0..movie.samples.len() {
        let Some(slice) = first_slice(movie, config, sps, index)? else { return Ok(None) };
        if slice.is_idr {
            (started, high, low) = (started + 1, 0, 0);
        }
        // The high part follows from which way round the low part is nearer to the last reference's.
        let step = slice.order - low;
        let picture_high = match () {
            () if step <= -range / 2 => high + range,
            () if step > range / 2 => high - range,
            () => high,
        };
        counts.push((started, picture_high + slice.order));
        if slice.is_reference {
            (high, low) = (picture_high, slice.order);
        }
    }
    let mut sorted = counts.clone();
    sorted.sort_unstable();
    sorted.dedup();
    Ok((sorted.len() == counts.len()).then_some(counts))
}

/// What a sample's first slice says.
struct Slice {
    is_idr: bool,
    /// Whether later pictures may refer to this one.
    is_reference: bool,
    /// The low part of the picture order count.
    order: i64,
}

fn first_slice(movie: &mut Movie, config: &Config, sps: &Sps, index: usize) -> Result<Option<Slice>> {
    let sample = movie.samples[index];
    for limit in [START, usize::MAX] {
        let bytes = movie.read_start(sample, limit)?;
        if let Some(slice) = config.starts(&bytes).into_iter().find_map(|nal| read(nal, sps)) {
            return Ok(Some(slice));
        }
        if bytes.len() == sample.size {
            break;
        }
    }
    Ok(None)
}

/// The slice that a NAL unit's first bytes are.
fn read(nal: &[u8], sps: &Sps) -> Option<Slice> {
    let header = *nal.first()?;
    let kind = header & 31;
    let is_idr = kind == IDR;
    SLICES.contains(&kind).then_some(())?;
    let order = i64::from(sps::picture_order(nal, sps, is_idr)?);
    Some(Slice { is_idr, is_reference: header >> 5 & 3 != 0, order })
}
