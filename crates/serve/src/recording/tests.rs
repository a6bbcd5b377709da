//! A server that records, and what is read of it.

use super::{Record, Recording};
use crate::metrics::Metrics;
use crate::remote::{Access, Address, Asking, Continue, Remote};
use crate::{Config, Deployment, Noise, Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::engine::{Reference, one};
use steadyhand_gr00t::session::{Options, Session};

/// What was told, by all tests together: names of folders tell them apart.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// Serves the smallest policy while `robot` asks it, recording into `folder` up to `limit` bytes.
fn recorded(folder: &Path, limit: u64, robot: impl FnOnce(&Session, &mut Remote)) -> Session {
    let session = Session::open("synth:tiny", &Options { seed: 3, ..Options::default() }).expect("opens");
    let policy = session.parts.policy(&Reference, "f32", 2, 7).expect("opens");
    let config = Config {
        address: ([127, 0, 0, 1], 0).into(),
        openpi: None,
        http: None,
        api_token: None,
        allow_kill: false,
        max_batch: 2,
        max_wait: Duration::ZERO,
        max_message: 1 << 20,
        max_clients: 4,
        info: serde_json::Map::new(),
        tell: |_| {},
    };
    let mut deployment = Deployment::from(policy);
    deployment.models[0].record = Some(Record {
        folder: folder.to_path_buf(),
        limit,
        fingerprint: "weights".to_owned(),
        metadata: BTreeMap::new(),
        tell: |what| {
            assert!(what.starts_with("record: "), "{what}");
            TOLD.fetch_add(1, Ordering::AcqRel);
        },
    });
    let server = Server::bind(vec![deployment], config).expect("listens");
    let address = server.address().expect("an address");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let thread = std::thread::spawn(move || server.run(|| told.load(Ordering::Acquire)));
    let address = Address { host: address.ip().to_string(), port: address.port() };
    let mut remote = Remote::open(address, Access::default(), None).expect("opens");
    robot(&session, &mut remote);
    drop(remote);
    stop.store(true, Ordering::Release);
    thread.join().expect("no panic").expect("a gentle end");
    session
}

fn open(folder: &Path) -> Recording {
    let trace = Trace::open(folder).expect("a trace");
    Recording::of(Rc::new(trace)).expect("a recording")
}

const NOISE: Noise = Noise { seed: u64::MAX, episode: 2, inference: 3 };

/// The engine, shown again what was recorded, gives the same bits, also where it went on from a chunk before.
#[test]
fn what_was_recorded_gives_the_same_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("recording");
    let mut given = Vec::new();
    let session = recorded(&folder, 1 << 30, |session, remote| {
        let first =
            remote.ask(&session.random(1), &Asking { noise: Some(NOISE), rtc: None }).expect("actions");
        let rtc = Some(Continue {
            previous: first.chunk.clone(),
            overlap_steps: 8,
            frozen_steps: 3,
            ramp_rate: 6.0,
        });
        let second = remote.ask(&session.random(2), &Asking { noise: None, rtc }).expect("actions");
        assert!(second.rtc && !first.rtc);
        given = vec![first, second];
    });
    let recording = open(&folder);
    assert_eq!((recording.len(), recording.fingerprint()), (2, "weights"));
    let processor = &session.parts.processor;
    assert_eq!(recording.embodiment_tag(), processor.embodiment_tag());
    let mut engine = session.parts.engine(&Reference, "f32", 2).expect("opens");
    for (index, given) in given.iter().enumerate() {
        let recorded = recording.get(index, processor.modalities()).expect("whole");
        assert_eq!(recorded.observation.images, session.random(index as u64 + 1).images);
        assert_eq!(Some(recorded.noise_of), given.noise);
        assert_eq!(recorded.rtc.is_some(), index == 1);
        let input = recorded.input(processor).expect("fits");
        assert_eq!(one(engine.infer(&[input], None).expect("runs")).expect("one"), recorded.actions);
        assert_eq!(recorded.chunk, given.chunk);
    }
    assert_eq!(recording.get(0, processor.modalities()).expect("whole").noise_of, NOISE);
}

/// Everyone is still answered when the limit is reached or the folder is gone, and it is told once.
#[test]
fn a_recording_ends_and_the_server_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (small, gone) = (folder.path().join("small"), folder.path().join("gone"));
    let ask = |session: &Session, remote: &mut Remote| {
        remote.ask(&session.random(1), &Asking::default()).expect("actions");
    };
    // Room for two of five.
    let session = Session::open("synth:tiny", &Options::default()).expect("opens");
    let frames = session.random(1).images.into_values().flatten();
    let limit = 5 * frames.map(|frame| frame.rgb.len() as u64).sum::<u64>() / 2 + (64 << 10);
    recorded(&small, limit, |session, remote| (0..5).for_each(|_| ask(session, remote)));
    let count = open(&small).len();
    assert!((1..5).contains(&count), "{count}");
    assert_eq!(TOLD.load(Ordering::Acquire), 1);
    recorded(&gone, 1 << 30, |session, remote| {
        std::fs::remove_dir_all(&gone).expect("removed");
        (0..3).for_each(|_| ask(session, remote));
    });
    assert_eq!(TOLD.load(Ordering::Acquire), 2);
    let on_disk: u64 = std::fs::read_dir(&small)
        .expect("a folder")
        .map(|entry| entry.and_then(|entry| entry.metadata()).expect("a file").len())
        .sum();
    assert!(on_disk <= limit, "{on_disk} of {limit}");
}

/// A folder with a trace in it is no place for another.
#[test]
fn what_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording");
    recorded(&path, 1 << 30, |_, _| {});
    assert!(Trace::open(&path).expect_err("nothing was asked").to_string().contains("complete"));
    let session = Session::open("synth:tiny", &Options::default()).expect("opens");
    let record = Record {
        folder: path,
        limit: 1,
        fingerprint: String::new(),
        metadata: BTreeMap::new(),
        tell: |_| {},
    };
    let metrics = Arc::new(Metrics::new("model"));
    let shape = session.parts.noise_shape();
    let refused = super::Recorder::start(record, "tag", shape, metrics).err().expect("refused").to_string();
    assert!(refused.contains("no trace in it yet"), "{refused}");
}
