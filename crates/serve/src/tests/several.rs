//! Several engines behind one queue, and several models in one server.

use super::*;
use crate::{Access, Address, Asking, Model, Noise, Placed, Remote};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t::{Error, Matrix, Result};

/// Something that happens before the reference computes.
type Before = Box<dyn FnMut() -> Result<()> + Send>;

/// The reference, and what happens before it.
struct Held {
    engine: Box<dyn Engine + Send>,
    before: Before,
}

impl Engine for Held {
    fn name(&self) -> &str {
        "held"
    }

    fn precision(&self) -> &PrecisionPolicy {
        self.engine.precision()
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        (self.before)()?;
        self.engine.infer(inputs, probe)
    }
}

/// The session's policy on an engine for each of these.
fn held(session: &Session, before: Vec<Before>) -> Deployment {
    let engine = || session.parts.engine(&Reference, "f32", 2).expect("opens");
    let engines = before.into_iter().enumerate().map(|(place, before)| Placed {
        engine: Box::new(Held { engine: engine(), before }),
        device: format!("place {place}"),
    });
    Deployment { engines: engines.collect(), ..policy(session).into() }
}

fn nil(writer: &mut Writer) {
    writer.nil();
}

/// The noise of an inference of episode 0.
fn at(inference: i64) -> impl FnOnce(&mut Writer) {
    move |writer| {
        writer.map(2);
        writer.str("seed");
        writer.int(SEED as i64);
        writer.str("inference");
        writer.int(inference);
    }
}

#[test]
fn two_engines_answer_from_one_queue_with_the_same_bits() {
    let session = session();
    // Each engine waits for the other one to have a request too: one alone would never answer.
    let both = Arc::new(Barrier::new(2));
    let waits = || -> Before {
        let both = Arc::clone(&both);
        Box::new(move || {
            both.wait();
            Ok(())
        })
    };
    let deployment = held(&session, vec![waits(), waits()]);
    let running = Running::deploy(session, vec![deployment], |config| config.max_batch = 1);
    let observations: Vec<Observation> = (0..4).map(|seed| running.session.random(seed)).collect();
    let expected: Vec<_> = {
        let mut own = policy(&running.session);
        observations.iter().map(|observation| own.act_batch(&[observation]).expect("acts")).collect()
    };
    // Two robots that ask ahead, for the same.
    let mut robots = [running.client(), running.client()];
    for observation in &observations {
        let request = get_action(std::slice::from_ref(observation), nil);
        robots.iter_mut().for_each(|robot| robot.send(&request));
    }
    for robot in &mut robots {
        expected.iter().for_each(|chunks| has_actions(&robot.receive(), chunks));
    }
    let page = running.page("/metrics");
    for engine in 0..2 {
        let line = format!(
            "steadyhand_engine_seconds_count{{engine=\"{engine}\",device=\"place {engine}\",\
             checkpoint=\"new_embodiment\"}} 4"
        );
        assert!(page.contains(&line), "{line}\n{page}");
    }
}

#[test]
fn what_an_engine_fails_is_answered_with_its_error_and_the_others_go_on() {
    let session = session();
    // Engine 0 computes one request and fails from then on; engine 1 computes only what the other one leaves.
    let (computed, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let fails = Box::new({
        let failed = Arc::clone(&failed);
        move || match computed.fetch_add(1, Ordering::AcqRel) {
            0 => Ok(()),
            _ => {
                failed.store(true, Ordering::Release);
                Err(Error::engine("the device fell off the bus"))
            }
        }
    });
    let waits = Box::new(move || {
        while !failed.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(())
    });
    let deployment = held(&session, vec![fails, waits]);
    let running = Running::deploy(session, vec![deployment], |config| config.max_batch = 1);
    let alone = [running.session.random(1)];
    let expected = policy(&running.session).act_batch(&alone).expect("acts");
    let good = get_action(&alone, at(0));
    let mut clients: Vec<Client> = (0..4).map(|_| running.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&good));
    let replies: Vec<Vec<u8>> = clients.iter_mut().map(Client::receive).collect();
    let errors: Vec<_> =
        replies.iter().filter(|reply| read(reply).expect("msgpack").entries().is_some()).collect();
    assert_eq!(errors.len(), 1);
    let error = read(errors[0]).expect("msgpack");
    assert_eq!(error.get("error").and_then(Value::text), Some("observation 0: the device fell off the bus"));
    let actions = replies.iter().filter(|reply| read(reply).expect("msgpack").entries().is_none());
    actions.for_each(|reply| has_actions(reply, &expected));
    for _ in 0..3 {
        has_actions(&clients[0].ask(&good), &expected);
    }
    let page = running.page("/healthz");
    assert!(page.contains("engine 0 on place 0: down\nengine 1 on place 1: up\n"), "{page}");
    assert!(running.page("/readyz").ends_with("ready\n"));
    assert!(running.page("/info").contains("\"up\": false"));
    assert!(running.page("/metrics").contains("steadyhand_engine_up{engine=\"0\",device=\"place 0\""));
}

