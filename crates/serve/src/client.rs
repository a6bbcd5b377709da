//! One connected client: a thread that reads its messages, and one that answers them in order.

use crate::metrics::{Count, Metrics, Stage};
use crate::naming;
use crate::observation::{Form, MAX_SPARE, Observed, spare};
use crate::options::{Noise, Options, Pick, of_reset};
use crate::queue::{Answer, Ticket};
use crate::recording::Served;
use crate::reply::{self, Info};
use crate::request::{Endpoint, Request};
use crate::robot::{Asked, Robot, at_place};
use crate::server::Shared;
use crate::wire::{Dialect, Value};
use crate::zmtp::{self, Ended, Message};
use crate::{Error, Result};
use bytes::Bytes;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::{ActionChunk, Matrix};

/// A message with the time at which it was whole.
struct Received {
    message: Message,
    at: Instant,
}

/// The bytes of a message, in which frames stay, with the time at which they were whole.
#[derive(Clone, Copy)]
pub struct Body<'m> {
    /// The message.
    pub bytes: &'m Bytes,
    /// When the last of them was there.
    pub at: Instant,
}

/// Serves a client until it leaves or the server ends.
pub fn attend(shared: &Shared, stream: TcpStream) {
    let (mut reader, writer) = match zmtp::accept(stream, shared.config.max_message) {
        Ok(halves) => halves,
        Err(Ended::Left) => return,
        Err(_) => return shared.connections.dropped(),
    };
    let left = Arc::new(AtomicBool::new(false));
    // The reader stays one message ahead: what a peer sends beyond that waits in the network.
    let (send, receive) = sync_channel::<Received>(1);
    // The memory of a message that was answered, for the next one.
    let spare = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let _closes = Closes(&writer);
            let mut client = Client::new(shared, Arc::clone(&left));
            for Received { message: Message { envelope, body, parts }, at } in receive {
                let bytes = Bytes::from(body);
                let reply = client.answer(Body { bytes: &bytes, at }, parts);
                if writer.send(&envelope, &reply).is_err() {
                    left.store(true, Ordering::Release);
                    writer.close();
                }
                // Behind the reply: waking a thread may cost this one its core.
                client.after();
                // A recording may still have its frames.
                if bytes.len() <= MAX_SPARE && bytes.is_unique() {
                    *spare.lock().unwrap_or_else(PoisonError::into_inner) = bytes.into();
                }
            }
        });
        let ended = loop {
            let memory = || std::mem::take(&mut *spare.lock().unwrap_or_else(PoisonError::into_inner));
            let message = match reader.next(&writer, memory) {
                Ok(message) => message,
                Err(ended) => break ended,
            };
            if send.send(Received { message, at: Instant::now() }).is_err() {
                break Ended::Left;
            }
        };
        // While the server ends, the read half is closed from here, and what was asked before is still answered.
        left.store(!shared.is_stopping(), Ordering::Release);
        drop(send);
        let _ = answering.join();
        match ended {
            Ended::Left => {}
            Ended::Silent | Ended::Protocol(_) => shared.connections.dropped(),
            Ended::TooLarge { envelope, claimed } => {
                let most = shared.config.max_message;
                let what = format!("expected at most {most} bytes (--max-message-mib), found {claimed}");
                shared.connections.refused();
                let _ = writer.send(&envelope, &reply::error(&Error::Message(what)));
                reader.drain(claimed.min(8 * most as u64));
            }
        }
        writer.close();
    });
}

/// Ends the connection where answering panicked: the client would wait for ever otherwise.
struct Closes<'w>(&'w zmtp::Writer);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

/// Makes a reply of actions.
type Write<'w> = &'w dyn Fn(&[ActionChunk], Form, &Info) -> Vec<u8>;

