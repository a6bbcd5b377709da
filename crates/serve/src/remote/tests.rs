//! Servers that let clients go, say nothing, or answer one way of asking alone.

use super::{Access, Address, Asking, Remote};
use crate::options::Noise;
use crate::reply;
use crate::request::Request;
use crate::wire::{Dialect, Writer, read};
use crate::zmtp;
use proptest::prelude::*;
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use steadyhand_gr00t::processor::EmbodimentModalities;
use steadyhand_gr00t::session::{Options, Session};
use steadyhand_gr00t::{ActionChunk, Matrix};

/// What a server does with a request.
enum Act {
    Answer(Vec<u8>),
    /// Closes the connection after the answer.
    AnswerAndLeave(Vec<u8>),
    SayNothing,
}

/// A server of so many connections; `act` is told how many requests there were before.
fn server(
    connections: usize,
    act: impl Fn(usize, &Request) -> Act + Send + 'static,
) -> (Address, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address =
        Address { host: "127.0.0.1".to_owned(), port: listener.local_addr().expect("an address").port() };
    let thread = std::thread::spawn(move || {
        let mut requests = 0;
        for stream in listener.incoming().take(connections) {
            let (mut reader, writer) =
                zmtp::accept(stream.expect("a client"), 1 << 24).expect("shakes hands");
            while let Ok(message) = reader.next(&writer, Vec::new) {
                let request = Request::read(&message.body, None).expect("a request");
                let done = act(requests, &request);
                requests += 1;
                match done {
                    Act::Answer(reply) => writer.send(&message.envelope, &reply).expect("sent"),
                    Act::AnswerAndLeave(reply) => {
                        writer.send(&message.envelope, &reply).expect("sent");
                        writer.close();
                        break;
                    }
                    Act::SayNothing => {}
                }
            }
        }
        requests
    });
    (address, thread)
}

fn session() -> Session {
    Session::open("synth:tiny", &Options { seed: 3, ..Options::default() }).expect("opens")
}

/// A chunk of the modalities' groups, and how it is answered.
fn answer(modalities: &EmbodimentModalities, noise: Noise) -> Vec<u8> {
    let rows = modalities.action.delta_indices.len();
    let matrix = || Matrix { rows, cols: 2, data: vec![0.5; 2 * rows] };
    let groups = modalities.action.modality_keys.iter().map(|key| (key.clone(), matrix())).collect();
    let info = reply::Info {
        model: "m",
        noise,
        at: Instant::now(),
        inference: Duration::ZERO,
        batch: 1,
        rtc: false,
        ignored: &[],
    };
    let form = crate::Form { batched: true, flat: false };
    reply::actions(&[ActionChunk { groups }], form, Dialect::MsgpackNumpy, &info)
}

const NOISE: Noise = Noise { seed: 1, episode: 2, inference: 3 };

#[test]
fn a_client_that_was_let_go_comes_back() {
    let session = session();
    let modalities = session.parts.processor.modalities().clone();
    let own = modalities.clone();
    let (address, served) = server(3, move |before, _| match before {
        0 => Act::AnswerAndLeave(reply::modality_config(&own)),
        1 => Act::AnswerAndLeave(reply::reset(2, &[])),
        _ => Act::AnswerAndLeave(answer(&own, NOISE)),
    });
    let mut remote = Remote::open(address, Access::default(), None).expect("opens");
    remote.reset(2).expect("a reset");
    let asking = Asking { noise: Some(NOISE), rtc: None };
    let given = remote.ask(&session.random(1), &asking).expect("actions");
    assert_eq!((given.noise, given.rtc), (Some(NOISE), false));
    assert_eq!(given.chunk.groups.len(), modalities.action.modality_keys.len());
    assert_eq!(served.join().expect("served"), 3);
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let (address, served) = server(1, |_, _| Act::SayNothing);
    let error = Remote::open(
        address.clone(),
        Access { patience: Duration::from_millis(50), ..Access::default() },
        None,
    )
    .err()
    .expect("refused");
    let expected = format!("{address}: get_modality_config: expected a reply within 0.05 s, found none");
    assert_eq!(error.to_string(), expected);
    assert_eq!(served.join().expect("served"), 1);
}