#[test]
fn an_engine_that_panics_loses_its_own_request_only() {
    let session = session();
    let deployment = held(&session, vec![Box::new(|| panic!("a defect")), Box::new(|| Ok(()))]);
    let mut running = Running::deploy(session, vec![deployment], |config| config.max_batch = 1);
    let alone = [running.session.random(1)];
    let good = get_action(&alone, at(0));
    let mut client = running.client();
    let mut lost = 0;
    while running.page("/healthz").contains("engine 0 on place 0: up") {
        let reply = client.ask(&good);
        lost += usize::from(read(&reply).expect("msgpack").get("error").is_some());
    }
    assert_eq!(lost, 1);
    has_actions(&client.ask(&good), &policy(&running.session).act_batch(&alone).expect("acts"));
    running.stop.store(true, Ordering::Release);
    drop(client);
    // A defect is told at the end.
    let ended = running.thread.take().map(JoinHandle::join);
    assert!(matches!(ended, Some(Ok(Err(crate::Error::EngineEnded)))), "{ended:?}");
    running.thread = Some(std::thread::spawn(|| Ok(())));
}

/// Another checkpoint than [`session`]'s.
fn other_session() -> Session {
    Session::open("synth:tiny", &Options { seed: 4, ..Options::default() }).expect("opens")
}

/// A model of this name.
fn named(name: &str, session: &Session) -> Model {
    let Deployment { models, .. } = policy(session).into();
    let model = models.into_iter().next().expect("one");
    Model { name: name.to_owned(), ..model }
}

fn picking(endpoint: &str, options: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.map(2);
    writer.str("endpoint");
    writer.str(endpoint);
    writer.str("data");
    writer.map(1);
    writer.str("options");
    options(&mut writer);
    writer.into_bytes()
}

fn texts(pairs: &'static [(&str, &str)]) -> impl Fn(&mut Writer) {
    move |writer| {
        writer.map(pairs.len());
        for (key, value) in pairs {
            writer.str(key);
            writer.str(value);
        }
    }
}

