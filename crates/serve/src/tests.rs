//! A whole server, and a client that knows nothing of it but the protocol.

use crate::wire::{Dialect, Value, Writer, read, write_f32};
use crate::{Config, Deployment, Server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use steadyhand_gr00t::engine::Reference;
use steadyhand_gr00t::session::{Options, Session};
use steadyhand_gr00t::{ActionChunk, Observation, Policy};

mod reading;
mod several;

const SEED: u64 = 7;

fn session() -> Session {
    Session::open("synth:tiny", &Options { seed: 3, ..Options::default() }).expect("opens")
}

fn policy(session: &Session) -> Policy {
    session.parts.policy(&Reference, "f32", 2, SEED).expect("opens")
}

/// A server in a thread; it is ended and joined when dropped.
struct Running {
    session: Session,
    address: SocketAddr,
    http: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<crate::Result<()>>>,
}

impl Running {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let session = session();
        let deployment = policy(&session).into();
        Running::deploy(session, vec![deployment], change)
    }

    fn deploy(session: Session, deployments: Vec<Deployment>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            address: ([127, 0, 0, 1], 0).into(),
            openpi: None,
            http: Some(([127, 0, 0, 1], 0).into()),
            api_token: None,
            allow_kill: false,
            max_batch: 2,
            max_wait: Duration::ZERO,
            max_message: 1 << 20,
            max_clients: 16,
            info: [("checkpoint".to_owned(), "synth:tiny".into())].into_iter().collect(),
            tell: |_| {},
        };
        change(&mut config);
        let server = Server::bind(deployments, config).expect("listens");
        let (address, http) = (server.address().expect("an address"), server.http_address().expect("pages"));
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || server.run(|| told.load(Ordering::Acquire)));
        Running { session, address, http, stop, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).expect("connects");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
        }
    }
}

/// A REQ socket.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let mut greeting = [0; 64];
        (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
        greeting[12..16].copy_from_slice(b"NULL");
        stream.write_all(&greeting).expect("sent");
        stream.read_exact(&mut greeting).expect("a greeting");
        stream.write_all(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ").expect("sent");
        let mut client = Client(stream);
        let (flags, ready) = client.frame();
        assert!(flags & 4 != 0 && ready.starts_with(b"\x05READY"), "{ready:?}");
        client
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let length = match head[0] & 2 {
            0 => usize::from(head[1]),
            _ => {
                let mut length = [0; 8];
                length[0] = head[1];
                self.0.read_exact(&mut length[1..]).expect("a length");
                u64::from_be_bytes(length) as usize
            }
        };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (head[0], body)
    }

    fn send(&mut self, body: &[u8]) {
        let mut bytes = vec![1, 0, 2];
        bytes.extend((body.len() as u64).to_be_bytes());
        bytes.extend(body);
        self.0.write_all(&bytes).expect("sent");
    }

    fn receive(&mut self) -> Vec<u8> {
        assert_eq!(self.frame(), (1, Vec::new()));
        self.frame().1
    }

    fn ask(&mut self, body: &[u8]) -> Vec<u8> {
        self.send(body);
        self.receive()
    }

    #[track_caller]
    fn refused(&mut self, body: &[u8], words: &str) {
        let reply = self.ask(body);
        let value = read(&reply).expect("msgpack");
        let error = value.get("error").and_then(Value::text).unwrap_or_default();
        assert!(error.contains(words), "{value:?}");
    }
}

fn endpoint(name: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(1);
    writer.str("endpoint");
    writer.str(name);
    writer.into_bytes()
}

fn write_u8(writer: &mut Writer, shape: &[usize], values: &[u8]) {
    writer.map(4);
    writer.bin(b"nd");
    writer.bool(true);
    writer.bin(b"type");
    writer.str("|u1");
    writer.bin(b"shape");
    writer.list(shape.len());
    shape.iter().for_each(|size| writer.int(*size as i64));
    writer.bin(b"data");
    writer.bin(values);
}

/// A request for actions: nested and batched, in msgpack-numpy's dialect, with `options` that write themselves.
fn get_action(observations: &[Observation], options: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let count = observations.len();
    let first = &observations[0];
    let mut writer = Writer::default();
    writer.map(2);
    writer.str("endpoint");
    writer.str("get_action");
    writer.str("data");
    writer.map(2);
    writer.str("observation");
    writer.map(3);
    writer.str("video");
    writer.map(first.images.len());
    for (view, frames) in &first.images {
        let rgb: Vec<u8> =
            observations.iter().flat_map(|o| &o.images[view]).flat_map(|i| i.rgb.clone()).collect();
        writer.str(view);
        write_u8(&mut writer, &[count, frames.len(), frames[0].height, frames[0].width, 3], &rgb);
    }
    writer.str("state");
    writer.map(first.state.len());
    for (group, rows) in &first.state {
        let values: Vec<f32> = observations.iter().flat_map(|o| o.state[group].data.clone()).collect();
        writer.str(group);
        write_f32(&mut writer, Dialect::MsgpackNumpy, &[count, rows.rows, rows.cols], &values);
    }
    writer.str("language");
    writer.map(1);
    writer.str(&session().parts.processor.modalities().language.modality_keys[0]);
    writer.list(count);
    for observation in observations {
        writer.list(1);
        writer.str(&observation.instruction);
    }
    writer.str("options");
    options(&mut writer);
    writer.into_bytes()
}

