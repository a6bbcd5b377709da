//! JPEG files to RGB exactly as libjpeg-turbo decodes them by default, and so Pillow, LeRobot and OpenCV: the exact
//! integer transform, chroma stretched by triangles, colours from tables. (The crates that decode JPEG are off by up
//! to 5 levels, mostly in chroma.) Baseline and progressive, 8 bits, grey, YCbCr or RGB.

mod entropy;
mod transform;

use entropy::{Huffman, Scan, Table};

/// The most pixels of an image.
const MAX_PIXELS: usize = 1 << 25;
/// Coefficients of a block, in rows.
type Block = [i16; 64];

/// The places of coefficients in the order of the file.
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// One colour component.
#[derive(Debug)]
struct Component {
    id: u8,
    /// Samples for each of the most finely sampled component's `max` ones.
    h: usize,
    v: usize,
    quantization: usize,
    /// Size in samples.
    width: usize,
    height: usize,
    /// Blocks a row and rows of blocks, whole interleaved units.
    columns: usize,
    rows: usize,
    blocks: Vec<Block>,
}

/// What the markers said so far.
#[derive(Debug, Default)]
struct Decoder {
    width: usize,
    height: usize,
    is_progressive: bool,
    components: Vec<Component>,
    quantizations: [Option<[u16; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart: usize,
    is_jfif: bool,
    /// Adobe's colour transform.
    adobe: Option<u8>,
    scans: usize,
}

/// Width, height and pixels of a file; or what is wrong with it.
pub(super) fn decode(file: &[u8]) -> Result<(usize, usize, Vec<u8>), String> {
    let mut decoder = Decoder::default();
    let mut rest = file.strip_prefix(b"\xff\xd8").ok_or("no start marker")?;
    loop {
        let (marker, after) = next_marker(rest).ok_or("it ends before its end marker (truncated?)")?;
        rest = after;
        if marker == 0xd9 {
            break;
        }
        let (length, after) = rest.split_first_chunk::<2>().ok_or("a marker without length")?;
        let length = usize::from(u16::from_be_bytes(*length));
        let content = length.checked_sub(2).and_then(|length| after.get(..length));
        let content = content.ok_or("a marker longer than the file (truncated?)")?;
        rest = &after[content.len()..];
        if let Some(used) = decoder.segment(marker, content, rest)? {
            rest = &rest[used..];
        }
    }
    decoder.finish()
}

/// The next marker and what follows it; fill bytes and anything before are skipped.
fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let at = bytes.iter().position(|byte| *byte == 0xff)?;
        bytes = bytes.get(at + 1..)?;
        match bytes.first()? {
            0 | 0xff | 0xd0..=0xd7 => {}
            marker => return Some((*marker, &bytes[1..])),
        }
    }
}

impl Decoder {
    /// Takes a segment; of a scan, the number of coded bytes behind it.
    fn segment(&mut self, marker: u8, content: &[u8], rest: &[u8]) -> Result<Option<usize>, String> {
        match marker {
            0xc0..=0xc2 => self.frame(content, marker == 0xc2)?,
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcf if marker != 0xcc => {
                return Err(format!("a coding that is not read (marker {marker:02x})"));
            }
            0xc4 => self.huffman(content)?,
            0xdb => self.quantization(content)?,
            0xdd => {
                let interval = content.first_chunk::<2>().ok_or("a restart interval without value")?;
                self.restart = usize::from(u16::from_be_bytes(*interval));
            }
            0xe0 => self.is_jfif |= content.starts_with(b"JFIF\0"),
            0xee if content.starts_with(b"Adobe") => self.adobe = content.get(11).copied(),
            0xda => return self.scan(content, rest).map(Some),
            _ => {}
        }
        Ok(None)
    }