/// What answers the messages of one client.
pub struct Client<'s> {
    shared: &'s Shared,
    /// What is kept of it for each model.
    robots: Vec<Robot>,
    /// The model that it has where it names none.
    picked: usize,
    /// That of the last request with arrays.
    dialect: Dialect,
    left: Arc<AtomicBool>,
    /// What was answered and is still to be recorded.
    answered: Vec<Served>,
    /// By which model.
    answered_by: usize,
    /// Model inputs of the request before, to be written over.
    spare: Vec<ModelInput>,
}

impl<'s> Client<'s> {
    /// A client that has said nothing yet; `left` is set when it leaves.
    pub fn new(shared: &'s Shared, left: Arc<AtomicBool>) -> Self {
        Client {
            shared,
            robots: shared.models.iter().map(|model| Robot::new(model.seed)).collect(),
            picked: 0,
            dialect: Dialect::default(),
            left,
            answered: Vec::new(),
            answered_by: 0,
            spare: Vec::new(),
        }
    }

    /// Answers a message, whatever it holds.
    fn answer(&mut self, body: Body, parts: usize) -> Vec<u8> {
        let connections = &self.shared.connections;
        let request = match read(body.bytes, parts, self.shared) {
            Ok(request) => request,
            Err(error) => {
                match error {
                    Error::Unauthorized => connections.unauthorized(),
                    _ => connections.refused(),
                }
                return reply::error(&error);
            }
        };
        self.dialect = request.dialect.unwrap_or(self.dialect);
        let model = match self.pick(request.data.get("options")) {
            Ok(model) => model,
            Err(error) => {
                connections.refused();
                return reply::error(&error);
            }
        };
        let answered = self.try_answer(&request, body, model);
        self.count(model, &answered);
        answered.map_or_else(|error| reply::error(&error), |(reply, _)| reply)
    }

    /// Actions for the observations of a message that has no endpoint, as `write` puts them. The options are among them.
    pub fn act_on(&mut self, observation: &Value, body: Body, write: Write) -> Result<Vec<u8>> {
        let options = observation.get("options");
        let model = self.pick(options).inspect_err(|_| self.shared.connections.refused())?;
        let answered = naming::flat(observation, self.shared.models[model].processor()).and_then(|named| {
            let flat = named.as_ref().map(|named| {
                let entries = named.iter().map(|(key, value)| (Value::Str(key), value.clone()));
                Value::Map(entries.collect())
            });
            let mut data = vec![(Value::Str("observation"), flat.unwrap_or_else(|| observation.clone()))];
            data.extend(options.map(|options| (Value::Str("options"), options.clone())));
            Ok((self.act(&Value::Map(data), body, model, write)?, Count::Answered))
        });
        self.count(model, &answered);
        answered.map(|(reply, _)| reply)
    }

    fn count(&self, model: usize, answered: &Result<(Vec<u8>, Count)>) {
        self.metrics(model).count(match answered {
            Ok((_, count)) => *count,
            Err(Error::Late { .. }) => Count::Late,
            Err(_) => Count::Refused,
        });
    }

