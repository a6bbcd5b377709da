//! Frames and commands of ZMTP.

use super::Ended;
use std::io::{ErrorKind, Read};

/// The name of the command that ends the handshake, with its length.
pub const READY: &[u8] = b"\x05READY";
/// Half of the memory that a body begins with.
const FIRST: usize = 1 << 15;

/// What stands before a frame's body.
#[derive(Debug)]
pub struct Header {
    pub more: bool,
    pub command: bool,
    pub length: u64,
}

/// A whole frame.
pub struct Frame {
    pub command: bool,
    pub body: Vec<u8>,
}

pub fn read_header(stream: &mut impl Read) -> Result<Header, Ended> {
    let mut byte = [0; 1];
    stream.read_exact(&mut byte)?;
    let [flags] = byte;
    if flags & !0b111 != 0 {
        return Err(Ended::protocol(format!("expected the flags of a frame, found 0x{flags:02x}")));
    }
    let length = match flags & 0b10 != 0 {
        true => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        false => {
            stream.read_exact(&mut byte)?;
            u64::from(byte[0])
        }
    };
    Ok(Header { more: flags & 1 != 0, command: flags & 0b100 != 0, length })
}

impl Header {
    /// The frame's body; its memory grows with what arrives.
    pub fn body(&self, stream: &mut impl Read, most: usize) -> Result<Vec<u8>, Ended> {
        self.body_into(stream, most, Vec::new())
    }

    /// The frame's body, written over `body`.
    pub fn body_into(
        &self,
        stream: &mut impl Read,
        most: usize,
        mut body: Vec<u8>,
    ) -> Result<Vec<u8>, Ended> {
        if self.length > most as u64 {
            return Err(Ended::protocol(format!("expected at most {most} bytes, found {}", self.length)));
        }
        let length = self.length as usize;
        body.truncate(length);
        let mut read = 0;
        while read < length {
            if read == body.len() {
                // At most twice what is there: a claim alone takes no memory.
                body.resize(length.min(2 * read.max(FIRST)), 0);
            }
            match stream.read(&mut body[read..]) {
                Ok(0) => return Err(Ended::Left),
                Ok(more) => read += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(body)
    }
}

pub fn read_frame(stream: &mut impl Read, most: usize) -> Result<Frame, Ended> {
    let header = read_header(stream)?;
    Ok(Frame { command: header.command, body: header.body(stream, most)? })
}

pub fn write_frame(bytes: &mut Vec<u8>, body: &[u8], more: bool) {
    match u8::try_from(body.len()) {
        Ok(length) => bytes.extend([u8::from(more), length]),
        Err(_) => {
            bytes.push(u8::from(more) | 0b10);
            bytes.extend((body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend(body);
}

/// A command: `name` with its length before it. Commands sent from here are short.
pub fn command(name: &[u8], data: &[u8]) -> Vec<u8> {
    let length = name.len() + data.len();
    let mut bytes = vec![0b110];
    bytes.extend((length as u64).to_be_bytes());
    bytes.extend(name);
    bytes.extend(data);
    bytes
}

/// A property of READY.
pub fn property(name: &str, value: &[u8]) -> Vec<u8> {
    [&[name.len() as u8], name.as_bytes(), &(value.len() as u32).to_be_bytes(), value].concat()
}

/// The value of a property, whose name may be in any case.
pub fn find<'p>(mut properties: &'p [u8], name: &str) -> Option<&'p [u8]> {
    loop {
        let (length, rest) = properties.split_first()?;
        let (found, rest) = rest.split_at_checked(usize::from(*length))?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if found.eq_ignore_ascii_case(name.as_bytes()) {
            return Some(value);
        }
        properties = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        for length in [0, 1, 255, 256, 70_000] {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &vec![7; length], true);
            let header = read_header(&mut &bytes[..]).expect("whole");
            assert_eq!((header.more, header.command, header.length), (true, false, length as u64));
            let frame = read_frame(&mut &bytes[..], length).expect("whole");
            assert_eq!(frame.body, vec![7; length]);
            assert!(matches!(read_frame(&mut &bytes[..bytes.len() - 1], length), Err(Ended::Left)));
            if length > 0 {
                assert!(matches!(read_frame(&mut &bytes[..], length - 1), Err(Ended::Protocol(_))));
            }
        }
        assert!(matches!(read_header(&mut &[0x08, 0][..]), Err(Ended::Protocol(_))));
    }

    #[test]
    fn properties_are_found_by_name() {
        let properties = [property("Identity", b""), property("Socket-Type", b"REQ")].concat();
        assert_eq!(find(&properties, "socket-type"), Some(&b"REQ"[..]));
        assert_eq!(find(&properties, "other"), None);
        assert_eq!(find(&properties[..20], "Socket-Type"), None);
        assert_eq!(find(b"\x01a\xff\xff\xff\xff", "a"), None);
    }
}