/// Whether a reply has the actions of these chunks, bit for bit.
#[track_caller]
fn has_actions(reply: &[u8], chunks: &[ActionChunk]) {
    let value = read(reply).expect("msgpack");
    let Value::Array(pair) = &value else { panic!("{value:?}") };
    for (place, (group, first)) in chunks[0].groups.iter().enumerate() {
        let array = pair[0].get(group).expect("the group");
        let expected: Vec<f32> = chunks.iter().flat_map(|chunk| chunk.groups[place].1.data.clone()).collect();
        let mut writer = Writer::default();
        write_f32(&mut writer, Dialect::MsgpackNumpy, &[chunks.len(), first.rows, first.cols], &expected);
        assert_eq!(&read(&writer.into_bytes()).expect("msgpack"), array, "{group}");
    }
}

#[test]
fn actions_are_those_of_a_policy_of_ones_own() {
    let running = Running::start(|_| {});
    let observations: Vec<Observation> = (0..3).map(|seed| running.session.random(seed)).collect();
    let mut own = policy(&running.session);
    let mut client = running.client();
    let nil = |writer: &mut Writer| writer.nil();
    has_actions(&client.ask(&get_action(&observations, nil)), &own.act_batch(&observations).expect("acts"));
    // Another client, and what fails, move nothing.
    let alone = &observations[..1];
    has_actions(
        &running.client().ask(&get_action(alone, nil)),
        &policy(&running.session).act_batch(alone).expect("acts"),
    );
    client.refused(&endpoint("get_action"), "observation: expected a map, found none");
    has_actions(&client.ask(&get_action(alone, nil)), &own.act_batch(alone).expect("acts"));
    // A reset begins the next episode, named noise is nobody's own.
    client.ask(&endpoint("reset"));
    own.start_episode(1);
    let named = |writer: &mut Writer| {
        writer.map(2);
        writer.str("seed");
        writer.int(SEED as i64);
        writer.str("episode");
        writer.int(1);
    };
    let expected = own.act_batch(alone).expect("acts");
    has_actions(&client.ask(&get_action(alone, named)), &expected);
    has_actions(&client.ask(&get_action(alone, nil)), &expected);
}

#[test]
fn ten_thousand_bad_requests_and_then_a_good_one() {
    let running = Running::start(|_| {});
    let alone = [running.session.random(1)];
    let good = get_action(&alone, |writer| writer.nil());
    let mut client = running.client();
    let mut state = 1u64;
    for round in 0..10_000 {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        // The last byte is the options' nil; without it no request is whole.
        let bad = match round % 4 {
            0 => (0..next() % 64).map(|_| next() as u8 | 0xc1).collect(),
            1 => good[..next() % good.len().min(3000)].to_vec(),
            2 => endpoint(&format!("endpoint {}", next())),
            _ => [&[0xdd, 0x7f][..], &[next() as u8; 3]].concat(),
        };
        let reply = client.ask(&bad);
        assert!(read(&reply).expect("msgpack").get("error").is_some(), "{bad:?}");
    }
    has_actions(&client.ask(&good), &policy(&running.session).act_batch(&alone).expect("acts"));
}

#[test]
fn what_breaks_the_protocol_ends_one_connection_only() {
    let running = Running::start(|_| {});
    let mut client = running.client();
    // A body of 1 GiB is refused by what it claims.
    let mut huge = running.client();
    huge.0.write_all(b"\x01\x00\x02\x00\x00\x00\x00\x40\x00\x00\x00").expect("sent");
    let reply = huge.receive();
    let value = read(&reply).expect("msgpack");
    assert!(
        value.get("error").and_then(Value::text).expect("an error").contains("found 1073741824"),
        "{value:?}"
    );
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0; 64]] {
        let mut stream = TcpStream::connect(running.address).expect("connects");
        stream.write_all(bytes).expect("sent");
    }
    for bytes in
        [&b"\x00\x05hello"[..], b"\x01\x01a\x01\x01b\x40\x00", b"\x02\xff\xff\xff\xff\xff\xff\xff\xff"]
    {
        let mut broken = running.client();
        broken.0.write_all(bytes).expect("sent");
        let mut rest = Vec::new();
        let _ = broken.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    // Clients that leave in the middle of a message or without taking their reply.
    let good = get_action(&[running.session.random(1)], |writer| writer.nil());
    running.client().0.write_all(&good[..100]).expect("sent");
    running.client().send(&good);
    assert!(read(&client.ask(&endpoint("ping"))).expect("msgpack").get("status").is_some());
    // A heartbeat is answered with its context.
    client.0.write_all(b"\x04\x0a\x04PING\x00\x00abc").expect("sent");
    assert_eq!(client.frame(), (6, b"\x04PONGabc".to_vec()));
}

