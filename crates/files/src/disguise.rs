//! What a file is that is not what its name says, told from its first bytes.

use std::{fmt, path::Path};

/// Bytes of a file's start that [`Disguise::of`] looks at.
const LOOKED_AT: usize = 1024;

/// What stands in place of a file. `Display` says it in one clause, with what to do where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disguise {
    /// The pointer that Git leaves where Git LFS did not fetch the file.
    LfsPointer,
    /// A web page, as a download without permission gives.
    Html,
    /// The Hugging Face hub's answer for a file that it does not have.
    HubAnswer,
    /// No bytes at all.
    Empty,
    /// A file of another kind.
    Other(Kind),
}

/// Kinds of files that stand in place of others. `Display` names them with their article.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are the formats' own names
pub enum Kind {
    WebM,
    Matroska,
    Avi,
    Ogg,
    Flash,
    MpegTransport,
    MpegProgram,
    WindowsMedia,
    Png,
    Jpeg,
    Gif,
    Zip,
    Gzip,
    Zstandard,
    Hdf5,
    Tar,
    Arrow,
    Json,
    Text,
    Zeros,
}

impl Disguise {
    /// What a file that starts with `bytes` is, if it is one of these. The formats that readers expect
    /// (JSON, parquet, safetensors, mp4) are none.
    pub fn of(bytes: &[u8]) -> Option<Disguise> {
        let start = &bytes[..bytes.len().min(LOOKED_AT)];
        if start.is_empty() {
            return Some(Disguise::Empty);
        }
        if start.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Some(Disguise::LfsPointer);
        }
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
        let starts =
            |with: &str| text.get(..with.len()).is_some_and(|s| s.eq_ignore_ascii_case(with.as_bytes()));
        if starts("<!doctype html") || starts("<html") || starts("<?xml") {
            return Some(Disguise::Html);
        }
        if starts("Entry not found") || starts("Invalid username or password") || starts("Access to model") {
            return Some(Disguise::HubAnswer);
        }
        kind(start).map(Disguise::Other)
    }

    /// The same of a file that holds no text when it is what it should be: text is a disguise, too.
    pub fn of_binary(bytes: &[u8]) -> Option<Disguise> {
        Disguise::of(bytes).or_else(|| text(&bytes[..bytes.len().min(LOOKED_AT)]).map(Disguise::Other))
    }

    /// [`Disguise::of_binary`] of the file at `path`. None where it cannot be read.
    pub fn of_binary_file(path: &Path) -> Option<Disguise> {
        use std::io::Read;
        let mut start = Vec::with_capacity(LOOKED_AT);
        crate::open(path).ok()?.take(LOOKED_AT as u64).read_to_end(&mut start).ok()?;
        Disguise::of_binary(&start)
    }
}

