//! The connection to a server: endpoints in, replies out.

use super::MAX_REPLY;
use super::replies::error_of;
use crate::wire::Writer;
use crate::zmtp::{Ended, Req};
use crate::{Error, Result};
use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a server may take to accept a connection, and for each step of the handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or number.
    pub host: String,
    /// Of TCP.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A connection to a server, opened anew where the server closed it between two requests.
pub struct Link {
    address: Address,
    api_token: Option<String>,
    /// How long a reply is waited for.
    patience: Duration,
    open: Option<Req>,
}

impl Link {
    /// Connects. Every request carries `api_token`; a reply is waited for as long as `patience`.
    ///
    /// # Errors
    /// Nothing listens there, or something that speaks another protocol.
    pub fn open(address: Address, api_token: Option<String>, patience: Duration) -> Result<Self> {
        let mut link = Link { address, api_token, patience, open: None };
        link.open = Some(link.connect()?);
        Ok(link)
    }

    /// Host and port, for errors.
    pub fn server(&self) -> String {
        self.address.to_string()
    }

    /// What every request carries.
    pub fn api_token(&self) -> Option<&str> {
        self.api_token.as_deref()
    }

    /// Sends a request made by [`request`] and gives the reply, which is no error.
    ///
    /// # Errors
    /// The server left, is silent, speaks another protocol, or answers with an error.
    pub fn ask(&mut self, endpoint: &'static str, request: &[u8]) -> Result<Vec<u8>> {
        // A server may have let a client go that said nothing for a while, as ours does after a minute: what was asked
        // over a connection that was used before is asked once more over a new one.
        let used = self.open.is_some();
        let mut found = self.attempt(request)?;
        if used && matches!(found, Err(Ended::Left)) {
            found = self.attempt(request)?;
        }
        let reply = found.map_err(|ended| self.failed(format!("{endpoint}: {}", self.words(&ended))))?;
        match error_of(&reply) {
            None => Ok(reply),
            Some(error) => Err(Error::Answered { server: self.server(), endpoint, error }),
        }
    }

    /// Asks over the connection, or over a new one where there is none.
    fn attempt(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, Ended>> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let reply = open.ask(request, self.patience);
        // After an error a late reply would be taken for that of the next request.
        self.open = reply.is_ok().then_some(open);
        Ok(reply)
    }

    fn connect(&self) -> Result<Req> {
        let addresses = (self.address.host.as_str(), self.address.port).to_socket_addrs();
        let addresses =
            addresses.map_err(|error| self.failed(format!("the host has no address: {error}")))?;
        let mut refused = "the host has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    return Req::open(stream, MAX_REPLY, CONNECT).map_err(|ended| match ended {
                        Ended::Silent => self.failed(format!(
                            "expected a server of the policy protocol (ZeroMQ), found one that says nothing for {} s",
                            CONNECT.as_secs()
                        )),
                        Ended::Left => self.failed(
                            "expected a server of the policy protocol (ZeroMQ), found one that closes the connection"
                                .to_owned(),
                        ),
                        other => self.failed(self.words(&other)),
                    });
                }
                Err(error) => refused = format!("expected a policy server, found none: {error}"),
            }
        }
        Err(self.failed(refused))
    }

    fn words(&self, ended: &Ended) -> String {
        match ended {
            Ended::Left => "the server closed the connection instead of answering".to_owned(),
            Ended::Silent => format!("expected a reply within {} s, found none", self.patience.as_secs_f64()),
            Ended::Protocol(what) => format!("another protocol is spoken there: {what}"),
            Ended::TooLarge { claimed, .. } => {
                format!("expected a reply of at most {MAX_REPLY} bytes, found {claimed}")
            }
        }
    }

    fn failed(&self, what: String) -> Error {
        Error::Server { server: self.server(), what }
    }
}

/// A request; `data` writes the value of that name.
pub fn request(endpoint: &str, api_token: Option<&str>, data: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(2 + usize::from(api_token.is_some()));
    writer.str("endpoint");
    writer.str(endpoint);
    if let Some(token) = api_token {
        writer.str("api_token");
        writer.str(token);
    }
    writer.str("data");
    data(&mut writer);
    writer.into_bytes()
}
