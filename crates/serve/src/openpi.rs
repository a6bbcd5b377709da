//! The front end of OpenPI's clients: a WebSocket, on which the server says what it serves, and each message of the client is
//! an observation that is answered with actions.
//!
//! As `openpi_client.WebsocketClientPolicy` takes it: metadata first, binary messages of msgpack, an error as text.

use crate::client::{Body, Client};
use crate::observation::Form;
use crate::reply::Info;
use crate::request::same;
use crate::server::Shared;
use crate::wire::{Dialect, Writer, read, write_f32};
use bytes::Bytes;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use steadyhand_gr00t::ActionChunk;
use steadyhand_gr00t::policy::Described;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket, accept_hdr_with_config};

/// How long a client may be silent before it is asked for a sign of life, and how long it has for that.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves a client until it leaves or the server ends.
pub fn attend(shared: &Shared, stream: TcpStream) {
    let Some(mut socket) = open(shared, stream) else { return };
    let mut client = Client::new(shared, Arc::new(AtomicBool::new(false)));
    let mut before: Option<Duration> = None;
    while let Some(message) = next(shared, &mut socket) {
        let at = Instant::now();
        let write = |chunks: &[ActionChunk], form: Form, info: &Info| actions(chunks, form, info, before);
        let answered = read(&message)
            .and_then(|observation| client.act_on(&observation, Body { bytes: &message, at }, &write));
        let reply = match answered {
            Ok(reply) => Message::binary(reply),
            Err(error) => Message::text(error.to_string()),
        };
        if socket.send(reply).is_err() {
            return;
        }
        client.after();
        before = Some(at.elapsed());
    }
    let _ = socket.close(None);
    let _ = socket.flush();
}

/// Shakes hands and says what is served.
fn open(shared: &Shared, stream: TcpStream) -> Option<WebSocket<TcpStream>> {
    let ready = || -> std::io::Result<bool> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        is_health_check(&stream)
    };
    match ready() {
        Ok(false) => {}
        Ok(true) => {
            let alive = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nOK\n";
            let _ = (&stream).write_all(alive.as_bytes());
            return None;
        }
        Err(_) => {
            shared.connections.dropped();
            return None;
        }
    }
    let most = shared.config.max_message;
    let config = WebSocketConfig::default().max_message_size(Some(most)).max_frame_size(Some(most));
    let token = shared.config.api_token.as_deref();
    #[allow(clippy::result_large_err)] // The type of tungstenite's callbacks.
    let admit = |request: &Request, response: Response| match token.is_none_or(|token| has(request, token)) {
        true => Ok(response),
        false => {
            shared.connections.unauthorized();
            let mut refused = ErrorResponse::new(Some(crate::Error::Unauthorized.to_string()));
            *refused.status_mut() = tungstenite::http::StatusCode::UNAUTHORIZED;
            Err(refused)
        }
    };
    let Ok(mut socket) = accept_hdr_with_config(stream, admit, Some(config)) else {
        shared.connections.dropped();
        return None;
    };
    socket.send(Message::binary(metadata(shared))).ok().map(|()| socket)
}

/// Whether a connection only asks over HTTP whether the server is there.
fn is_health_check(stream: &TcpStream) -> std::io::Result<bool> {
    const ASKED: &[u8] = b"GET /healthz ";
    let mut start = [0; ASKED.len()];
    let found = stream.peek(&mut start)?;
    Ok(start[..found] == *ASKED)
}

/// Whether the request has the token as OpenPI's client sends it.
fn has(request: &Request, token: &str) -> bool {
    let given = request.headers().get("Authorization").map_or(&b""[..], |value| value.as_bytes());
    same(given.strip_prefix(b"Api-Key ").unwrap_or_default(), token.as_bytes())
}

