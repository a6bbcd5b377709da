//! Between clients and the engine: what waits, and which observations the next inference takes.
//!
//! A request may hold several observations, and a client has one request at a time. An inference takes one observation
//! of each request in turn until it is full, so a client with many does not hold up one with few.

use crate::metrics::{Metrics, Stage};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use steadyhand_gr00t::engine::{Engine, ModelInput, one};
use steadyhand_gr00t::{Matrix, Result};

/// A request is waiting, the engine has some of it, or nobody wants it any more.
const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const DROPPED: u8 = 2;

/// What a request and the engine agree on.
pub struct Ticket {
    state: AtomicU8,
    /// When the request is of no more use.
    pub deadline: Option<Instant>,
    /// Whether the client left.
    left: Arc<AtomicBool>,
}

impl Ticket {
    /// Of a request of the client that sets `left` when it leaves.
    pub fn new(deadline: Option<Instant>, left: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Ticket { state: AtomicU8::new(WAITING), deadline, left })
    }

    /// Gives the request up; `false` where the engine has it already.
    pub fn drop_waiting(&self) -> bool {
        let now = self.state.compare_exchange(WAITING, DROPPED, Ordering::AcqRel, Ordering::Acquire);
        now.is_ok() || now == Err(DROPPED)
    }

    /// Whether the engine may compute it.
    fn take(&self) -> bool {
        let useless =
            self.left.load(Ordering::Acquire) || self.deadline.is_some_and(|at| at <= Instant::now());
        if useless && self.drop_waiting() {
            return false;
        }
        let now = self.state.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        now.is_ok() || now == Err(TAKEN)
    }
}

/// What became of one observation.
pub struct Answer {
    /// Its place in the request.
    pub place: usize,
    /// Normalized actions `[action_horizon, max_action_dim]`.
    pub actions: Result<Matrix>,
    /// How long the engine ran.
    pub inference: Duration,
    /// Observations that shared the inference.
    pub batch: usize,
}

/// A request in the queue. Where it is dropped, its sender is too, and whoever waits for answers is told.
struct Request {
    ticket: Arc<Ticket>,
    inputs: VecDeque<(usize, ModelInput)>,
    answers: Sender<Answer>,
    since: Instant,
}

/// One observation of an inference.
struct Member {
    place: usize,
    answers: Sender<Answer>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Waiting {
    fn observations(&self) -> usize {
        self.requests.iter().map(|request| request.inputs.len()).sum()
    }
}

/// Requests that wait for the engine.
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    metrics: Arc<Metrics>,
    max_batch: usize,
    max_wait: Duration,
}

impl Queue {
    /// A queue whose inferences take at most `max_batch` observations, the first of which waits at most `max_wait` for
    /// others.
    pub fn new(max_batch: usize, max_wait: Duration, metrics: Arc<Metrics>) -> Self {
        Queue { waiting: Mutex::default(), changed: Condvar::new(), metrics, max_batch, max_wait }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to the engine; `false` once the queue is closed.
    pub fn push(&self, ticket: Arc<Ticket>, inputs: Vec<ModelInput>, answers: Sender<Answer>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        let inputs = inputs.into_iter().enumerate().collect();
        waiting.requests.push_back(Request { ticket, inputs, answers, since: Instant::now() });
        self.metrics.waiting.store(waiting.observations() as u64, Ordering::Relaxed);
        self.changed.notify_all();
        true
    }

    /// Takes no more requests; those that wait are still computed.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Drops what waits: there is no engine any more.
    pub fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.requests.clear();
    }

