//! The server: listeners, threads, and how they end.

use crate::client::{self, Streams};
use crate::http;
use crate::metrics::{Count, Metrics};
use crate::observation::MAX_OBSERVATIONS;
use crate::queue::Queue;
use crate::recording::{Record, Recorder};
use crate::{Error, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::policy::Preparation;
use steadyhand_gr00t::processor::Processor;

/// How long clients are still answered after the server was told to end.
const GRACE: Duration = Duration::from_secs(10);
/// How often listeners and the caller's signal are looked at.
const TICK: Duration = Duration::from_millis(5);
/// Most pages that are answered at a time.
const MAX_PAGES: usize = 8;

/// Options of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Where pages are read, if anywhere.
    pub http: Option<SocketAddr>,
    /// What every request must carry.
    pub api_token: Option<String>,
    /// Whether a client may end the server.
    pub allow_kill: bool,
    /// Most observations of an inference.
    pub max_batch: usize,
    /// How long an observation waits for others to share an inference.
    pub max_wait: Duration,
    /// Most bytes of a message.
    pub max_message: usize,
    /// Most clients at a time.
    pub max_clients: usize,
    /// Where requests and replies are recorded, if anywhere.
    pub record: Option<Record>,
    /// What `/info` shows.
    pub info: serde_json::Value,
}

/// A policy that is listened for; [`Server::run`] answers.
pub struct Server {
    policy: Policy,
    listener: TcpListener,
    pages: Option<TcpListener>,
    shared: Arc<Shared>,
}

/// What all threads know.
pub struct Shared {
    pub(crate) config: Config,
    pub(crate) preparation: Preparation,
    /// `[action_horizon, max_action_dim]`.
    pub(crate) noise_shape: [usize; 2],
    pub(crate) seed: u64,
    /// Identity and name of the engine's number formats.
    pub(crate) precision: [String; 2],
    pub(crate) queue: Queue,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Option<Recorder>,
    streams: Streams,
    pages: AtomicUsize,
    stopping: AtomicBool,
    engine_ended: AtomicBool,
}

impl Shared {
    pub(crate) fn processor(&self) -> &Processor {
        self.preparation.processor()
    }

    /// Tells the server to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.is_stopping() && !self.engine_ended.load(Ordering::Acquire)
    }

    /// Why there is no engine to ask.
    pub(crate) fn ended(&self) -> Error {
        match self.engine_ended.load(Ordering::Acquire) && !self.is_stopping() {
            true => Error::EngineEnded,
            false => Error::Stopping,
        }
    }
}

impl Server {
    /// Listens; from now on clients can connect, and are answered once [`Server::run`] is called. The noise of clients
    /// is that of the policy's seed.
    ///
    /// # Errors
    /// An address that cannot be listened on; a limit of 0; a recording that cannot be begun.
    pub fn bind(policy: Policy, config: Config) -> Result<Self> {
        for (option, found, most) in [
            ("max_batch", config.max_batch, MAX_OBSERVATIONS),
            ("max_message", config.max_message, 1 << 40),
            ("max_clients", config.max_clients, 1 << 16),
        ] {
            if found == 0 || found > most {
                return Err(Error::Option { option, what: format!("expected 1 to {most}, found {found}") });
            }
        }
        let listen = |address: SocketAddr| -> Result<TcpListener> {
            let error = |source| Error::Listen { address, source };
            let listener = TcpListener::bind(address).map_err(error)?;
            listener.set_nonblocking(true).map_err(error)?;
            Ok(listener)
        };
        let listener = listen(config.address)?;
        let pages = config.http.map(listen).transpose()?;
        let metrics = Arc::<Metrics>::default();
        let begin = |record| {
            let tag = policy.processor().embodiment_tag();
            Recorder::start(record, tag, policy.noise_shape(), Arc::clone(&metrics))
        };
        let recorder = config.record.clone().map(begin).transpose()?;
        let shared = Shared {
            recorder,
            preparation: policy.preparation(),
            noise_shape: policy.noise_shape(),
            seed: policy.seed(),
            precision: [
                policy.engine().precision().identity(),
                policy.engine().precision().name().to_owned(),
            ],
            queue: Queue::new(config.max_batch, config.max_wait, Arc::clone(&metrics)),
            metrics,
            streams: Streams::default(),
            pages: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            engine_ended: AtomicBool::new(false),
            config,
        };
        Ok(Server { policy, listener, pages, shared: Arc::new(shared) })
    }

