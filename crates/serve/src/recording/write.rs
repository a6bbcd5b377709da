//! Writing, in a thread of its own: a reply never waits for the disk.

use super::{FINGERPRINT, SOURCE, TAG, name};
use crate::metrics::{Count, Metrics};
use crate::options::Noise;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use steadyhand_fidelity::trace::Dtype;
use steadyhand_fidelity::{TraceError, TraceWriter};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::rtc::Rtc;
use steadyhand_gr00t::{ActionChunk, Matrix, Observation};

/// Most bytes that wait for the disk; what comes beyond is not recorded.
const MAX_WAITING: u64 = 256 << 20;
/// About what a tensor takes in a manifest and in the head of its file, beside its name.
const ENTRY: u64 = 400;

/// What is recorded where.
#[derive(Debug, Clone)]
pub struct Record {
    /// A folder without a trace in it.
    pub folder: PathBuf,
    /// Most bytes on disk. The observation that would exceed them and all behind it are not recorded.
    pub limit: u64,
    /// What tells the checkpoint's weights from others.
    pub fingerprint: String,
    /// Further metadata of the trace.
    pub metadata: BTreeMap<String, String>,
    /// Is told, once each, that recording ended or that the disk is too slow, and why.
    pub tell: fn(&str),
}

/// An observation that was answered.
#[derive(Debug)]
pub struct Served {
    /// What the client sent.
    pub observation: Observation,
    /// The noise that its actions started from.
    pub noise: Noise,
    /// What they went on from.
    pub rtc: Option<Rtc>,
    /// Normalized actions.
    pub actions: Matrix,
    /// What the client was given.
    pub chunk: ActionChunk,
}

/// What clients' threads hand over to.
pub struct Recorder {
    state: Arc<State>,
    /// None once the server ends.
    send: Mutex<Option<Sender<Vec<Served>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    metrics: Arc<Metrics>,
    waiting: AtomicU64,
    ended: AtomicBool,
    slow: AtomicBool,
    tell: fn(&str),
}

impl Recorder {
    /// Begins a trace of an embodiment's requests. `noise_shape` is that of its inferences.
    ///
    /// # Errors
    /// A folder that holds a trace or cannot be written; a thread that cannot be started.
    pub fn start(record: Record, tag: &str, noise_shape: [usize; 2], metrics: Arc<Metrics>) -> Result<Self> {
        let Record { folder, limit, fingerprint, mut metadata, tell } = record;
        for (key, value) in [SOURCE, (FINGERPRINT, &fingerprint), (TAG, tag)] {
            metadata.insert(key.to_owned(), value.to_owned());
        }
        let writer = TraceWriter::create(&folder, metadata)?;
        metrics.recording.store(1, Ordering::Relaxed);
        let state = Arc::new(State {
            metrics,
            waiting: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            tell,
        });
        let (send, receive) = channel();
        let mut log = Log { state: Arc::clone(&state), writer, noise_shape, limit, written: 0, count: 0 };
        let thread = Builder::new()
            .name("record".to_owned())
            .spawn(move || log.run(&receive))
            .map_err(|source| Error::Thread { name: "record", source })?;
        Ok(Recorder { state, send: Mutex::new(Some(send)), thread: Mutex::new(Some(thread)) })
    }

    /// Whether requests are still recorded.
    pub fn is_recording(&self) -> bool {
        !self.state.ended.load(Ordering::Acquire)
    }

    /// Takes an answered request over, or leaves it out where too much waits for the disk.
    pub fn take(&self, request: Vec<Served>) {
        let State { metrics, waiting, slow, tell, .. } = &*self.state;
        let bytes: u64 = request.iter().map(Served::bytes).sum();
        if waiting.load(Ordering::Acquire) + bytes > MAX_WAITING {
            metrics.count(Count::Unrecorded);
            if !slow.swap(true, Ordering::AcqRel) {
                tell("record: the disk is slower than the robots; requests are left out of the recording");
            }
            return;
        }
        waiting.fetch_add(bytes, Ordering::AcqRel);
        let send = self.send.lock().unwrap_or_else(PoisonError::into_inner);
        if send.as_ref().is_none_or(|send| send.send(request).is_err()) {
            metrics.count(Count::Unrecorded);
        }
    }