    /// The frame header: size and components.
    fn frame(&mut self, content: &[u8], is_progressive: bool) -> Result<(), String> {
        let (head, list) = content.split_first_chunk::<6>().ok_or("a short frame header")?;
        if !self.components.is_empty() {
            return Err("two frame headers".into());
        }
        let [bits, h1, h0, w1, w0, count] = *head;
        if bits != 8 {
            return Err(format!("{bits} bits a sample"));
        }
        self.is_progressive = is_progressive;
        self.height = usize::from(u16::from_be_bytes([h1, h0]));
        self.width = usize::from(u16::from_be_bytes([w1, w0]));
        let pixels = self.width * self.height;
        if pixels == 0 || pixels > MAX_PIXELS {
            return Err(format!("{}x{} pixels", self.width, self.height));
        }
        let count = usize::from(count);
        if ![1, 3].contains(&count) || list.len() < 3 * count {
            return Err(format!("{count} colour components"));
        }
        let list: Vec<_> = list.chunks_exact(3).take(count).collect();
        let factor = |byte: u8| (usize::from(byte >> 4), usize::from(byte & 15));
        let fits = |n: usize| (1..=4).contains(&n);
        if list.iter().any(|entry| !fits(factor(entry[1]).0) || !fits(factor(entry[1]).1) || entry[2] > 3) {
            return Err("impossible sampling factors".into());
        }
        let max_h = list.iter().map(|entry| factor(entry[1]).0).max().unwrap_or(1);
        let max_v = list.iter().map(|entry| factor(entry[1]).1).max().unwrap_or(1);
        for entry in list {
            // A single component is not interleaved, whatever its factors.
            let (h, v) = if count == 1 { (1, 1) } else { factor(entry[1]) };
            let (max_h, max_v) = if count == 1 { (1, 1) } else { (max_h, max_v) };
            let columns = self.width.div_ceil(8 * max_h) * h;
            let rows = self.height.div_ceil(8 * max_v) * v;
            self.components.push(Component {
                id: entry[0],
                h,
                v,
                quantization: usize::from(entry[2]),
                width: (self.width * h).div_ceil(max_h),
                height: (self.height * v).div_ceil(max_v),
                columns,
                rows,
                blocks: vec![[0; 64]; columns * rows],
            });
        }
        Ok(())
    }

    fn quantization(&mut self, mut content: &[u8]) -> Result<(), String> {
        let short = || "a short quantization table".to_owned();
        while let Some((head, rest)) = content.split_first() {
            let (wide, index) = (head >> 4 != 0, usize::from(head & 15));
            let size = if wide { 128 } else { 64 };
            let (values, rest) = rest.split_at_checked(size).ok_or_else(short)?;
            let mut table = [0; 64];
            for (place, zigzag) in ZIGZAG.iter().enumerate() {
                table[*zigzag] = match wide {
                    true => u16::from_be_bytes([values[2 * place], values[2 * place + 1]]),
                    false => u16::from(values[place]),
                };
            }
            *self.quantizations.get_mut(index).ok_or_else(short)? = Some(table);
            content = rest;
        }
        Ok(())
    }

