//! The server: listeners, threads, and how they end.

use crate::client::{self, Streams};
use crate::http;
use crate::metrics::{self, Connections, EngineMetrics, Metrics};
use crate::observation::MAX_OBSERVATIONS;
use crate::openpi;
use crate::pool::{Placed, Pool};
use crate::queue::Queue;
use crate::recording::{Record, Recorder};
use crate::{Error, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use steadyhand_gr00t::Policy;
use steadyhand_gr00t::engine::Engine;
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
    /// Where OpenPI's clients connect to, if anywhere.
    pub openpi: Option<SocketAddr>,
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
    /// What `/info` shows, beside the engines.
    pub info: serde_json::Map<String, serde_json::Value>,
    /// Is told what happens to engines.
    pub tell: fn(&str),
}

/// What clients ask for by a name: an embodiment of a checkpoint.
pub struct Model {
    /// The name.
    pub name: String,
    /// Observations to model input, normalized to physical actions.
    pub processor: Arc<Processor>,
    /// `[action_horizon, max_action_dim]`.
    pub noise_shape: [usize; 2],
    /// Of the noise of clients.
    pub seed: u64,
    /// Where requests and replies are recorded, if anywhere.
    pub record: Option<Record>,
}

/// Engines of one checkpoint, and the models that they compute.
pub struct Deployment {
    /// What pages call the checkpoint.
    pub checkpoint: String,
    /// At least one, of the same weights and number formats: a request is computed by the one that is free first.
    pub engines: Vec<Placed>,
    /// At least one.
    pub models: Vec<Model>,
}

impl From<Policy> for Deployment {
    /// The policy as the only model of its engine, named by its embodiment.
    fn from(policy: Policy) -> Self {
        let (noise_shape, seed) = (policy.noise_shape(), policy.seed());
        let processor = Arc::clone(policy.processor());
        let name = processor.embodiment_tag().to_owned();
        let engine = policy.into_engine();
        Deployment {
            checkpoint: name.clone(),
            engines: vec![Placed { device: engine.name().to_owned(), engine }],
            models: vec![Model { name, processor, noise_shape, seed, record: None }],
        }
    }
}

/// Models that are listened for; [`Server::run`] answers.
pub struct Server {
    /// Of each pool.
    engines: Vec<Vec<Box<dyn Engine + Send>>>,
    listener: TcpListener,
    openpi: Option<TcpListener>,
    pages: Option<TcpListener>,
    shared: Arc<Shared>,
}

/// A model as clients' threads know it.
pub struct Offered {
    pub(crate) name: String,
    pub(crate) preparation: Preparation,
    /// `[action_horizon, max_action_dim]`.
    pub(crate) noise_shape: [usize; 2],
    pub(crate) seed: u64,
    /// Identity and name of its engines' number formats.
    pub(crate) precision: [String; 2],
    pub(crate) pool: Arc<Pool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Option<Recorder>,
}

impl Offered {
    pub(crate) fn processor(&self) -> &Processor {
        self.preparation.processor()
    }
}

/// What all threads know.
pub struct Shared {
    pub(crate) config: Config,
    /// At least one; a client that names none has the first.
    pub(crate) models: Vec<Offered>,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) connections: Connections,
    streams: Streams,
    pages: AtomicUsize,
    stopping: AtomicBool,
}

impl Shared {
    /// Tells the server to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether every model has an engine that works.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_stopping() && self.pools.iter().all(|pool| pool.is_working())
    }

    fn has_engines(&self) -> bool {
        self.pools.iter().any(|pool| pool.is_working())
    }

    /// Why there is no engine to ask.
    pub(crate) fn ended(&self) -> Error {
        match self.is_stopping() {
            true => Error::Stopping,
            false => Error::EngineEnded,
        }
    }

    /// The page that Prometheus reads.
    pub(crate) fn metrics(&self) -> String {
        let models: Vec<_> = self.models.iter().map(|model| Arc::clone(&model.metrics)).collect();
        metrics::page(&models, &self.pools, &self.connections)
    }
}

