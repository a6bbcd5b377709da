//! ZMTP 3.0 (<https://rfc.zeromq.org/spec/23/>) as a REP socket speaks it to one REQ or DEALER peer over TCP, with the
//! mechanism NULL and the heartbeats of ZMTP 3.1.
//!
//! A message is limited before memory is taken for it, its memory grows with the bytes that arrive, and nothing is
//! waited for longer than [`PATIENCE`], but for the next message of a peer that still answers heartbeats.

mod frame;

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
    /// It left, or does not answer.
    Left,
    /// It does not speak the protocol.
    Protocol,
    /// A body larger than what is read: the envelope to answer by, and what was claimed.
    TooLarge {
        /// As [`Message::envelope`].
        envelope: Vec<Vec<u8>>,
        /// Bytes of the body.
        claimed: u64,
    },
}

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Self {
        Ended::Left
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
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writing = stream.try_clone()?;
    let mut reading = BufReader::with_capacity(1 << 16, stream);
    writing.write_all(&greeting())?;
    let mut greeting = [0; 64];
    reading.read_exact(&mut greeting)?;
    if greeting[0] != 0xff || greeting[9] & 1 != 1 || greeting[10] < 3 {
        return Err(Ended::Protocol);
    }
    if greeting[12..32] != mechanism() {
        return Err(Ended::Protocol);
    }
    writing.write_all(&command(READY, &property("Socket-Type", b"REP")))?;
    let Frame { command: true, body, .. } = read_frame(&mut reading, 1 << 12)? else {
        return Err(Ended::Protocol);
    };
    let properties = body.strip_prefix(READY).ok_or(Ended::Protocol)?;
    if !matches!(frame::find(properties, "Socket-Type"), Some(b"REQ" | b"DEALER")) {
        writing.write_all(&command(b"\x05ERROR", b"\x1aexpected a REQ or a DEALER"))?;
        return Err(Ended::Protocol);
    }
    Ok((Reader { stream: reading, max_body }, Writer { stream: Mutex::new(writing) }))
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

impl Reader {
    /// The next message. Heartbeats are answered on the way; a silent peer is sent one and must answer it.
    ///
    /// # Errors
    /// There is none.
    pub fn next(&mut self, writer: &Writer) -> Result<Message, Ended> {
        let mut envelope = Vec::new();
        loop {
            self.wait(writer)?;
            let header = frame::read_header(&mut self.stream)?;
            if header.command {
                let body = header.body(&mut self.stream, 1 << 12)?;
                // PING with two bytes of a lifetime, and a context that goes back.
                if let Some(context) = body.strip_prefix(b"\x04PING").and_then(|rest| rest.get(2..)) {
                    writer.write(&command(b"\x04PONG", context))?;
                }
            } else if header.length == 0 {
                break;
            } else if envelope.len() + 2 > MAX_FRAMES || !header.more {
                return Err(Ended::Protocol);
            } else {
                envelope.push(header.body(&mut self.stream, MAX_ENVELOPE_FRAME)?);
            }
        }
        let body = frame::read_header(&mut self.stream)?;
        if body.length > self.max_body as u64 {
            return Err(Ended::TooLarge { envelope, claimed: body.length });
        }
        let (mut more, mut parts) = (body.more, 1);
        let body = body.body(&mut self.stream, self.max_body)?;
        while more {
            let extra = frame::read_header(&mut self.stream)?;
            parts += 1;
            if parts > MAX_FRAMES {
                return Err(Ended::Protocol);
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
                Err(_) => return Err(Ended::Left),
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