    fn huffman(&mut self, mut content: &[u8]) -> Result<(), String> {
        let odd = || "a damaged Huffman table".to_owned();
        while let Some((head, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(odd)?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or_else(odd)?;
            let tables = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let table = tables.get_mut(usize::from(head & 15)).ok_or_else(odd)?;
            *table = Some(Huffman::new(counts, symbols).ok_or_else(odd)?);
            content = rest;
        }
        Ok(())
    }

    /// Reads one scan; gives the number of coded bytes.
    fn scan(&mut self, content: &[u8], coded: &[u8]) -> Result<usize, String> {
        let odd = || "a damaged scan header".to_owned();
        let (count, rest) = content.split_first().ok_or_else(odd)?;
        let (list, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or_else(odd)?;
        let &[first, last, approximation, ..] = rest else { return Err(odd()) };
        self.scans += 1;
        if self.scans > 200 {
            return Err("more than 200 scans".into());
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let mut parts: Vec<(usize, usize, usize)> = Vec::new();
        for entry in list.chunks_exact(2) {
            let component = self.components.iter().position(|c| c.id == entry[0]).ok_or_else(odd)?;
            if parts.iter().any(|(known, ..)| *known == component) {
                return Err(odd());
            }
            parts.push((component, usize::from(entry[1] >> 4), usize::from(entry[1] & 15)));
        }
        let spectral = match self.is_progressive {
            false => 0..64,
            true if last < 64 && first <= last && (first == 0) == (last == 0) => first..last + 1,
            true => return Err(odd()),
        };
        if parts.is_empty() || (spectral.start > 0 && parts.len() != 1) {
            return Err(odd());
        }
        let scan = Scan {
            is_progressive: self.is_progressive,
            spectral,
            high: u32::from(approximation >> 4),
            low: u32::from(approximation & 15),
            restart: self.restart,
        };
        if self.is_progressive && (scan.low > 13 || (scan.high != 0 && scan.high != scan.low + 1)) {
            return Err(odd());
        }
        let tables: Vec<Table> = parts
            .iter()
            .map(|(component, dc, ac)| Table {
                component: *component,
                dc: self.dc.get(*dc).and_then(Option::as_ref),
                ac: self.ac.get(*ac).and_then(Option::as_ref),
            })
            .collect();
        entropy::read(coded, &scan, &tables, &mut self.components)
    }

    /// Transforms, stretches and converts what the scans left.
    fn finish(&self) -> Result<(usize, usize, Vec<u8>), String> {
        if self.scans == 0 {
            return Err("no picture".into());
        }
        let mut planes = Vec::new();
        let max = |factor: fn(&Component) -> usize| self.components.iter().map(factor).max().unwrap_or(1);
        let (max_h, max_v) = (max(|c| c.h), max(|c| c.v));
        for component in &self.components {
            let table = self.quantizations[component.quantization].as_ref();
            let table = table.ok_or("a quantization table that is not there")?;
            let plane = transform::plane(component, table);
            let (across, down) = (max_h / component.h, max_v / component.v);
            if max_h % component.h != 0 || max_v % component.v != 0 {
                return Err("sampling factors that do not divide each other".into());
            }
            planes.push(transform::stretch(plane, across, down, self.width, self.height));
        }
        let pixels = self.width * self.height;
        let rgb = match &planes[..] {
            [grey] => grey.iter().flat_map(|level| [*level; 3]).collect(),
            [r, g, b] if self.is_rgb() => (0..pixels).flat_map(|at| [r[at], g[at], b[at]]).collect(),
            [y, cb, cr] => (0..pixels).flat_map(|at| transform::rgb(y[at], cb[at], cr[at])).collect(),
            _ => return Err("no colours".into()),
        };
        Ok((self.width, self.height, rgb))
    }

    /// Whether three components are red, green and blue, as libjpeg guesses.
    fn is_rgb(&self) -> bool {
        match (self.is_jfif, self.adobe) {
            (true, _) => false,
            (false, Some(transform)) => transform == 0,
            (false, None) => self.components.iter().map(|component| component.id).eq(*b"RGB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg")
    }

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn pixels_are_libjpegs() {
        let text = std::fs::read_to_string(fixtures().join("hashes.txt")).unwrap();
        for line in text.lines() {
            let (name, hash) = line.split_once(' ').unwrap();
            let (width, height, rgb) = decode(&std::fs::read(fixtures().join(name)).unwrap()).unwrap();
            assert_eq!(rgb.len(), width * height * 3, "{name}");
            assert_eq!(format!("{:016x}", fnv1a(&rgb)), hash, "{name}");
        }
        assert!(text.lines().count() >= 9);
    }

    #[test]
    fn damaged_files_are_errors_or_pictures_but_never_panics() {
        let mut state = 0x5eed_u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for name in ["420.jpg", "progressive.jpg", "restart.jpg"] {
            let whole = std::fs::read(fixtures().join(name)).unwrap();
            assert!(decode(&whole[..whole.len() * 2 / 3]).is_err(), "{name}");
            for _ in 0..3000 {
                let mut damaged = whole.clone();
                for _ in 0..1 + below(4) {
                    let at = below(whole.len());
                    damaged[at] = [0, 1, 0x7f, 0x80, 0xff, below(256) as u8][below(6)];
                }
                damaged.truncate(whole.len() - below(2) * below(whole.len()));
                if let Ok((width, height, rgb)) = decode(&damaged) {
                    assert_eq!(rgb.len(), width * height * 3);
                }
            }
        }
    }
}