/// Ways of asking are tried in order, and the one that is understood is kept.
#[test]
fn the_way_that_a_server_takes_is_found_and_kept() {
    let session = session();
    let modalities = session.parts.processor.modalities().clone();
    let (address, served) = server(1, move |before, request| {
        if before == 0 {
            return Act::Answer(reply::modality_config(&modalities));
        }
        let observation = request.data.get("observation").expect("an observation");
        let flat = observation.get("video").is_none();
        match (request.dialect, flat) {
            (Some(Dialect::MsgpackNumpy), false) => Act::Answer(answer(&modalities, NOISE)),
            _ => Act::Answer(reply::error(&crate::Error::field("video", "what is this?"))),
        }
    });
    let mut remote = Remote::open(address, Access::default(), None).expect("opens");
    for _ in 0..2 {
        remote.ask(&session.random(1), &Asking::default()).expect("actions");
    }
    drop(remote);
    // Modalities, three ways of the first observation, one of the second.
    assert_eq!(served.join().expect("served"), 5);
}

#[test]
fn what_a_server_refuses_in_every_way_is_told_once() {
    let session = session();
    let modalities = session.parts.processor.modalities().clone();
    let (address, served) = server(1, move |before, _| match before {
        0 => Act::Answer(reply::modality_config(&modalities)),
        _ => Act::Answer(reply::error(&crate::Error::field("state", "no"))),
    });
    let mut remote = Remote::open(address.clone(), Access::default(), None).expect("opens");
    let error = remote.ask(&session.random(1), &Asking::default()).expect_err("refused").to_string();
    assert_eq!(
        error,
        format!("{address}: get_action: the server answers: to nested keys and .npy arrays: state: no")
    );
    drop(remote);
    assert_eq!(served.join().expect("served"), 5);
}

/// Requests are understood by the server's own reader, and modalities come back as they were.
#[test]
fn modalities_survive_the_way() {
    let session = session();
    let modalities = session.parts.processor.modalities();
    let bytes = reply::modality_config(modalities);
    let found = super::modalities::read(&read(&bytes).expect("msgpack")).expect("modalities");
    assert!(super::modalities::difference(modalities, &found).is_none());
    let mut other = found.clone();
    other.action.delta_indices.pop();
    let (field, expected, found) = super::modalities::difference(&found, &other).expect("a difference");
    assert!(field == "action.delta_indices" && expected.len() > found.len(), "{field} {expected} {found}");
    // JSON in a text, as older servers write it.
    let mut writer = Writer::default();
    writer.map(1);
    writer.str("video");
    writer.map(1);
    writer.str("as_json");
    writer.str("{\"modality_keys\": []");
    let broken = writer.into_bytes();
    let (field, what) = super::modalities::read(&read(&broken).expect("msgpack")).expect_err("refused");
    assert_eq!(
        (field.as_str(), what.as_str()),
        ("video", "expected a map or JSON of one, found another value")
    );
}

proptest! {
    /// Whatever a server answers, it is read or refused.
    #[test]
    fn no_reply_makes_a_client_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..200), place in any::<usize>(), byte in any::<u8>(), cut in any::<usize>()
    ) {
        let session = session();
        let modalities = session.parts.processor.modalities();
        let mut damaged = answer(modalities, NOISE);
        let mut config = reply::modality_config(modalities);
        for bytes in [&mut damaged, &mut config] {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        let cut = &damaged[..cut % damaged.len()];
        for bytes in [&noise[..], &damaged, cut, &config] {
            let _ = (super::replies::error_of(bytes), super::replies::actions(bytes, modalities).is_ok());
            if let Ok(value) = read(bytes) {
                let _ = super::modalities::read(&value);
            }
        }
    }
}