    fn metrics(&self, model: usize) -> &'s Metrics {
        &self.shared.models[model].metrics
    }

    /// The model that a request is for.
    fn pick(&self, options: Option<&Value>) -> Result<usize> {
        let models = &self.shared.models;
        let Pick { model, embodiment_tag } = Pick::read(options)?;
        let has = |place: usize| {
            let offered = &models[place];
            model.is_none_or(|asked| offered.name == asked)
                && embodiment_tag.is_none_or(|asked| offered.processor().embodiment_tag() == asked)
        };
        // Of several with the embodiment the one that the client has already.
        let place = std::iter::once(self.picked).chain(0..models.len()).find(|place| has(*place));
        place.ok_or_else(|| {
            let there =
                models.iter().map(|model| format!("{} ({})", model.name, model.processor().embodiment_tag()));
            let there: Vec<String> = there.collect();
            let field = if model.is_some() { "options.model" } else { "options.embodiment_tag" };
            Error::field(field, format!("expected one of {}, found another one", there.join(", ")))
        })
    }

    fn try_answer(&mut self, request: &Request, body: Body, model: usize) -> Result<(Vec<u8>, Count)> {
        let offered = &self.shared.models[model];
        let other = |reply| Ok((reply, Count::Other));
        match request.endpoint {
            Endpoint::Ping => other(reply::pong(&offered.precision)),
            Endpoint::GetModalityConfig => other(reply::modality_config(offered.processor().modalities())),
            Endpoint::Kill if self.shared.config.allow_kill => {
                self.shared.stop();
                other(reply::nil())
            }
            Endpoint::Kill => Err(Error::KillRefused),
            Endpoint::Reset => {
                known(&request.data, &["options"])?;
                let (episode, mut ignored) = of_reset(request.data.get("options"))?;
                ignored.retain(|name| !Pick::KEYS.contains(&name.as_str()));
                let episode = self.robots[model].reset(episode);
                self.picked = model;
                other(reply::reset(episode, &ignored))
            }
            Endpoint::GetAction => {
                let dialect = self.dialect;
                let write = |chunks: &[ActionChunk], form: Form, info: &Info| {
                    reply::actions(chunks, form, dialect, info)
                };
                Ok((self.act(&request.data, body, model, &write)?, Count::Answered))
            }
        }
    }

    /// What nobody waits for: hands over what was answered, where it is recorded, and draws noise.
    pub fn after(&mut self) {
        let offered = &self.shared.models[self.answered_by];
        self.robots[self.answered_by].draw_ahead(offered.noise_shape);
        let answered = std::mem::take(&mut self.answered);
        let recorder = offered.recorder.as_ref();
        if let Some(recorder) = recorder.filter(|_| !answered.is_empty()) {
            recorder.take(answered);
        }
    }

    /// Actions for observations, as `write` puts them.
    fn act(&mut self, data: &Value, body: Body, model: usize, write: Write) -> Result<Vec<u8>> {
        let Body { bytes, at } = body;
        let offered = &self.shared.models[model];
        let (processor, metrics) = (offered.processor(), &offered.metrics);
        known(data, &["observation", "options"])?;
        let Some(observation) = data.get("observation") else {
            return Err(Error::field("observation", "expected a map, found none"));
        };
        let modalities = processor.modalities();
        let Observed { observations, form } = Observed::read_from(bytes, observation, modalities)?;
        let mut options = Options::read(data.get("options"), modalities, observations.len(), form.batched)?;
        options.ignored.retain(|name| !Pick::KEYS.contains(&name.as_str()));
        let deadline = options.deadline.map(|allowed| at + allowed);
        metrics.time(Stage::Read, at.elapsed());
        let late = || Error::Late { allowed_ms: options.deadline.unwrap_or_default().as_secs_f64() * 1e3 };
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late());
        }

        let started = Instant::now();
        let robot = &self.robots[model];
        let (preparation, shape) = (&offered.preparation, offered.noise_shape);
        let Asked { inputs, noise, rtc } =
            robot.prepare(preparation, shape, &observations, &options, form.batched, &mut self.spare)?;
        metrics.time(Stage::Prepare, started.elapsed());
        let recorder = offered.recorder.as_ref().filter(|recorder| recorder.is_recording());
        let mut going_on: Vec<_> = match recorder {
            Some(_) => inputs.iter().map(|input| input.rtc.clone()).collect(),
            None => Vec::new(),
        };
        let ticket = Ticket::new(deadline, Arc::clone(&self.left));
        let (send, answers) = channel();
        if !offered.pool.queue.push(Arc::clone(&ticket), inputs, send) {
            return Err(self.shared.ended());
        }
        let answers = collect(&answers, &ticket, observations.len());
        let answers = answers.ok_or_else(|| match deadline {
            Some(deadline) if deadline <= Instant::now() => late(),
            _ => self.shared.ended(),
        })?;

        let started = Instant::now();
        let inference = answers.iter().map(|answer| answer.inference).max().unwrap_or_default();
        metrics.time(Stage::Queue, answers.iter().map(|answer| answer.queued).max().unwrap_or_default());
        metrics.time(Stage::Inference, inference);
        let batch = answers.iter().map(|answer| answer.batch).max().unwrap_or_default();
        let mut chunks = vec![ActionChunk::default(); observations.len()];
        let mut normalized = vec![Matrix::default(); observations.len()];
        let mut inputs = Vec::with_capacity(observations.len());
        for Answer { place, actions, input, .. } in answers {
            inputs.push(input);
            let decoded = actions.and_then(|actions| {
                chunks[place] = processor.decode(&actions, &observations[place])?;
                normalized[place] = actions;
                Ok(())
            });
            decoded.map_err(|error| at_place(error, place, form.batched))?;
        }
        let ignored = &options.ignored;
        let info = Info { model: &offered.name, noise, at, inference, batch, rtc, ignored };
        let reply = write(&chunks, form, &info);
        if recorder.is_some() {
            let members = observations.into_iter().zip(normalized).zip(&chunks).enumerate();
            let served = members.map(|(place, ((observation, actions), chunk))| Served {
                observation,
                noise: Noise { inference: noise.inference.wrapping_add(place as u32), ..noise },
                rtc: going_on[place].take(),
                actions,
                chunk: chunk.clone(),
            });
            self.answered = served.collect();
        } else if offered.recorder.is_some() {
            metrics.count(Count::Unrecorded);
        }
        self.answered_by = model;
        self.spare = spare(inputs);
        self.robots[model].given(&options, false, chunks);
        metrics.time(Stage::Write, started.elapsed());
        metrics.time(Stage::Total, at.elapsed());
        Ok(reply)
    }
}