    /// Where it listens: with the port that the system chose, where that was 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|source| Error::Listen { address: self.shared.config.address, source })
    }

    /// Where pages are read.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.pages.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `stop` says so or a client that may ends it. What was asked before is answered first, for ten
    /// seconds at most.
    ///
    /// # Errors
    /// A thread cannot be started; the engine's thread ended by a defect.
    pub fn run(self, stop: impl Fn() -> bool) -> Result<()> {
        let Server { policy, listener, pages, shared } = self;
        let engine = run_engine(policy, &shared)?;
        let mut number = 0;
        while shared.is_ready() && !stop() {
            let mut idle = true;
            if let Ok((stream, _)) = listener.accept() {
                number += 1;
                meet(&shared, stream, number);
                idle = false;
            }
            if let Some(Ok((stream, _))) = pages.as_ref().map(TcpListener::accept) {
                show(&shared, stream);
                idle = false;
            }
            if idle {
                std::thread::sleep(TICK);
            }
        }
        let defect = shared.engine_ended.load(Ordering::Acquire);
        shared.stop();
        drop(listener);
        shared.streams.stop_reading();
        shared.streams.wait_until_empty(GRACE);
        shared.queue.close();
        if let Some(recorder) = &shared.recorder {
            recorder.end();
        }
        if !defect && engine.join().is_ok() { Ok(()) } else { Err(Error::EngineEnded) }
    }
}

/// Says that the engine's thread ended, also where it panicked.
struct EngineEnds(Arc<Shared>);

impl Drop for EngineEnds {
    fn drop(&mut self) {
        self.0.engine_ended.store(true, Ordering::Release);
        self.0.queue.abandon();
    }
}

fn run_engine(mut policy: Policy, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let ends = EngineEnds(Arc::clone(shared));
    let run = move || ends.0.queue.run(policy.engine_mut());
    Builder::new()
        .name("engine".to_owned())
        .spawn(run)
        .map_err(|source| Error::Thread { name: "engine", source })
}

/// Forgets a connection when its thread ends, however it does.
struct Leaves {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.shared.streams.remove(self.number);
        self.shared.metrics.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Gives a client a thread; where there are too many, it is let go.
fn meet(shared: &Arc<Shared>, stream: TcpStream, number: u64) {
    let connected = shared.metrics.connections.load(Ordering::Acquire);
    let Ok(kept) = stream.try_clone() else { return shared.metrics.count(Count::Dropped) };
    if connected >= shared.config.max_clients as u64 {
        return shared.metrics.count(Count::Dropped);
    }
    shared.metrics.connections.fetch_add(1, Ordering::AcqRel);
    shared.streams.add(number, kept);
    let leaves = Leaves { shared: Arc::clone(shared), number };
    let attend = move || client::attend(&leaves.shared, stream);
    if Builder::new().name("client".to_owned()).spawn(attend).is_err() {
        shared.metrics.count(Count::Dropped);
    }
}

/// Answers a page in a thread; where there are too many, it is let go.
fn show(shared: &Arc<Shared>, stream: TcpStream) {
    if shared.pages.fetch_add(1, Ordering::AcqRel) >= MAX_PAGES {
        shared.pages.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let own = Arc::clone(shared);
    let attend = move || {
        http::attend(&own, stream);
        own.pages.fetch_sub(1, Ordering::AcqRel);
    };
    if Builder::new().name("page".to_owned()).spawn(attend).is_err() {
        shared.pages.fetch_sub(1, Ordering::AcqRel);
    }
}
