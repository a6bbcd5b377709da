//! `/healthz`, `/readyz`, `/metrics` and `/info` over HTTP/1.1: one request a connection, nothing but GET.

use crate::server::Shared;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest request.
const MAX_REQUEST: usize = 8 << 10;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers one connection.
pub fn attend(shared: &Shared, mut stream: TcpStream) {
    let _ = answer(shared, &mut stream);
}

fn answer(shared: &Shared, stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let until = Instant::now() + PATIENCE;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 || request.len() > MAX_REQUEST || Instant::now() > until {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..read]);
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = page(shared, method, path.split('?').next().unwrap_or_default());
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Status, content type and body of a page.
fn page(shared: &Shared, method: &str, path: &str) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    if method != "GET" {
        return ("405 Method Not Allowed", TEXT, "expected GET\n".to_owned());
    }
    match path {
        "/healthz" => ("200 OK", TEXT, alive(shared)),
        "/readyz" if shared.is_ready() => ("200 OK", TEXT, "ready\n".to_owned()),
        "/readyz" => ("503 Service Unavailable", TEXT, unready(shared)),
        "/metrics" => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", shared.metrics()),
        "/info" => ("200 OK", "application/json", format!("{:#}\n", info(shared))),
        _ => ("404 Not Found", TEXT, "there are /healthz, /readyz, /metrics and /info\n".to_owned()),
    }
}

/// That the process answers, and a line for each engine.
fn alive(shared: &Shared) -> String {
    let mut text = "alive\n".to_owned();
    for pool in &shared.pools {
        for engine in &pool.engines {
            let state = if engine.is_up() { "up" } else { "down" };
            let _ = writeln!(text, "engine {} on {}: {state}", engine.number, engine.device);
        }
    }
    text
}

/// Why clients should go elsewhere.
fn unready(shared: &Shared) -> String {
    if shared.is_stopping() {
        return "stopping\n".to_owned();
    }
    let without = shared.models.iter().filter(|model| !model.pool.is_working());
    without.map(|model| format!("{}: no engine works\n", model.name)).collect()
}

/// What the caller said of the server, and its engines as they are.
fn info(shared: &Shared) -> Value {
    let engines = shared.pools.iter().flat_map(|pool| {
        pool.engines.iter().map(|engine| {
            json!({
                "engine": engine.number,
                "kind": engine.name,
                "device": engine.device,
                "checkpoint": pool.checkpoint,
                "up": engine.is_up(),
                "inferences": engine.inferences(),
                "failures": engine.failures(),
            })
        })
    });
    let mut info = shared.config.info.clone();
    info.insert("engines".to_owned(), engines.collect());
    Value::Object(info)
}
