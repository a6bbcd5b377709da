//! What a client asks for: `{endpoint, data, api_token}`.

use crate::wire::{Dialect, Value, dialect_of, read};
use crate::{Error, Result};
use std::hint::black_box;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Whether the server is there.
    Ping,
    /// That the server ends.
    Kill,
    /// That a new episode begins.
    Reset,
    /// Actions for observations.
    GetAction,
    /// What the embodiment observes and does.
    GetModalityConfig,
}

/// One request.
#[derive(Debug)]
pub struct Request<'m> {
    /// What is asked for.
    pub endpoint: Endpoint,
    /// What is given along: a map, empty where there is none.
    pub data: Value<'m>,
    /// How its arrays are written, where it has some.
    pub dialect: Option<Dialect>,
}

impl<'m> Request<'m> {
    /// Reads a message; the token is looked at before anything else of it.
    ///
    /// # Errors
    /// No whole msgpack map; another token than `token`; no such endpoint; data that is no map.
    pub fn read(body: &'m [u8], token: Option<&str>) -> Result<Self> {
        let message = read(body)?;
        if message.entries().is_none() {
            let what = format!("expected a map of endpoint, data and api_token, found {}", message.kind());
            return Err(Error::Message(what));
        }
        if let Some(token) = token {
            let given = message.get("api_token").and_then(Value::text).unwrap_or_default();
            if !same(given.as_bytes(), token.as_bytes()) {
                return Err(Error::Unauthorized);
            }
        }
        let endpoint = match message.get("endpoint") {
            // As the official server takes it.
            None => Endpoint::GetAction,
            Some(name) => match name.text() {
                Some("ping") => Endpoint::Ping,
                Some("kill") => Endpoint::Kill,
                Some("reset") => Endpoint::Reset,
                Some("get_action") => Endpoint::GetAction,
                Some("get_modality_config") => Endpoint::GetModalityConfig,
                Some(other) => return Err(Error::Endpoint(other.chars().take(80).collect())),
                None => {
                    return Err(Error::field("endpoint", format!("expected text, found {}", name.kind())));
                }
            },
        };
        let dialect = dialect_of(&message);
        let data = match message.get("data") {
            None | Some(Value::Nil) => Value::Map(Vec::new()),
            Some(data @ Value::Map(_)) => data.clone(),
            Some(other) => {
                return Err(Error::field("data", format!("expected a map, found {}", other.kind())));
            }
        };
        Ok(Request { endpoint, data, dialect })
    }
}

/// Compares without telling by its time where two texts differ; only their lengths.
pub fn same(given: &[u8], expected: &[u8]) -> bool {
    let differences = given.iter().zip(expected).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    (differences == 0) & (given.len() == expected.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Writer;

    fn message(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.map(entries.len());
        for (key, value) in entries {
            writer.str(key);
            writer.str(value);
        }
        writer.into_bytes()
    }

    #[test]
    fn the_token_is_looked_at_first() {
        let refused =
            |entries: &[(&str, &str)]| Request::read(&message(entries), Some("secret")).expect_err("refused");
        for token in ["", "secre", "secret2", "Secret"] {
            assert!(matches!(
                refused(&[("endpoint", "nonsense"), ("api_token", token)]),
                Error::Unauthorized
            ));
        }
        assert!(matches!(refused(&[("endpoint", "ping")]), Error::Unauthorized));
        assert!(matches!(refused(&[("endpoint", "nonsense"), ("api_token", "secret")]), Error::Endpoint(_)));
        let known = message(&[("endpoint", "reset"), ("api_token", "secret")]);
        assert_eq!(Request::read(&known, Some("secret")).expect("fits").endpoint, Endpoint::Reset);
        assert_eq!(Request::read(&message(&[]), None).expect("fits").endpoint, Endpoint::GetAction);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let refused = |bytes: &[u8]| Request::read(bytes, None).expect_err("refused").to_string();
        assert!(refused(&[0xc0]).contains("expected a map"));
        assert!(refused(&message(&[("data", "text")])).contains("data: expected a map, found text"));
        assert!(
            refused(&[0x81, 0xa8, b'e', b'n', b'd', b'p', b'o', b'i', b'n', b't', 1]).contains("endpoint:")
        );
    }
}
