//! Between clients and engines: what waits, and which observations the next inference takes.
//!
//! A request may hold several observations, and a client has one request at a time. An inference takes one observation
//! of each request in turn until it is full, so a client with many does not hold up one with few. Several engines may
//! take from one queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use steadyhand_gr00t::engine::ModelInput;
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
    /// What the engine was given, whose memory the client keeps.
    pub input: ModelInput,
    /// How long it waited for an engine.
    pub queued: Duration,
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

/// The observations of one inference.
pub struct Inference {
    /// What the engine is given.
    pub inputs: Vec<ModelInput>,
    members: Vec<Member>,
}

/// Whose an observation of an inference is.
struct Member {
    place: usize,
    answers: Sender<Answer>,
    queued: Duration,
}

impl Inference {
    /// Tells the clients what became of their observations, after the engine ran for `inference`.
    pub fn answer(self, results: Vec<Result<Matrix>>, inference: Duration) {
        let batch = self.members.len();
        let members = self.members.into_iter().zip(self.inputs);
        for ((Member { place, answers, queued }, input), actions) in members.zip(results) {
            // A client that left in the meantime has nobody who listens.
            let _ = answers.send(Answer { place, actions, input, queued, inference, batch });
        }
    }
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

/// Requests that wait for an engine.
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    observations: AtomicU64,
    max_batch: usize,
    max_wait: Duration,
}

impl Queue {
    /// A queue whose inferences take at most `max_batch` observations, the first of which waits at most `max_wait` for
    /// others.
    pub fn new(max_batch: usize, max_wait: Duration) -> Self {
        Queue {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            observations: AtomicU64::new(0),
            max_batch,
            max_wait,
        }
    }

    /// Observations that wait.
    pub fn waiting(&self) -> u64 {
        self.observations.load(Ordering::Relaxed)
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
        self.observations.store(waiting.observations() as u64, Ordering::Relaxed);
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
        self.changed.notify_all();
    }

    /// The observations of the next inference; `None` once the queue is closed and empty.
    pub fn next(&self) -> Option<Inference> {
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
            let inference = self.take(&mut waiting);
            self.observations.store(waiting.observations() as u64, Ordering::Relaxed);
            if !inference.inputs.is_empty() {
                return Some(inference);
            }
        }
    }

    /// One observation of each request in turn.
    fn take(&self, waiting: &mut Waiting) -> Inference {
        let (mut inputs, mut members) = (Vec::new(), Vec::new());
        while inputs.len() < self.max_batch {
            let Some(mut request) = waiting.requests.pop_front() else { break };
            if !request.ticket.take() {
                continue;
            }
            if let Some((place, input)) = request.inputs.pop_front() {
                inputs.push(input);
                let (answers, queued) = (request.answers.clone(), request.since.elapsed());
                members.push(Member { place, answers, queued });
            }
            if !request.inputs.is_empty() {
                waiting.requests.push_back(request);
            }
        }
        Inference { inputs, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    fn push(queue: &Queue, slots: &[usize], deadline: Option<Instant>) -> (Arc<Ticket>, Receiver<Answer>) {
        let ticket = Ticket::new(deadline, Arc::default());
        let (send, receive) = channel();
        let input = |slot: &usize| ModelInput { embodiment_id: *slot, ..ModelInput::default() };
        assert!(queue.push(Arc::clone(&ticket), slots.iter().map(input).collect(), send));
        (ticket, receive)
    }

    /// Slots of the observations of all inferences, answered with themselves.
    fn drain(queue: &Queue) -> Vec<Vec<usize>> {
        let mut batches = Vec::new();
        while let Some(inference) = queue.next() {
            let slots: Vec<usize> = inference.inputs.iter().map(|input| input.embodiment_id).collect();
            let results = slots.iter().map(|slot| Ok(Matrix::from(vec![*slot as f32]))).collect();
            inference.answer(results, Duration::ZERO);
            batches.push(slots);
        }
        batches
    }

    #[test]
    fn inferences_take_one_observation_of_each_client_in_turn() {
        let queue = Queue::new(3, Duration::ZERO);
        let (_, many) = push(&queue, &[1, 2, 3, 4, 5], None);
        let (_, few) = push(&queue, &[6], None);
        assert_eq!(queue.waiting(), 6);
        queue.close();
        assert_eq!(drain(&queue), [vec![1, 6, 2], vec![3, 4, 5]]);
        let answers = |receiver: Receiver<Answer>| -> Vec<(usize, f32)> {
            receiver.iter().map(|answer| (answer.place, answer.actions.expect("computed").data[0])).collect()
        };
        assert_eq!(answers(many), [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)]);
        assert_eq!(answers(few), [(0, 6.0)]);
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn what_is_late_or_left_is_not_computed() {
        let queue = Queue::new(8, Duration::ZERO);
        let (_, late) = push(&queue, &[1], Some(Instant::now()));
        let (dropped, _answers) = push(&queue, &[2], None);
        assert!(dropped.drop_waiting());
        let (left, _gone) = push(&queue, &[3], None);
        left.left.store(true, Ordering::Release);
        let (in_time, answers) = push(&queue, &[4], Some(Instant::now() + Duration::from_secs(60)));
        queue.close();
        assert_eq!(drain(&queue), [[4]]);
        assert!(late.recv().is_err());
        assert!(answers.recv().expect("an answer").actions.is_ok() && !in_time.drop_waiting());
    }

    #[test]
    fn observations_wait_for_others_only_so_long() {
        let queue = Queue::new(2, Duration::from_secs(3600));
        let (_first, _) = push(&queue, &[1], None);
        let (_second, _) = push(&queue, &[2], None);
        // A full batch does not wait for the window.
        assert_eq!(queue.next().expect("two wait").inputs.len(), 2);
        let queue = Queue::new(2, Duration::from_millis(1));
        let (_alone, _) = push(&queue, &[1], None);
        assert_eq!(queue.next().expect("one waits").inputs.len(), 1);
    }
}