impl Server {
    /// Listens; from now on clients can connect, and are answered once [`Server::run`] is called.
    ///
    /// # Errors
    /// An address that cannot be listened on; a limit of 0; no model, no engine of one, or two models of one name; a
    /// recording that cannot be begun.
    pub fn bind(deployments: Vec<Deployment>, config: Config) -> Result<Self> {
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
        let openpi = config.openpi.map(listen).transpose()?;
        let pages = config.http.map(listen).transpose()?;
        let (mut engines, mut models, mut pools) = (Vec::new(), Vec::new(), Vec::new());
        let mut number = 0;
        for deployment in deployments {
            let (own, pool, offered) = deploy(deployment, &config, &mut number)?;
            engines.push(own);
            pools.push(pool);
            models.extend(offered);
        }
        if models.is_empty() {
            return Err(Error::Option {
                option: "models",
                what: "expected at least one, found none".to_owned(),
            });
        }
        for (place, model) in models.iter().enumerate() {
            if models[..place].iter().any(|other: &Offered| other.name == model.name) {
                let what = format!("expected each name once, found {} twice", model.name);
                return Err(Error::Option { option: "models", what });
            }
        }
        let shared = Shared {
            models,
            pools,
            connections: Connections::default(),
            streams: Streams::default(),
            pages: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            config,
        };
        Ok(Server { engines, listener, openpi, pages, shared: Arc::new(shared) })
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

    /// Where OpenPI's clients connect to.
    pub fn openpi_address(&self) -> Option<SocketAddr> {
        self.openpi.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Where pages are read.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.pages.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `stop` says so or a client that may ends it. What was asked before is answered first, for ten
    /// seconds at most.
    ///
    /// # Errors
    /// A thread cannot be started; an engine's thread ended by a defect.
    pub fn run(self, stop: impl Fn() -> bool) -> Result<()> {
        let Server { engines, listener, openpi, pages, shared } = self;
        let mut at_work = Vec::new();
        for (pool, engines) in shared.pools.iter().zip(engines) {
            for (place, engine) in engines.into_iter().enumerate() {
                at_work.push(run_engine(Arc::clone(pool), place, engine)?);
            }
        }
        let mut number = 0;
        while !shared.is_stopping() && shared.has_engines() && !stop() {
            let mut idle = true;
            let fronts = [(Some(&listener), client::attend as Attend), (openpi.as_ref(), openpi::attend)];
            for (listener, attend) in fronts {
                if let Some(Ok((stream, _))) = listener.map(TcpListener::accept) {
                    number += 1;
                    meet(&shared, stream, number, attend);
                    idle = false;
                }
            }
            if let Some(Ok((stream, _))) = pages.as_ref().map(TcpListener::accept) {
                show(&shared, stream);
                idle = false;
            }
            if idle {
                std::thread::sleep(TICK);
            }
        }
        shared.stop();
        drop((listener, openpi));
        shared.streams.stop_reading();
        shared.streams.wait_until_empty(GRACE);
        shared.pools.iter().for_each(|pool| pool.queue.close());
        shared.models.iter().filter_map(|model| model.recorder.as_ref()).for_each(Recorder::end);
        // All are waited for before one of them is said to have ended otherwise.
        let ended: Vec<_> = at_work.into_iter().map(JoinHandle::join).collect();
        if ended.iter().all(std::thread::Result::is_ok) { Ok(()) } else { Err(Error::EngineEnded) }
    }
}

/// What is made of a deployment: its engines, their pool, and the models. `number` is that of the next engine.
type Deployed = (Vec<Box<dyn Engine + Send>>, Arc<Pool>, Vec<Offered>);

fn deploy(deployment: Deployment, config: &Config, number: &mut usize) -> Result<Deployed> {
    let Deployment { checkpoint, engines, models } = deployment;
    let Some(first) = engines.first().map(|placed| placed.engine.as_ref()) else {
        let what = format!("expected at least one for {checkpoint}, found none");
        return Err(Error::Option { option: "engines", what });
    };
    let precision = [first.precision().identity(), first.precision().name().to_owned()];
    let prepared: Vec<_> = models.iter().map(|model| Preparation::new(&model.processor, first)).collect();
    let (mut own, mut shown) = (Vec::new(), Vec::new());
    for Placed { engine, device } in engines {
        shown.push(EngineMetrics::new(*number, engine.name().to_owned(), device));
        own.push(engine);
        *number += 1;
    }
    let queue = Queue::new(config.max_batch, config.max_wait);
    let pool = Arc::new(Pool::new(checkpoint, queue, shown, config.tell));
    let offer = |(model, preparation): (_, Preparation)| {
        let Model { name, processor, noise_shape, seed, record } = model;
        let metrics = Arc::new(Metrics::new(&name));
        let tag = processor.embodiment_tag();
        let begin = |record| Recorder::start(record, tag, noise_shape, Arc::clone(&metrics));
        let recorder = record.map(begin).transpose()?;
        let (precision, pool) = (precision.clone(), Arc::clone(&pool));
        Ok(Offered { name, preparation, noise_shape, seed, precision, pool, metrics, recorder })
    };
    let models = models.into_iter().zip(prepared).map(offer).collect::<Result<_>>()?;
    Ok((own, pool, models))
}

/// Says that an engine's thread ended, also where it panicked.
struct EngineEnds {
    pool: Arc<Pool>,
    place: usize,
}

impl Drop for EngineEnds {
    fn drop(&mut self) {
        self.pool.ended(self.place);
    }
}

fn run_engine(pool: Arc<Pool>, place: usize, mut engine: Box<dyn Engine + Send>) -> Result<JoinHandle<()>> {
    let ends = EngineEnds { pool, place };
    let run = move || ends.pool.run(ends.place, engine.as_mut());
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
        self.shared.connections.now.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What serves a client of some protocol until it leaves.
type Attend = fn(&Shared, TcpStream);

/// Gives a client a thread; where there are too many, it is let go.
fn meet(shared: &Arc<Shared>, stream: TcpStream, number: u64, attend: Attend) {
    let connected = shared.connections.now.load(Ordering::Acquire);
    let Ok(kept) = stream.try_clone() else { return shared.connections.dropped() };
    if connected >= shared.config.max_clients as u64 {
        return shared.connections.dropped();
    }
    shared.connections.now.fetch_add(1, Ordering::AcqRel);
    shared.streams.add(number, kept);
    let leaves = Leaves { shared: Arc::clone(shared), number };
    let attend = move || attend(&leaves.shared, stream);
    if Builder::new().name("client".to_owned()).spawn(attend).is_err() {
        shared.connections.dropped();
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
