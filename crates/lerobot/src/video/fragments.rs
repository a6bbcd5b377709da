//! Fragmented mp4: each `moof` box lists the pictures of the `mdat` behind it.

use super::{
    bytes::Bytes,
    mp4::{Damage, Fragment},
    samples::{MAX_SAMPLES, Sample},
};

/// What `trex` and `tfhd` say where a run does not.
#[derive(Debug, Clone, Copy, Default)]
struct Defaults {
    duration: u32,
    size: u32,
    flags: u32,
}

/// The track's samples of all fragments, in decoding order; the first is decoded at `ends` where it does not say when.
pub(super) fn read(
    mvex: Bytes,
    track: Bytes,
    fragments: &[Fragment],
    file_len: u64,
    ends: i64,
) -> Result<Vec<Sample>, Damage> {
    let id = track_id(track).ok_or_else(|| Damage::short("trak/tkhd"))?;
    let defaults = defaults(mvex, id).ok_or_else(|| Damage::short("mvex/trex"))?;
    let mut reader = Reader { id, defaults, file_len, decode: ends, samples: Vec::new() };
    for fragment in fragments {
        reader.fragment(fragment)?;
    }
    Ok(reader.samples)
}

fn track_id(track: Bytes) -> Option<u32> {
    let mut tkhd = track.find(b"tkhd")?;
    let long = tkhd.version()? == 1;
    tkhd.skip(if long { 16 } else { 8 })?;
    tkhd.u32()
}

/// The `trex` box of a track.
fn defaults(mut mvex: Bytes, id: u32) -> Option<Defaults> {
    while let Some(Some((kind, mut trex))) = mvex.next_box() {
        if &kind == b"trex" {
            trex.skip(4)?;
            let track = trex.u32()?;
            trex.skip(4)?;
            if track == id {
                return Some(Defaults { duration: trex.u32()?, size: trex.u32()?, flags: trex.u32()? });
            }
        }
    }
    None
}

struct Reader {
    id: u32,
    defaults: Defaults,
    file_len: u64,
    /// The decoding time of the next sample.
    decode: i64,
    samples: Vec<Sample>,
}

/// A `traf` box's header.
struct Header {
    track: u32,
    /// Where its runs' data offsets count from.
    base: u64,
    defaults: Defaults,
}

impl Reader {
    fn fragment(&mut self, fragment: &Fragment) -> Result<(), Damage> {
        let mut moof = Bytes(&fragment.moof);
        // Without a base of its own a track goes on where the one before ended.
        let mut end = fragment.start;
        while let Some(child) = moof.next_box() {
            let (kind, traf) = child.ok_or_else(|| Damage::short("moof"))?;
            if &kind == b"traf" {
                end = self.track(traf, fragment.start, end)?;
            }
        }
        Ok(())
    }

    /// One track of a fragment; gives where its data ends.
    fn track(&mut self, traf: Bytes, start: u64, end: u64) -> Result<u64, Damage> {
        let header = self.header(traf, start, end).ok_or_else(|| Damage::short("traf/tfhd"))?;
        let is_ours = header.track == self.id;
        if let Some(mut tfdt) = traf.find(b"tfdt").filter(|_| is_ours) {
            let mut time = || match tfdt.version()? {
                1 => tfdt.u64(),
                _ => tfdt.u32().map(u64::from),
            };
            let time = time().ok_or_else(|| Damage::short("traf/tfdt"))?;
            self.decode = i64::try_from(time).unwrap_or(i64::MAX);
        }
        let mut at = header.base;
        let mut children = traf;
        while let Some(child) = children.next_box() {
            let (kind, trun) = child.ok_or_else(|| Damage::short("traf"))?;
            if &kind == b"trun" {
                at = self.run(trun, &header, at, is_ours)?;
            }
        }
        Ok(at)
    }

    fn header(&self, traf: Bytes, start: u64, end: u64) -> Option<Header> {
        let mut tfhd = traf.find(b"tfhd")?;
        let flags = tfhd.u32()?;
        let has = |flag: u32| flags & flag != 0;
        let track = tfhd.u32()?;
        let base = match has(0x1) {
            true => tfhd.u64()?,
            false if has(0x2_0000) => start,
            false => end,
        };
        if has(0x2) {
            tfhd.skip(4)?;
        }
        let mut value = |flag: u32, default: u32| if has(flag) { tfhd.u32() } else { Some(default) };
        let defaults = Defaults {
            duration: value(0x8, self.defaults.duration)?,
            size: value(0x10, self.defaults.size)?,
            flags: value(0x20, self.defaults.flags)?,
        };
        Some(Header { track, base, defaults })
    }

    /// One run of samples, whose data starts at `at` unless it says otherwise; gives where it ends.
    fn run(&mut self, mut trun: Bytes, header: &Header, mut at: u64, is_ours: bool) -> Result<u64, Damage> {
        let short = || Damage::short("traf/trun");
        let flags = trun.u32().ok_or_else(short)?;
        let has = |flag: u32| flags & flag != 0;
        let count = trun.count().ok_or_else(short)?;
        if has(0x1) {
            let offset = trun.u32().ok_or_else(short)?.cast_signed();
            at = header.base.checked_add_signed(offset.into()).ok_or_else(short)?;
        }
        let mut first_flags = if has(0x4) { Some(trun.u32().ok_or_else(short)?) } else { None };
        if count > MAX_SAMPLES.saturating_sub(self.samples.len()) {
            return Err(Damage::new("traf/trun", format!("at most {MAX_SAMPLES} samples"), "more"));
        }
        for _ in 0..count {
            let mut value =
                |flag: u32, default: u32| if has(flag) { trun.u32().ok_or_else(short) } else { Ok(default) };
            let duration = value(0x100, header.defaults.duration)?;
            let size = value(0x200, header.defaults.size)?;
            let own = value(0x400, header.defaults.flags)?;
            let offset = value(0x800, 0)?;
            let flags = first_flags.take().unwrap_or(own);
            let end = at.checked_add(u64::from(size)).filter(|end| *end <= self.file_len);
            let end = end.ok_or_else(|| {
                let expected = format!("bytes within the file's {}", self.file_len);
                Damage::new("place of a sample", expected, format!("{size} bytes at {at} (truncated?)"))
            })?;
            if is_ours {
                // Offsets are signed whatever the box's version says, as FFmpeg reads them.
                let time = self.decode.saturating_add(i64::from(offset.cast_signed()));
                self.decode = self.decode.saturating_add(i64::from(duration));
                let is_difference = flags & 0x1_0000 != 0;
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                self.samples.push(Sample { offset: at, size, time, sync: !is_difference });
            }
            at = end;
        }
        Ok(at)
    }
}