#[test]
fn clients_pick_a_model_and_each_has_its_own_noise() {
    let (session, other) = (session(), other_session());
    let first = Deployment {
        models: vec![named("left", &session), named("twin", &session)],
        checkpoint: "one".to_owned(),
        ..policy(&session).into()
    };
    let second = Deployment {
        models: vec![named("right", &other)],
        checkpoint: "two".to_owned(),
        ..policy(&other).into()
    };
    let running = Running::deploy(session, vec![first, second], |_| {});
    let alone = [running.session.random(1)];
    let (mut left, mut twin, mut right) =
        (policy(&running.session), policy(&running.session), policy(&other));
    let next = |policy: &mut Policy| policy.act_batch(&alone).expect("acts");
    let mut client = running.client();
    let model = |name: &'static str| {
        move |writer: &mut Writer| {
            writer.map(1);
            writer.str("model");
            writer.str(name);
        }
    };
    has_actions(&client.ask(&get_action(&alone, nil)), &next(&mut left));
    has_actions(&client.ask(&get_action(&alone, model("right"))), &next(&mut right));
    has_actions(&client.ask(&get_action(&alone, nil)), &next(&mut left));
    let reply = client.ask(&get_action(&alone, model("twin")));
    has_actions(&reply, &next(&mut twin));
    let value = read(&reply).expect("msgpack");
    let Value::Array(pair) = &value else { panic!("{value:?}") };
    assert_eq!(pair[1].get("model").and_then(Value::text), Some("twin"));
    assert!(pair[1].get("ignored_options").is_none());
    // From a reset that names one on it is the client's; another client still has the first.
    client.ask(&picking("reset", texts(&[("model", "right")])));
    right.start_episode(1);
    has_actions(&client.ask(&get_action(&alone, nil)), &next(&mut right));
    has_actions(&running.client().ask(&get_action(&alone, nil)), &next(&mut policy(&running.session)));
    // An embodiment that the client's model has is not looked for elsewhere.
    let tag = texts(&[("embodiment_tag", "new_embodiment")]);
    has_actions(&client.ask(&get_action(&alone, tag)), &next(&mut right));
    let config = client.ask(&picking("get_modality_config", texts(&[("model", "left")])));
    assert!(read(&config).expect("msgpack").get("video").is_some());
    client.refused(
        &get_action(&alone, texts(&[("model", "middle")])),
        "options.model: expected one of left (new_embodiment), twin (new_embodiment), right (new_embodiment)",
    );
    client.refused(
        &picking("reset", texts(&[("embodiment_tag", "gr1")])),
        "options.embodiment_tag: expected one of",
    );
    let number = |writer: &mut Writer| {
        writer.map(1);
        writer.str("model");
        writer.int(1);
    };
    client.refused(&picking("get_modality_config", number), "options.model: expected text");
    let page = running.page("/metrics");
    for line in [
        "steadyhand_requests_total{result=\"actions\",model=\"left\"} 3\n",
        "steadyhand_requests_total{result=\"actions\",model=\"right\"} 3\n",
        "steadyhand_requests_total{result=\"actions\",model=\"twin\"} 1\n",
        "steadyhand_requests_total{result=\"error\"} 3\n",
        "steadyhand_stage_seconds_count{stage=\"total\",model=\"right\"} 3\n",
        // One engine computes both models of its checkpoint.
        "steadyhand_engine_seconds_count{engine=\"0\",device=\"cpu\",checkpoint=\"one\"} 4\n",
        "steadyhand_engine_seconds_count{engine=\"1\",device=\"cpu\",checkpoint=\"two\"} 3\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
}

/// The other end of the protocol asks one of several models in every request, also on a connection that is new.
#[test]
fn a_remote_policy_is_the_model_that_is_named() {
    let (session, other) = (session(), other_session());
    let models = |name, session| Deployment {
        models: vec![named(name, session)],
        checkpoint: name.to_owned(),
        ..policy(session).into()
    };
    let deployments = vec![models("left", &session), models("right", &other)];
    let running = Running::deploy(session, deployments, |_| {});
    let open = |model: Option<&str>| {
        let address = Address { host: running.address.ip().to_string(), port: running.address.port() };
        let access = Access { model: model.map(str::to_owned), ..Access::default() };
        Remote::open(address, access, None)
    };
    let seen = running.session.random(1);
    let noise = Noise { seed: SEED, episode: 0, inference: 0 };
    let asking = Asking { noise: Some(noise), rtc: None };
    for (model, expected) in [(None, &running.session), (Some("right"), &other)] {
        let mut remote = open(model).expect("opens");
        let chunk = policy(expected).act_batch(std::slice::from_ref(&seen)).expect("acts").remove(0);
        assert_eq!(remote.ask(&seen, &asking).expect("actions").chunk, chunk, "{model:?}");
        remote.reset(3).expect("a reset");
        assert!(remote.precision().expect("a reply").is_some());
        assert_eq!(remote.ask(&seen, &asking).expect("actions").chunk, chunk, "{model:?} behind a reset");
    }
    let error = open(Some("middle")).err().expect("refused").to_string();
    assert!(error.contains("options.model: expected one of left"), "{error}");
}

#[test]
fn models_without_engines_and_names_given_twice_are_refused() {
    let session = session();
    let config = || Config {
        address: ([127, 0, 0, 1], 0).into(),
        openpi: None,
        http: None,
        api_token: None,
        allow_kill: false,
        max_batch: 1,
        max_wait: Duration::ZERO,
        max_message: 1 << 20,
        max_clients: 1,
        info: serde_json::Map::new(),
        tell: |_| {},
    };
    let refused = |deployments| Server::bind(deployments, config()).err().expect("refused").to_string();
    assert_eq!(refused(Vec::new()), "models: expected at least one, found none");
    let without = Deployment { engines: Vec::new(), ..policy(&session).into() };
    assert!(refused(vec![without]).starts_with("engines: expected at least one for new_embodiment"));
    let twice = vec![policy(&session).into(), policy(&session).into()];
    assert_eq!(refused(twice), "models: expected each name once, found new_embodiment twice");
}