    /// The observations of the next inference; `None` once the queue is closed and empty.
    fn next(&self) -> Option<(Vec<ModelInput>, Vec<Member>)> {
        let mut waiting = self.lock();
        loop {
            let Some(first) = waiting.requests.front() else {
                if waiting.closed {
                    return None;
                }
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let rest = (first.since + self.max_wait).saturating_duration_since(Instant::now());
            if !rest.is_zero() && !waiting.closed && waiting.observations() < self.max_batch {
                let waited = self.changed.wait_timeout(waiting, rest);
                waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let batch = self.take(&mut waiting);
            self.metrics.waiting.store(waiting.observations() as u64, Ordering::Relaxed);
            if !batch.0.is_empty() {
                return Some(batch);
            }
        }
    }

    /// One observation of each request in turn.
    fn take(&self, waiting: &mut Waiting) -> (Vec<ModelInput>, Vec<Member>) {
        let (mut inputs, mut members) = (Vec::new(), Vec::new());
        while inputs.len() < self.max_batch {
            let Some(mut request) = waiting.requests.pop_front() else { break };
            if !request.ticket.take() {
                continue;
            }
            if let Some((place, input)) = request.inputs.pop_front() {
                self.metrics.time(Stage::Queue, request.since.elapsed());
                inputs.push(input);
                members.push(Member { place, answers: request.answers.clone() });
            }
            if !request.inputs.is_empty() {
                waiting.requests.push_back(request);
            }
        }
        (inputs, members)
    }

    /// Runs the engine until the queue is closed and empty.
    pub fn run(&self, engine: &mut dyn Engine) {
        while let Some((inputs, members)) = self.next() {
            let started = Instant::now();
            let batch = members.len();
            let results = match engine.infer(&inputs, None) {
                Ok(actions) => actions.into_iter().map(Ok).collect(),
                Err(error) if batch == 1 => vec![Err(error)],
                // One observation that does not fit must not fail those beside it.
                Err(_) => inputs
                    .iter()
                    .map(|input| engine.infer(std::slice::from_ref(input), None).and_then(one))
                    .collect(),
            };
            let inference = started.elapsed();
            self.metrics.time(Stage::Inference, inference);
            self.metrics.batch(batch);
            for (Member { place, answers }, actions) in members.into_iter().zip(results) {
                // A client that left in the meantime has nobody who listens.
                let _ = answers.send(Answer { place, actions, inference, batch });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};
    use steadyhand_gr00t::Error;
    use steadyhand_gr00t::precision::PrecisionPolicy;
    use steadyhand_gr00t::probe::Probe;

    /// Gives each input's slot of weights as its actions, and refuses slot 9.
    struct Echo {
        precision: PrecisionPolicy,
        batches: Vec<Vec<usize>>,
    }

    impl Engine for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn precision(&self) -> &PrecisionPolicy {
            &self.precision
        }

        fn infer(&mut self, inputs: &[ModelInput], _: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
            self.batches.push(inputs.iter().map(|input| input.embodiment_id).collect());
            if inputs.iter().any(|input| input.embodiment_id == 9) {
                return Err(Error::input("embodiment_id", "expected below 9, found 9"));
            }
            Ok(inputs.iter().map(|input| Matrix::from(vec![input.embodiment_id as f32])).collect())
        }
    }

    fn echo() -> Echo {
        Echo { precision: PrecisionPolicy::preset("f32").expect("a preset"), batches: Vec::new() }
    }

    fn queue(max_batch: usize) -> Queue {
        Queue::new(max_batch, Duration::ZERO, Arc::default())
    }

    fn push(queue: &Queue, slots: &[usize], deadline: Option<Instant>) -> (Arc<Ticket>, Receiver<Answer>) {
        let ticket = Ticket::new(deadline, Arc::default());
        let (send, receive) = channel();
        let input = |slot: &usize| ModelInput { embodiment_id: *slot, ..ModelInput::default() };
        assert!(queue.push(Arc::clone(&ticket), slots.iter().map(input).collect(), send));
        (ticket, receive)
    }

    #[test]
    fn inferences_take_one_observation_of_each_client_in_turn() {
        let (queue, mut engine) = (queue(3), echo());
        let (_, many) = push(&queue, &[1, 2, 3, 4, 5], None);
        let (_, few) = push(&queue, &[6], None);
        queue.close();
        queue.run(&mut engine);
        assert_eq!(engine.batches, [vec![1, 6, 2], vec![3, 4, 5]]);
        let answers = |receiver: Receiver<Answer>| -> Vec<(usize, f32)> {
            receiver.iter().map(|answer| (answer.place, answer.actions.expect("computed").data[0])).collect()
        };
        assert_eq!(answers(many), [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)]);
        assert_eq!(answers(few), [(0, 6.0)]);
    }

    #[test]
    fn what_is_late_or_left_is_not_computed() {
        let (queue, mut engine) = (queue(8), echo());
        let (_, late) = push(&queue, &[1], Some(Instant::now()));
        let (dropped, _answers) = push(&queue, &[2], None);
        assert!(dropped.drop_waiting());
        let (left, _gone) = push(&queue, &[3], None);
        left.left.store(true, Ordering::Release);
        let (in_time, answers) = push(&queue, &[4], Some(Instant::now() + Duration::from_secs(60)));
        queue.close();
        queue.run(&mut engine);
        assert_eq!(engine.batches, [[4]]);
        assert!(late.recv().is_err());
        assert!(answers.recv().expect("an answer").actions.is_ok() && !in_time.drop_waiting());
    }

    #[test]
    fn a_flaw_of_one_does_not_fail_those_beside_it() {
        let (queue, mut engine) = (queue(2), echo());
        let (_, bad) = push(&queue, &[9], None);
        let (_, good) = push(&queue, &[1], None);
        queue.close();
        queue.run(&mut engine);
        assert!(bad.recv().expect("an answer").actions.is_err());
        assert_eq!(good.recv().expect("an answer").actions.expect("computed").data, [1.0]);
    }

    #[test]
    fn observations_wait_for_others_only_so_long() {
        let queue = Queue::new(2, Duration::from_secs(3600), Arc::default());
        let (_first, _) = push(&queue, &[1], None);
        let (_second, _) = push(&queue, &[2], None);
        // A full batch does not wait for the window.
        assert_eq!(queue.next().expect("two wait").0.len(), 2);
        let queue = Queue::new(2, Duration::from_millis(1), Arc::default());
        let (_alone, _) = push(&queue, &[1], None);
        assert_eq!(queue.next().expect("one waits").0.len(), 1);
    }
}
