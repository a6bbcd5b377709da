//! The sample table of an mp4 track: each picture's bytes, time and sync flag, and which are shown when.

use super::{bytes::Bytes, mp4::Damage};

/// The most pictures of one file: six days at 30 a second. Bounds what a damaged count can allocate.
pub(super) const MAX_SAMPLES: usize = 1 << 24;

/// One coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// First byte in the file.
    pub(super) offset: u64,
    /// Bytes; `offset + size` is within the file.
    pub(super) size: usize,
    /// When it is shown, in the track's time units, before the edit list.
    pub(super) time: i64,
    /// Whether the file says that decoding can start here.
    pub(super) sync: bool,
}

/// Reads all samples, in decoding order.
pub(super) fn read(table: Bytes, file_len: u64) -> Result<Vec<Sample>, Damage> {
    let sizes = sizes(table, file_len)?;
    let offsets = offsets(table, &sizes, file_len)?;
    let times = times(table, sizes.len())?;
    let mut samples: Vec<Sample> = sizes
        .into_iter()
        .zip(offsets)
        .zip(times)
        .map(|((size, offset), time)| Sample { offset, size, time, sync: false })
        .collect();
    let Some(mut stss) = table.find(b"stss") else {
        samples.iter_mut().for_each(|sample| sample.sync = true);
        return Ok(samples);
    };
    let (_, entries) = (stss.version(), stss.table(4).ok_or_else(|| Damage::short("stbl/stss"))?);
    for number in entries.filter_map(|mut entry| entry.count()) {
        // Samples are counted from 1; one beyond the end marks nothing.
        if let Some(sample) = number.checked_sub(1).and_then(|i| samples.get_mut(i)) {
            sample.sync = true;
        }
    }
    Ok(samples)
}

/// `stsz`: the samples' sizes.
fn sizes(table: Bytes, file_len: u64) -> Result<Vec<usize>, Damage> {
    let read = || {
        let mut stsz = table.find(b"stsz")?;
        stsz.version()?;
        match stsz.count()? {
            0 => stsz.table(4)?.map(|mut size| size.count()).collect::<Option<Vec<_>>>(),
            size => {
                let count = stsz.count()?;
                let total = u64::try_from(size.checked_mul(count)?).ok()?;
                (total <= file_len && count <= MAX_SAMPLES).then(|| vec![size; count])
            }
        }
    };
    let sizes = read().ok_or_else(|| Damage::short("stbl/stsz"))?;
    match sizes.len() {
        n if n > MAX_SAMPLES => {
            Err(Damage::new("stbl/stsz", format!("at most {MAX_SAMPLES} samples"), n.to_string()))
        }
        _ => Ok(sizes),
    }
}

/// `stsc` with `stco` or `co64`: the samples' places, checked against the file's length.
fn offsets(table: Bytes, sizes: &[usize], file_len: u64) -> Result<Vec<u64>, Damage> {
    let chunks: Vec<u64> = (|| match table.find(b"stco") {
        Some(mut stco) => {
            stco.version()?;
            stco.table(4)?.map(|mut entry| entry.u32().map(u64::from)).collect::<Option<_>>()
        }
        None => {
            let mut co64 = table.find(b"co64")?;
            co64.version()?;
            co64.table(8)?.map(|mut entry| entry.u64()).collect()
        }
    })()
    .ok_or_else(|| Damage::short("stbl/stco"))?;
    let runs = (|| {
        let mut stsc = table.find(b"stsc")?;
        stsc.version()?;
        stsc.table(12)?.map(|mut entry| Some((entry.count()?, entry.count()?))).collect::<Option<Vec<_>>>()
    })()
    .ok_or_else(|| Damage::short("stbl/stsc"))?;
    let mut sizes = sizes.iter().enumerate();
    let mut offsets = Vec::with_capacity(sizes.len());
    let mut runs = runs.into_iter().peekable();
    let mut per_chunk = 0;
    for (chunk, start) in (1usize..).zip(chunks) {
        while let Some((_, samples)) = runs.next_if(|(first, _)| *first <= chunk) {
            per_chunk = samples;
        }
        let mut at = start;
        for (index, size) in sizes.by_ref().take(per_chunk) {
            let end = u64::try_from(*size).ok().and_then(|size| at.checked_add(size));
            let end = end.filter(|end| *end <= file_len).ok_or_else(|| {
                let expected = format!("bytes within the file's {file_len}");
                Damage::new(
                    format!("place of sample {index}"),
                    expected,
                    format!("{size} bytes at {at} (truncated?)"),
                )
            })?;
            offsets.push(at);
            at = end;
        }
    }
    match sizes.next() {
        None => Ok(offsets),
        Some((index, _)) => {
            let expected = "a place for every sample";
            Err(Damage::new("stbl/stsc", expected, format!("places for {index} samples only")))
        }
    }
}