#[test]
fn late_requests_are_told_so_and_move_nothing() {
    let running = Running::start(|_| {});
    let alone = [running.session.random(1)];
    let deadline = |ms: f64| {
        move |writer: &mut Writer| {
            writer.map(1);
            writer.str("deadline_ms");
            writer.float(ms);
        }
    };
    let mut client = running.client();
    let reply = client.ask(&get_action(&alone, deadline(0.0)));
    assert_eq!(read(&reply).expect("msgpack").get("late"), Some(&Value::Bool(true)));
    client.refused(&get_action(&alone, deadline(-1.0)), "options.deadline_ms: expected a number from 0 on");
    client.refused(&get_action(&alone, deadline(f64::NAN)), "options.deadline_ms");
    let expected = policy(&running.session).act_batch(&alone).expect("acts");
    has_actions(&client.ask(&get_action(&alone, deadline(60_000.0))), &expected);
    assert!(
        running.page("/metrics").contains("steadyhand_deadlines_missed_total{model=\"new_embodiment\"} 1\n")
    );
}

#[test]
fn chunks_go_on_from_those_before() {
    let running = Running::start(|_| {});
    let alone = [running.session.random(1)];
    let rtc = |frozen: i64| {
        move |writer: &mut Writer| {
            writer.map(1);
            writer.str("rtc");
            writer.map(2);
            writer.str("overlap_steps");
            writer.int(4);
            writer.str("frozen_steps");
            writer.int(frozen);
        }
    };
    let group = |reply: &[u8]| -> Vec<f32> {
        let value = read(reply).expect("msgpack");
        let Value::Array(pair) = &value else { panic!("{value:?}") };
        let (_, array) = &pair[0].entries().expect("groups")[0];
        crate::wire::Array::of(array, "x").expect("fits").expect("an array").floats().expect("numbers")
    };
    let mut client = running.client();
    let first = group(&client.ask(&get_action(&alone, rtc(4))));
    // Without actions before, the first chunk is one like any other.
    assert_eq!(first, policy(&running.session).act(&alone[0]).expect("acts").groups[0].1.data);
    let second = group(&client.ask(&get_action(&alone, rtc(4))));
    let cols = second.len() / running.session.parts.processor.action_horizon();
    // Frozen steps are the end of the chunk before, but for what normalizing and back costs.
    let (end, start) = (&first[first.len() - 4 * cols..], &second[..4 * cols]);
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
    assert!(end.iter().zip(start).all(near), "{end:?}\n{start:?}");
    client.refused(&get_action(&alone, rtc(5)), "rtc.frozen_steps: expected at most 4");
}

#[test]
fn tokens_kill_and_pages() {
    let running = Running::start(|config| config.api_token = Some("secret".to_owned()));
    let mut client = running.client();
    client.refused(&endpoint("ping"), "Unauthorized");
    let mut writer = Writer::default();
    writer.map(2);
    for (key, value) in [("endpoint", "kill"), ("api_token", "secret")] {
        writer.str(key);
        writer.str(value);
    }
    client.refused(&writer.into_bytes(), "--allow-kill");
    assert!(running.page("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(running.page("/readyz?x=1").ends_with("ready\n"));
    assert!(running.page("/info").contains("\"checkpoint\": \"synth:tiny\""));
    assert!(running.page("/metrics").contains("steadyhand_requests_total{result=\"unauthorized\"} 1\n"));
    assert!(running.page("/other").starts_with("HTTP/1.1 404"));
    drop(running);

    let mut running = Running::start(|config| config.allow_kill = true);
    assert_eq!(running.client().ask(&endpoint("kill")), [0xc0]);
    assert!(matches!(running.thread.take().map(JoinHandle::join), Some(Ok(Ok(())))));
    running.thread = Some(std::thread::spawn(|| Ok(())));
}

#[test]
fn what_was_asked_before_the_end_is_answered() {
    let running = Running::start(|_| {});
    let observations: Vec<Observation> = (0..4).map(|seed| running.session.random(seed)).collect();
    let mut client = running.client();
    client.send(&get_action(&observations, |writer| writer.nil()));
    while !running
        .page("/metrics")
        .contains("steadyhand_stage_seconds_count{stage=\"read\",model=\"new_embodiment\"} 1\n")
    {
        std::thread::yield_now();
    }
    let expected = policy(&running.session).act_batch(&observations).expect("acts");
    drop(running);
    has_actions(&client.receive(), &expected);
}

#[test]
fn more_clients_than_allowed_are_let_go() {
    let running = Running::start(|config| config.max_clients = 1);
    let mut client = running.client();
    let mut other = TcpStream::connect(running.address).expect("connects");
    assert_eq!(other.read(&mut [0; 1]).expect("closed"), 0);
    assert!(read(&client.ask(&endpoint("ping"))).expect("msgpack").get("status").is_some());
}
