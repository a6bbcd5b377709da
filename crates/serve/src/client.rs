//! One connected client: a thread that reads its messages, and one that answers them in order.

use crate::metrics::{Count, Stage};
use crate::observation::Observed;
use crate::options::{Noise, Options, of_reset};
use crate::queue::{Answer, Ticket};
use crate::recording::Served;
use crate::reply::{self, Info};
use crate::request::{Endpoint, Request};
use crate::robot::{Asked, Robot, at_place};
use crate::server::Shared;
use crate::wire::{Dialect, Value};
use crate::zmtp::{self, Ended, Message};
use crate::{Error, Result};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use steadyhand_gr00t::{ActionChunk, Matrix};

/// A message with the time at which it was whole.
struct Received {
    message: Message,
    at: Instant,
}

/// Serves a client until it leaves or the server ends.
pub fn attend(shared: &Shared, stream: TcpStream) {
    let (mut reader, writer) = match zmtp::accept(stream, shared.config.max_message) {
        Ok(halves) => halves,
        Err(Ended::Left) => return,
        Err(_) => return shared.metrics.count(Count::Dropped),
    };
    let left = Arc::new(AtomicBool::new(false));
    // The reader stays one message ahead: what a peer sends beyond that waits in the network.
    let (send, receive) = sync_channel::<Received>(1);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let _closes = Closes(&writer);
            let mut client = Client::new(shared, Arc::clone(&left));
            for Received { message, at } in receive {
                let reply = client.answer(&message, at);
                if writer.send(&message.envelope, &reply).is_err() {
                    left.store(true, Ordering::Release);
                    writer.close();
                }
                // Behind the reply: waking a thread may cost this one its core.
                client.record();
            }
        });
        let ended = loop {
            let message = match reader.next(&writer) {
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
            Ended::Silent | Ended::Protocol(_) => shared.metrics.count(Count::Dropped),
            Ended::TooLarge { envelope, claimed } => {
                let most = shared.config.max_message;
                let what = format!("expected at most {most} bytes (--max-message-mib), found {claimed}");
                shared.metrics.count(Count::Refused);
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

/// What answers the messages of one client.
struct Client<'s> {
    shared: &'s Shared,
    robot: Robot,
    /// That of the last request with arrays.
    dialect: Dialect,
    left: Arc<AtomicBool>,
    /// What was answered and is still to be recorded.
    answered: Vec<Served>,
}

impl<'s> Client<'s> {
    fn new(shared: &'s Shared, left: Arc<AtomicBool>) -> Self {
        Client {
            shared,
            robot: Robot::new(shared.seed),
            dialect: Dialect::default(),
            left,
            answered: Vec::new(),
        }
    }

    /// Answers a message, whatever it holds.
    fn answer(&mut self, message: &Message, at: Instant) -> Vec<u8> {
        let metrics = &self.shared.metrics;
        match self.try_answer(message, at) {
            Ok((reply, count)) => {
                metrics.count(count);
                reply
            }
            Err(error) => {
                metrics.count(match error {
                    Error::Unauthorized => Count::Unauthorized,
                    Error::Late { .. } => Count::Late,
                    _ => Count::Refused,
                });
                reply::error(&error)
            }
        }
    }

    fn try_answer(&mut self, message: &Message, at: Instant) -> Result<(Vec<u8>, Count)> {
        if message.parts != 1 {
            let what = format!("expected a message of one part, found {}", message.parts);
            return Err(Error::Message(what));
        }
        let request = Request::read(&message.body, self.shared.config.api_token.as_deref())?;
        self.dialect = request.dialect.unwrap_or(self.dialect);
        let other = |reply| Ok((reply, Count::Other));
        match request.endpoint {
            Endpoint::Ping => other(reply::pong(&self.shared.precision)),
            Endpoint::GetModalityConfig => {
                other(reply::modality_config(self.shared.processor().modalities()))
            }
            Endpoint::Kill if self.shared.config.allow_kill => {
                self.shared.stop();
                other(reply::nil())
            }
            Endpoint::Kill => Err(Error::KillRefused),
            Endpoint::Reset => {
                known(&request.data, &["options"])?;
                let (episode, ignored) = of_reset(request.data.get("options"))?;
                other(reply::reset(self.robot.reset(episode), &ignored))
            }
            Endpoint::GetAction => Ok((self.act(&request.data, at)?, Count::Answered)),
        }
    }

    /// Hands over what was answered, where it is recorded.
    fn record(&mut self) {
        let answered = std::mem::take(&mut self.answered);
        if let Some(recorder) = self.shared.recorder.as_ref().filter(|_| !answered.is_empty()) {
            recorder.take(answered);
        }
    }

    fn act(&mut self, data: &Value, at: Instant) -> Result<Vec<u8>> {
        let metrics = &self.shared.metrics;
        known(data, &["observation", "options"])?;
        let Some(observation) = data.get("observation") else {
            return Err(Error::field("observation", "expected a map, found none"));
        };
        let modalities = self.shared.processor().modalities();
        let Observed { observations, form } = Observed::read(observation, modalities)?;
        let options = Options::read(data.get("options"), modalities, observations.len(), form.batched)?;
        let deadline = options.deadline.map(|allowed| at + allowed);
        metrics.time(Stage::Read, at.elapsed());
        let late = || Error::Late { allowed_ms: options.deadline.unwrap_or_default().as_secs_f64() * 1e3 };
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late());
        }

        let started = Instant::now();
        let processor = self.shared.processor();
        let (preparation, shape) = (&self.shared.preparation, self.shared.noise_shape);
        let asked = self.robot.prepare(preparation, shape, &observations, &options, form.batched)?;
        let Asked { inputs, noise, rtc } = asked;
        metrics.time(Stage::Prepare, started.elapsed());
        let recorder = self.shared.recorder.as_ref().filter(|recorder| recorder.is_recording());
        let mut going_on: Vec<_> = match recorder {
            Some(_) => inputs.iter().map(|input| input.rtc.clone()).collect(),
            None => Vec::new(),
        };
        let ticket = Ticket::new(deadline, Arc::clone(&self.left));
        let (send, answers) = channel();
        if !self.shared.queue.push(Arc::clone(&ticket), inputs, send) {
            return Err(self.shared.ended());
        }
        let answers = collect(&answers, &ticket, observations.len());
        let answers = answers.ok_or_else(|| match deadline {
            Some(deadline) if deadline <= Instant::now() => late(),
            _ => self.shared.ended(),
        })?;

        let started = Instant::now();
        let inference = answers.iter().map(|answer| answer.inference).max().unwrap_or_default();
        let batch = answers.iter().map(|answer| answer.batch).max().unwrap_or_default();
        let mut chunks = vec![ActionChunk::default(); observations.len()];
        let mut normalized = vec![Matrix::default(); observations.len()];
        for Answer { place, actions, .. } in answers {
            let decoded = actions.and_then(|actions| {
                chunks[place] = processor.decode(&actions, &observations[place])?;
                normalized[place] = actions;
                Ok(())
            });
            decoded.map_err(|error| at_place(error, place, form.batched))?;
        }
        let info = Info { noise, inference, batch, rtc, ignored: &options.ignored };
        let reply = reply::actions(&chunks, form, self.dialect, &info);
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
        } else if self.shared.recorder.is_some() {
            metrics.count(Count::Unrecorded);
        }
        self.robot.given(&options, false, chunks);
        metrics.time(Stage::Write, started.elapsed());
        metrics.time(Stage::Total, at.elapsed());
        Ok(reply)
    }
}

/// Waits for the engine. `None` where there will be no answers: the deadline passed before the engine took the request,
/// or there is no engine any more. What the engine has taken is waited for.
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