/// Reads a message; what it asks for is not looked at yet.
fn read<'m>(message: &'m [u8], parts: usize, shared: &Shared) -> Result<Request<'m>> {
    if parts != 1 {
        return Err(Error::Message(format!("expected a message of one part, found {parts}")));
    }
    Request::read(message, shared.config.api_token.as_deref())
}

/// Waits for an engine. `None` where there will be no answers: the deadline passed before one took the request, or the one
/// that took it ended. What an engine has taken is waited for.
fn collect(answers: &Receiver<Answer>, ticket: &Ticket, count: usize) -> Option<Vec<Answer>> {
    let mut all = Vec::with_capacity(count);
    let mut deadline = ticket.deadline;
    while all.len() < count {
        let next = match deadline {
            Some(at) => answers.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(answer) => all.push(answer),
            Err(RecvTimeoutError::Timeout) if ticket.drop_waiting() => return None,
            Err(RecvTimeoutError::Timeout) => deadline = None,
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    Some(all)
}

/// Whether data has only keys that its endpoint takes.
fn known(data: &Value, keys: &[&str]) -> Result<()> {
    let other = data.entries().unwrap_or_default().iter().find_map(|(key, _)| match key.text() {
        Some(key) if keys.contains(&key) => None,
        key => Some(key.unwrap_or("?")),
    });
    match other {
        None => Ok(()),
        Some(other) => {
            let name: String = other.chars().take(60).collect();
            Err(Error::field(
                format!("data.{name}"),
                format!("expected {}, found another key", keys.join(" and ")),
            ))
        }
    }
}

/// The read halves of all connections, to end them by.
#[derive(Default)]
pub struct Streams {
    open: Mutex<Vec<(u64, TcpStream)>>,
}

impl Streams {
    /// Notes a connection.
    pub fn add(&self, number: u64, stream: TcpStream) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push((number, stream));
    }

    /// Forgets a connection.
    pub fn remove(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
    }

    /// Reads no more from anyone.
    pub fn stop_reading(&self) {
        for (_, stream) in self.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
    }

    /// Waits until every client was answered, for `most` at most.
    pub fn wait_until_empty(&self, most: Duration) {
        let until = Instant::now() + most;
        while !self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