/// `stts` and `ctts`: when each sample is shown.
fn times(table: Bytes, count: usize) -> Result<Vec<i64>, Damage> {
    let mut stts = table.find(b"stts").ok_or_else(|| Damage::short("stbl/stts"))?;
    let durations = runs(&mut stts, count).ok_or_else(|| Damage::short("stbl/stts"))?;
    let offsets = match table.find(b"ctts") {
        Some(mut ctts) => runs(&mut ctts, count).ok_or_else(|| Damage::short("stbl/ctts"))?,
        None => vec![0; count],
    };
    let mut decode = 0i64;
    let times: Vec<i64> = durations
        .iter()
        .zip(&offsets)
        .map(|(duration, offset)| {
            // Offsets are signed whatever the box's version says, as FFmpeg reads them.
            let time = decode.saturating_add(i64::from(offset.cast_signed()));
            decode = decode.saturating_add(i64::from(*duration));
            time
        })
        .collect();
    match times.len() {
        n if n == count => Ok(times),
        n => Err(Damage::new("stbl/stts", format!("times for {count} samples"), n.to_string())),
    }
}

/// The time units that all samples of `stts` take together.
pub(super) fn duration(table: Bytes) -> Result<i64, Damage> {
    let read = || {
        let mut stts = table.find(b"stts")?;
        stts.version()?;
        let mut runs = stts.table(8)?;
        runs.try_fold(0i64, |sum, mut run| {
            Some(sum.saturating_add(i64::from(run.u32()?).saturating_mul(run.u32()?.into())))
        })
    };
    read().ok_or_else(|| Damage::short("stbl/stts"))
}

/// A table of (count, value) runs, expanded to at most `limit` values.
fn runs(table: &mut Bytes, limit: usize) -> Option<Vec<u32>> {
    table.version()?;
    let mut values = Vec::new();
    for mut run in table.table(8)? {
        let (count, value) = (run.count()?, run.u32()?);
        values.resize(values.len() + count.min(limit - values.len()), value);
    }
    Some(values)
}

/// The samples that are shown, in presentation order: indices into `samples`, each with its time in seconds.
///
/// Decoders give pictures in decoding order; sorting by time gives the order of presentation. The edit list
/// then cuts: a picture is shown where its time lies in an edit, as FFmpeg does it.
pub(super) fn shown(moov: Bytes, track: Bytes, samples: &[Sample]) -> Result<Vec<(usize, f64)>, Damage> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|i| samples[*i].time);
    let media = timescale(track.find(b"mdia").and_then(|m| m.find(b"mdhd")));
    let no_scale = || Damage::new("mvhd/mdhd", "time scales above 0", "none");
    let seconds = |time: i128, scale: u32| time as f64 / f64::from(scale);
    let Some(mut elst) = track.find(b"edts").and_then(|edts| edts.find(b"elst")) else {
        let media = media.ok_or_else(no_scale)?;
        return Ok(order.into_iter().map(|i| (i, seconds(samples[i].time.into(), media))).collect());
    };
    let edits = edits(&mut elst).ok_or_else(|| Damage::short("edts/elst"))?;
    let (Some(movie), Some(media)) = (timescale(moov.find(b"mvhd")), media) else { return Err(no_scale()) };
    let mut shown = Vec::new();
    // Where the edit at hand starts, in the media's time units.
    let mut start = 0i128;
    for (duration, first) in edits {
        let in_media = u128::from(duration) * u128::from(media);
        let length = ((in_media + u128::from(movie) / 2) / u128::from(movie)).cast_signed();
        // A negative start is an empty edit: it delays the picture and shows none.
        if let Ok(first) = u64::try_from(first).map(i128::from) {
            // Duration 0 means "to the end", as streaming writers leave it.
            let end = if duration == 0 { i128::MAX } else { first + length };
            let before = |limit: i128| order.partition_point(|i| i128::from(samples[*i].time) < limit);
            let here = order.get(before(first)..before(end)).unwrap_or_default();
            shown.extend(
                here.iter().map(|i| (*i, seconds(i128::from(samples[*i].time) - first + start, media))),
            );
        }
        start += length;
        if shown.len() > MAX_SAMPLES {
            let expected = format!("at most {MAX_SAMPLES} pictures");
            return Err(Damage::new("edts/elst", expected, "edits that repeat more"));
        }
    }
    Ok(shown)
}

/// The edits: (duration in the movie's time units, first media time).
fn edits(elst: &mut Bytes) -> Option<Vec<(u64, i64)>> {
    let long = elst.version()? == 1;
    let entries = elst.table(if long { 20 } else { 12 })?;
    entries
        .map(|mut entry| match long {
            true => Some((entry.u64()?, entry.u64()?.cast_signed())),
            false => Some((u64::from(entry.u32()?), i64::from(entry.u32()?.cast_signed()))),
        })
        .collect()
}

/// The time scale of an `mvhd` or `mdhd` box.
fn timescale(header: Option<Bytes>) -> Option<u32> {
    let mut header = header?;
    let long = header.version()? == 1;
    header.skip(if long { 16 } else { 8 })?;
    header.u32().filter(|scale| *scale > 0)
}
