//! ZMTP 3.0 (<https://rfc.zeromq.org/spec/23/>) as a REP socket speaks it to one REQ or DEALER peer over TCP, and as a REQ
//! socket does to one REP or ROUTER peer ([`Req`]), with the mechanism NULL and the heartbeats of ZMTP 3.1.
//!
//! A message is limited before memory is taken for it, its memory grows with the bytes that arrive, and nothing is
//! waited for longer than [`PATIENCE`], but for the next message of a peer that still answers heartbeats.

mod frame;
mod req;

pub use req::Req;

use frame::{Frame, READY, command, property, read_frame, write_frame};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a peer may take for its part of the handshake, for the next bytes of a message, and for taking a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most frames of a message, and most bytes of each but the body: a REQ peer sends two frames, a correlating one three.
const MAX_FRAMES: usize = 16;
const MAX_ENVELOPE_FRAME: usize = 256;

/// What a peer sent.
#[derive(Debug)]
pub struct Message {
    /// Frames before the empty one, which go back with the reply.
    pub envelope: Vec<Vec<u8>>,
    /// The first frame behind it.
    pub body: Vec<u8>,
    /// Frames behind it: 1 of a whole request.
    pub parts: usize,
}

/// Why no more messages come from a peer.
#[derive(Debug)]
pub enum Ended {
    /// It closed the connection.
    Left,
    /// It is there, as far as the network tells, and was waited for in vain.
    Silent,
    /// It does not speak the protocol: what was expected and what was found.
    Protocol(String),
    /// A body larger than what is read: the envelope to answer by, and what was claimed.
    TooLarge {
        /// As [`Message::envelope`].
        envelope: Vec<Vec<u8>>,
        /// Bytes of the body.
        claimed: u64,
    },
}

impl Ended {
    fn protocol(what: impl Into<String>) -> Self {
        Ended::Protocol(what.into())
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Ended::Silent,
            _ => Ended::Left,
        }
    }
}

/// The half of a connection that reads.
pub struct Reader {
    stream: BufReader<TcpStream>,
    max_body: usize,
}

/// The half of a connection that writes; shared, since heartbeats are answered while a reply is computed.
pub struct Writer {
    stream: Mutex<TcpStream>,
}

/// Shakes hands with a peer that has connected. Bodies may have `max_body` bytes.
///
/// # Errors
/// The peer speaks another protocol or mechanism, or is no REQ or DEALER socket.
pub fn accept(stream: TcpStream, max_body: usize) -> Result<(Reader, Writer), Ended> {
    let (stream, writing) = shake_hands(stream, "REP", ["REQ", "DEALER"], PATIENCE)?;
    Ok((Reader { stream, max_body }, Writer { stream: Mutex::new(writing) }))
}

/// Tells the peer that this is a socket of type `own`, and is told that it is one of `others`.
fn shake_hands(
    stream: TcpStream,
    own: &str,
    others: [&str; 2],
    patience: Duration,
) -> Result<(BufReader<TcpStream>, TcpStream), Ended> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut writing = stream.try_clone()?;
    let mut reading = BufReader::with_capacity(1 << 16, stream);
    writing.write_all(&greeting())?;
    check_greeting(&mut reading)?;
    writing.write_all(&command(READY, &property("Socket-Type", own.as_bytes())))?;
    let Frame { command: true, body, .. } = read_frame(&mut reading, 1 << 12)? else {
        return Err(Ended::protocol("expected the command READY, found a message"));
    };
    let Some(properties) = body.strip_prefix(READY) else {
        let found = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        return Err(Ended::protocol(format!("expected the command READY, found {found:?}")));
    };
    let found = frame::find(properties, "Socket-Type").unwrap_or_default();
    if !others.iter().any(|other| other.as_bytes() == found) {
        let expected = format!("expected a {} or a {}", others[0], others[1]);
        let reason = [&[expected.len() as u8], expected.as_bytes()].concat();
        writing.write_all(&command(b"\x05ERROR", &reason))?;
        let found = String::from_utf8_lossy(&found[..found.len().min(80)]).into_owned();
        return Err(Ended::protocol(format!("{expected}, found {found:?}")));
    }
    Ok((reading, writing))
}