/// The next observation; none where there will be none. A silent client is sent a ping and must answer it.
fn next(shared: &Shared, socket: &mut WebSocket<TcpStream>) -> Option<Bytes> {
    let mut asked = false;
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => return Some(bytes),
            Ok(Message::Text(_)) => {
                shared.connections.refused();
                socket
                    .send(Message::text("message: expected msgpack in a binary message, found text"))
                    .ok()?;
            }
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return None,
            Ok(_) => asked = false,
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if asked || socket.send(Message::Ping(Vec::new().into())).is_err() {
                    shared.connections.dropped();
                    return None;
                }
                asked = true;
            }
            Err(error) => {
                if !shared.is_stopping() && !matches!(error, Error::Io(_)) {
                    shared.connections.dropped();
                }
                return None;
            }
        }
    }
}

/// What the first model observes and does, and the names of all.
fn metadata(shared: &Shared) -> Vec<u8> {
    let model = &shared.models[0];
    let Described { embodiment_tag, views, state, actions, .. } = Described::of(model.processor());
    let mut writer = Writer::default();
    writer.map(7);
    let names = |writer: &mut Writer, key: &str, names: &[&str]| {
        writer.str(key);
        writer.list(names.len());
        names.iter().for_each(|name| writer.str(name));
    };
    let all: Vec<&str> = shared.models.iter().map(|model| &model.name[..]).collect();
    names(&mut writer, "models", &all);
    writer.str("model");
    writer.str(&model.name);
    writer.str("embodiment_tag");
    writer.str(&embodiment_tag);
    writer.str("action_horizon");
    writer.uint(model.processor().action_horizon() as u64);
    let keys = |prefix: &str, names: Vec<String>| -> Vec<String> {
        names.into_iter().map(|name| format!("{prefix}.{name}")).collect()
    };
    for (key, found) in [
        ("views", keys("video", views.into_iter().map(|view| view.name).collect())),
        ("state", keys("state", state.into_iter().map(|group| group.name).collect())),
        ("actions", keys("action", actions.into_iter().map(|group| group.name).collect())),
    ] {
        let found: Vec<&str> = found.iter().map(|name| &name[..]).collect();
        names(&mut writer, key, &found);
    }
    writer.into_bytes()
}

/// `actions` of all joint groups side by side, each group alone, and where the time went.
fn actions(chunks: &[ActionChunk], form: Form, info: &Info, before: Option<Duration>) -> Vec<u8> {
    let mut writer = Writer::default();
    let groups = chunks.first().map_or(&[][..], |chunk| &chunk.groups);
    writer.map(4 + groups.len());
    let rows = groups.first().map_or(0, |(_, actions)| actions.rows);
    let width = groups.iter().map(|(_, actions)| actions.cols).sum();
    let mut array = |key: &str, cols: usize, values: &[f32]| {
        let shape = [chunks.len(), rows, cols];
        writer.str(key);
        write_f32(&mut writer, Dialect::OpenPi, if form.batched { &shape } else { &shape[1..] }, values);
    };
    let steps = chunks.iter().flat_map(|chunk| (0..rows).map(move |row| (chunk, row)));
    let all =
        steps.flat_map(|(chunk, row)| chunk.groups.iter().flat_map(move |(_, actions)| actions.row(row)));
    array("actions", width, &all.copied().collect::<Vec<f32>>());
    for (place, (name, first)) in groups.iter().enumerate() {
        let values: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.groups[place].1.data).copied().collect();
        array(&format!("action.{name}"), first.cols, &values);
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    writer.str("model");
    writer.str(info.model);
    writer.str("policy_timing");
    writer.map(1);
    writer.str("infer_ms");
    writer.float(milliseconds(info.inference));
    writer.str("server_timing");
    writer.map(1 + usize::from(before.is_some()));
    writer.str("infer_ms");
    writer.float(milliseconds(info.inference));
    if let Some(before) = before {
        writer.str("prev_total_ms");
        writer.float(milliseconds(before));
    }
    writer.into_bytes()
}