    /// Writes what waits and ends.
    pub fn end(&self) {
        drop(self.send.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Served {
    /// About what it takes on disk.
    fn bytes(&self) -> u64 {
        let Served { observation, rtc, actions, chunk, .. } = self;
        let frames = observation.images.values().flatten().map(|frame| frame.rgb.len());
        let matrices = observation.state.values().chain(chunk.groups.iter().map(|(_, actions)| actions));
        let values = matrices.map(|matrix| matrix.data.len()).sum::<usize>() + 2 * actions.data.len();
        let previous = rtc.as_ref().map_or(0, |rtc| rtc.previous.data.len());
        let tensors = 6 + observation.images.len() + observation.state.len() + chunk.groups.len();
        let bytes = frames.sum::<usize>() + 4 * (values + previous) + observation.instruction.len();
        bytes as u64 + ENTRY * tensors as u64
    }
}

/// The thread's own.
struct Log {
    state: Arc<State>,
    writer: TraceWriter,
    noise_shape: [usize; 2],
    limit: u64,
    /// Bytes on disk, about.
    written: u64,
    /// Observations.
    count: usize,
}

impl Log {
    fn run(&mut self, receive: &Receiver<Vec<Served>>) {
        while let Ok(first) = receive.recv() {
            // What came meanwhile shares a file and a manifest.
            let mut requests = vec![first];
            requests.extend(receive.try_iter());
            let written = self.write(&requests);
            let bytes = requests.iter().flatten().map(Served::bytes).sum();
            self.state.waiting.fetch_sub(bytes, Ordering::AcqRel);
            let ended = match written {
                Ok(true) => continue,
                Ok(false) => format!(
                    "record: {} MiB is reached after {} observations (--record-limit-mib); nothing more is recorded",
                    self.limit >> 20,
                    self.count
                ),
                Err(error) => {
                    format!("record: {error}; nothing more is recorded after {} observations", self.count)
                }
            };
            self.state.ended.store(true, Ordering::Release);
            self.state.metrics.recording.store(0, Ordering::Relaxed);
            (self.state.tell)(&ended);
            // What waits is left out.
            return receive.try_iter().for_each(|_| self.state.metrics.count(Count::Unrecorded));
        }
    }

    /// Writes requests, as far as the limit allows: `false` where it does not allow all.
    fn write(&mut self, requests: &[Vec<Served>]) -> Result<bool, TraceError> {
        let mut whole = true;
        for request in requests {
            let bytes: u64 = request.iter().map(Served::bytes).sum();
            whole &= self.written + bytes <= self.limit;
            if !whole {
                self.state.metrics.count(Count::Unrecorded);
                continue;
            }
            for served in request {
                self.add(served)?;
                self.count += 1;
            }
            self.written += bytes;
            self.state.metrics.count(Count::Recorded);
        }
        self.writer.commit()?;
        self.state.metrics.recorded_bytes.store(self.written, Ordering::Relaxed);
        Ok(whole)
    }

    fn add(&mut self, served: &Served) -> Result<(), TraceError> {
        let Served { observation, noise, rtc, actions, chunk } = served;
        let Log { writer, count, noise_shape: [rows, cols], .. } = self;
        let name = |tensor: &str| name(*count, tensor);
        for (view, frames) in &observation.images {
            let Some(first) = frames.first() else { continue };
            let shape = [frames.len(), first.height, first.width, 3];
            let pixels: Vec<u8> = frames.iter().flat_map(|frame| &frame.rgb).copied().collect();
            writer.add_bytes(&name(&format!("video.{view}")), Dtype::U8, &shape, &pixels)?;
        }
        for (group, state) in &observation.state {
            writer.add(&name(&format!("state.{group}")), &[state.rows, state.cols], &state.data)?;
        }
        let text = observation.instruction.as_bytes();
        writer.add_bytes(&name("instruction"), Dtype::U8, &[text.len()], text)?;
        let Noise { seed, episode, inference } = *noise;
        let of = [seed as i64, i64::from(episode), i64::from(inference)];
        let of: Vec<u8> = of.into_iter().flat_map(i64::to_le_bytes).collect();
        writer.add_bytes(&name("noise_of"), Dtype::I64, &[3], &of)?;
        let drawn = gaussian(seed, episode, inference, *rows, *cols);
        writer.add(&name("noise"), &[*rows, *cols], &drawn.data)?;
        if let Some(Rtc { previous, options }) = rtc {
            writer.add(&name("rtc.previous"), &[previous.rows, previous.cols], &previous.data)?;
            let steps = [options.action_horizon, options.overlap_steps, options.frozen_steps];
            let [horizon, overlap, frozen] = steps.map(|steps| steps as f32);
            writer.add(&name("rtc.options"), &[4], &[horizon, overlap, frozen, options.ramp_rate])?;
        }
        writer.add(&name("action_pred"), &[1, actions.rows, actions.cols], &actions.data)?;
        for (group, actions) in &chunk.groups {
            writer.add(&name(&format!("action.{group}")), &[actions.rows, actions.cols], &actions.data)?;
        }
        Ok(())
    }
}