/// Reads the first 64 bytes of a connection. Those of another protocol are noticed by the first of them: it may send no
/// 64.
fn check_greeting(reading: &mut BufReader<TcpStream>) -> Result<(), Ended> {
    let mut greeting = [0; 64];
    let first = reading.fill_buf()?;
    if first.first().is_some_and(|byte| *byte != 0xff) {
        let found = String::from_utf8_lossy(&first[..first.len().min(24)]).into_owned();
        return Err(Ended::protocol(format!("expected ZeroMQ's greeting, found {found:?}")));
    }
    reading.read_exact(&mut greeting)?;
    if greeting[9] & 1 != 1 || greeting[10] < 3 {
        let what = format!("expected the greeting of ZMTP 3, found version {}", greeting[10]);
        return Err(Ended::protocol(what));
    }
    if greeting[12..32] != mechanism() {
        let name = String::from_utf8_lossy(&greeting[12..32]).trim_end_matches('\0').to_owned();
        return Err(Ended::protocol(format!("expected the mechanism NULL, found {name:?}")));
    }
    Ok(())
}

/// The first 64 bytes of a connection.
fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    (greeting[0], greeting[8], greeting[9], greeting[10], greeting[11]) = (0xff, 1, 0x7f, 3, 1);
    greeting[12..32].copy_from_slice(&mechanism());
    greeting
}

fn mechanism() -> [u8; 20] {
    let mut name = [0; 20];
    name[..4].copy_from_slice(b"NULL");
    name
}

/// What a heartbeat is answered with: PING has two bytes of a lifetime, and a context that goes back.
fn pong(body: &[u8]) -> Option<Vec<u8>> {
    let context = body.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..))?;
    Some(command(b"\x04PONG", context))
}

impl Reader {
    /// The next message, whose body is written over what `memory` gives. Heartbeats are answered on the way; a silent peer is sent one
    /// and must answer it.
    ///
    /// # Errors
    /// There is none.
    pub fn next(&mut self, writer: &Writer, memory: impl FnOnce() -> Vec<u8>) -> Result<Message, Ended> {
        let mut envelope = Vec::new();
        loop {
            self.wait(writer)?;
            let header = frame::read_header(&mut self.stream)?;
            if header.command {
                let body = header.body(&mut self.stream, 1 << 12)?;
                if let Some(pong) = pong(&body) {
                    writer.write(&pong)?;
                }
            } else if header.length == 0 {
                break;
            } else if envelope.len() + 2 > MAX_FRAMES || !header.more {
                return Err(Ended::protocol("expected an envelope and an empty frame"));
            } else {
                envelope.push(header.body(&mut self.stream, MAX_ENVELOPE_FRAME)?);
            }
        }
        let body = frame::read_header(&mut self.stream)?;
        if body.length > self.max_body as u64 {
            return Err(Ended::TooLarge { envelope, claimed: body.length });
        }
        let (mut more, mut parts) = (body.more, 1);
        let body = body.body_into(&mut self.stream, self.max_body, memory())?;
        while more {
            let extra = frame::read_header(&mut self.stream)?;
            parts += 1;
            if parts > MAX_FRAMES {
                return Err(Ended::protocol(format!("expected at most {MAX_FRAMES} frames")));
            }
            more = extra.more;
            extra.body(&mut self.stream, self.max_body)?;
        }
        Ok(Message { envelope, body, parts })
    }

    /// Waits for the first byte of a frame.
    fn wait(&mut self, writer: &Writer) -> Result<(), Ended> {
        let mut asked = false;
        loop {
            match self.stream.fill_buf() {
                Ok([]) => return Err(Ended::Left),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if !asked && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    writer.write(&command(b"\x04PING", &[0, 0]))?;
                    asked = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads on for a while and drops what comes: a peer that is still sending would not see an answer otherwise.
    pub fn drain(&mut self, most: u64) {
        let _ = self.stream.get_ref().set_read_timeout(Some(Duration::from_secs(2)));
        let _ = std::io::copy(&mut (&mut self.stream).take(most), &mut std::io::sink());
    }
}

impl Writer {
    /// Sends a reply by the envelope of its request.
    ///
    /// # Errors
    /// The peer left, or does not take it.
    pub fn send(&self, envelope: &[Vec<u8>], body: &[u8]) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(body.len() + 64);
        envelope.iter().for_each(|frame| write_frame(&mut bytes, frame, true));
        write_frame(&mut bytes, &[], true);
        write_frame(&mut bytes, body, false);
        self.write(&bytes)
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)
    }

    /// Ends the connection in both directions.
    pub fn close(&self) {
        let _ = self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }
}
