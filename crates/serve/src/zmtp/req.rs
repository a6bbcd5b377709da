//! A REQ socket: asks one REP or ROUTER peer, one message at a time.

use super::frame::{read_header, write_frame};
use super::{Ended, MAX_ENVELOPE_FRAME, MAX_FRAMES, pong, shake_hands};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A connection to a peer.
pub struct Req {
    reading: BufReader<TcpStream>,
    writing: TcpStream,
    max_body: usize,
}

impl Req {
    /// Shakes hands over `stream`; the peer may take `patience` for each step of it. Replies may have `max_body` bytes.
    ///
    /// # Errors
    /// The peer speaks another protocol or mechanism, or is no REP or ROUTER socket; it leaves or says nothing.
    pub fn open(stream: TcpStream, max_body: usize, patience: Duration) -> Result<Self, Ended> {
        let (reading, writing) = shake_hands(stream, "REQ", ["REP", "ROUTER"], patience)?;
        Ok(Req { reading, writing, max_body })
    }

    /// Sends a message and waits for its reply, `patience` long. After an error the connection is of no more use: the
    /// reply may still come.
    ///
    /// # Errors
    /// The peer left, was waited for in vain, does not speak the protocol, or answers with more than is read.
    pub fn ask(&mut self, body: &[u8], patience: Duration) -> Result<Vec<u8>, Ended> {
        let mut message = Vec::with_capacity(body.len() + 16);
        write_frame(&mut message, &[], true);
        write_frame(&mut message, body, false);
        self.writing.write_all(&message)?;
        let until = Instant::now() + patience;
        let mut envelope = 0;
        loop {
            self.wait(until)?;
            let header = read_header(&mut self.reading)?;
            if header.command {
                let body = header.body(&mut self.reading, 1 << 12)?;
                if let Some(pong) = pong(&body) {
                    self.writing.write_all(&pong)?;
                }
            } else if header.length == 0 && header.more {
                break;
            } else if envelope == MAX_FRAMES || !header.more {
                return Err(Ended::protocol("expected an empty frame before the reply"));
            } else {
                envelope += 1;
                header.body(&mut self.reading, MAX_ENVELOPE_FRAME)?;
            }
        }
        let header = read_header(&mut self.reading)?;
        if header.more {
            return Err(Ended::protocol("expected a reply of one part, found several"));
        }
        header.body(&mut self.reading, self.max_body)
    }

    /// Waits for the first byte of a frame.
    fn wait(&mut self, until: Instant) -> Result<(), Ended> {
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err(Ended::Silent);
            }
            self.reading.get_ref().set_read_timeout(Some(rest))?;
            match self.reading.fill_buf() {
                Ok([]) => return Err(Ended::Left),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