/// What text a file starts with, or that it starts with nothing but zeros.
fn text(start: &[u8]) -> Option<Kind> {
    if start.iter().all(|byte| *byte == 0) {
        return Some(Kind::Zeros);
    }
    // A character may be cut at the end.
    let whole = match std::str::from_utf8(start) {
        Ok(_) => start.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return None,
    };
    let printed = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    let json = start.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['));
    start[..whole].iter().all(printed).then_some(if json { Kind::Json } else { Kind::Text })
}

/// Formats by their first bytes.
fn kind(start: &[u8]) -> Option<Kind> {
    let at = |place: usize, bytes: &[u8]| start.get(place..).is_some_and(|rest| rest.starts_with(bytes));
    let holds = |bytes: &[u8]| start.windows(bytes.len()).any(|window| window == bytes);
    let packets = |size: usize| (0..3).all(|packet| at(packet * size, b"\x47"));
    Some(match () {
        () if at(0, b"\x1a\x45\xdf\xa3") && holds(b"webm") => Kind::WebM,
        () if at(0, b"\x1a\x45\xdf\xa3") => Kind::Matroska,
        () if at(0, b"RIFF") && at(8, b"AVI ") => Kind::Avi,
        () if at(0, b"OggS") => Kind::Ogg,
        () if at(0, b"FLV\x01") => Kind::Flash,
        () if packets(188) => Kind::MpegTransport,
        // An mp4 file may start with a box of as many bytes.
        () if at(0, b"\x00\x00\x01\xba") && !at(4, b"ftyp") => Kind::MpegProgram,
        () if at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11") => Kind::WindowsMedia,
        () if at(0, b"\x89PNG\r\n\x1a\n") => Kind::Png,
        () if at(0, b"\xff\xd8\xff") => Kind::Jpeg,
        () if at(0, b"GIF8") => Kind::Gif,
        () if at(0, b"PK\x03\x04") => Kind::Zip,
        () if at(0, b"\x1f\x8b") => Kind::Gzip,
        () if at(0, b"\x28\xb5\x2f\xfd") => Kind::Zstandard,
        () if at(0, b"\x89HDF\r\n\x1a\n") => Kind::Hdf5,
        () if at(257, b"ustar") => Kind::Tar,
        () if at(0, b"ARROW1") => Kind::Arrow,
        () => return None,
    })
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::WebM => "a WebM video",
            Kind::Matroska => "a Matroska video",
            Kind::Avi => "an AVI video",
            Kind::Ogg => "an Ogg file",
            Kind::Flash => "a Flash video",
            Kind::MpegTransport => "an MPEG transport stream",
            Kind::MpegProgram => "an MPEG program stream",
            Kind::WindowsMedia => "a Windows Media file",
            Kind::Png => "a PNG image",
            Kind::Jpeg => "a JPEG image",
            Kind::Gif => "a GIF image",
            Kind::Zip => "a zip archive",
            Kind::Gzip => "a gzip archive",
            Kind::Zstandard => "a Zstandard archive",
            Kind::Hdf5 => "an HDF5 file",
            Kind::Tar => "a tar archive",
            Kind::Arrow => "an Arrow file",
            Kind::Json => "JSON text",
            Kind::Text => "text",
            Kind::Zeros => "nothing but zeros, as a copy or a download that broke off leaves",
        })
    }
}

impl fmt::Display for Disguise {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self {
            Disguise::LfsPointer => {
                "a Git LFS pointer instead of the file; run `git lfs pull` in its repository, or download it again"
            }
            Disguise::Html => "a web page instead of the file; the download needs a login or another address",
            Disguise::HubAnswer => "the hub's refusal instead of the file; check its name and your access",
            Disguise::Empty => "an empty file",
            Disguise::Other(kind) => return kind.fmt(f),
        };
        f.write_str(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let of = |bytes: &[u8]| Disguise::of(bytes);
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
        assert_eq!(of(pointer), Some(Disguise::LfsPointer));
        assert_eq!(of(b"\n<!DOCTYPE HTML><html>"), Some(Disguise::Html));
        assert_eq!(of(b"Entry not found"), Some(Disguise::HubAnswer));
        assert_eq!(of(b""), Some(Disguise::Empty));
        assert_eq!(of(b"\x1a\x45\xdf\xa3\x01\x42\x82\x84webm"), Some(Disguise::Other(Kind::WebM)));
        assert_eq!(of(b"RIFF\x00\x00\x00\x00AVI LIST"), Some(Disguise::Other(Kind::Avi)));
        for expected in
            [&b"{\"a\": 1}"[..], b"PAR1\x15\x04", b"\x00\x00\x00\x20ftypisom", b"\x08\0\0\0\0\0\0\0{}"]
        {
            assert_eq!(of(expected), None);
        }
        let binary = |bytes: &[u8]| Disguise::of_binary(bytes);
        assert_eq!(binary(b"{\"error\": \"gone\"}"), Some(Disguise::Other(Kind::Json)));
        assert_eq!(binary("timestamp,Stück\n0,1\n".as_bytes()), Some(Disguise::Other(Kind::Text)));
        assert_eq!(binary(&"ü".repeat(1023).as_bytes()[1..]), None);
        assert_eq!(binary(&[b"x", "ü".repeat(1023).as_bytes()].concat()), Some(Disguise::Other(Kind::Text)));
        assert_eq!(binary(&[0; 64]), Some(Disguise::Other(Kind::Zeros)));
        for expected in [&b"PAR1\x15\x04"[..], b"\x00\x00\x00\x20ftypisom", b"\x08\0\0\0\0\0\0\0{}"] {
            assert_eq!(binary(expected), None);
        }
    }
}
