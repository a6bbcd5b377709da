//! Engines as they are named on the command line.
//!
//! Each kind of engine has a file here and a line in [`KINDS`]; nothing else lists them.

mod auto;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda.rs"]
pub mod cuda;
mod expected;
mod fault;
mod onnxruntime;
pub mod remote;
mod spec;
mod tensorrt;
pub mod trace;

pub use spec::{EngineSpec, precision};

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use steadyhand_external::onnxruntime::Provider;
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::engine::{Backend, Engine};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::session::{NoiseSource, Scene};
use steadyhand_gr00t::{ActionChunk, Matrix};

/// Every kind of engine, in the order of lists.
const KINDS: &[Kind] = &[
    cpu::KIND,
    cuda::KIND,
    auto::KIND,
    onnxruntime::KIND,
    tensorrt::KIND,
    trace::KIND,
    expected::KIND,
    remote::KIND,
    fault::KIND,
];

/// One kind of engine.
#[derive(Debug)]
pub struct Kind {
    /// What stands before the colon.
    pub name: &'static str,
    /// The whole as it is typed, such as `expected:DIR#NAME`.
    pub form: &'static str,
    /// What it is, for help.
    pub about: &'static str,
    /// Whether its components take tensors from outside.
    pub exchanges: bool,
    /// How its engines are had.
    pub open: Open,
}

/// How engines of a kind are had.
#[derive(Debug)]
pub enum Open {
    /// They run here, at the precision after the colon.
    Running {
        /// Options of the command line that only some kinds read, those that this one does.
        options: &'static [&'static str],
        /// What opens them.
        backend: fn(&Options) -> Result<Box<dyn Backend>>,
    },
    /// They run here, from the file that stands after the colon.
    Stored {
        /// As of those that run here.
        options: &'static [&'static str],
        /// The precision that the file says it runs at, if it does.
        precision: fn(&Path) -> Result<Option<PrecisionPolicy>>,
        /// What opens one.
        backend: fn(&Path, &Options) -> Result<Box<dyn Backend>>,
    },
    /// They are there to be examined; what stands after the colon says where.
    Examined {
        /// The precision that they say they run at.
        precision: &'static str,
        /// As those of engines that run here.
        options: &'static [&'static str],
        /// Whether the text after the colon has the form.
        fits: fn(&str) -> bool,
        /// The noise that came with what they left, if any.
        noise: fn(&str) -> Option<NoiseSource>,
        /// Opens one.
        open: fn(&str, &Asked) -> Result<Examined>,
    },
}

/// What an engine to examine is opened for.
pub struct Asked<'a> {
    /// What it is shown.
    pub scene: &'a Scene,
    /// Of the noise; none where it was recorded.
    pub seed: Option<u64>,
    /// Euler steps of an inference.
    pub denoising_steps: usize,
    /// What it says it runs at.
    pub precision: &'a PrecisionPolicy,
    /// Options of engines, of which it takes those of its kind.
    pub options: &'a Options,
}

/// An engine to examine.
pub enum Examined {
    /// It runs here.
    Running(Box<dyn Engine>),
    /// It left tensors.
    Trace(Rc<Trace>),
    /// It left normalized actions, one matrix an inference.
    Actions(Vec<Matrix>),
    /// It gave physical actions, one chunk an inference.
    Physical(Vec<ActionChunk>),
}

/// Options of engines; a kind reads its own.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Number of the GPU.
    pub device: Option<usize>,
    /// Where compiled kernels are kept.
    pub kernel_cache: Option<PathBuf>,
    /// Where kernels' sources are read from.
    pub kernel_dir: Option<PathBuf>,
    /// ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// What ONNX Runtime computes with.
    pub provider: Option<Provider>,
    /// A graph for ONNX Runtime.
    pub onnx: Option<PathBuf>,
    /// TensorRT's library.
    pub tensorrt: Option<PathBuf>,
    /// Where a policy server is, and how it is asked.
    pub server: remote::Server,
}

impl Options {
    /// Fails where an option was given that none of these engines reads.
    ///
    /// # Errors
    /// Names the option and the kinds that read it.
    pub fn check(&self, engines: &[&EngineSpec]) -> Result<()> {
        for option in self.given() {
            let readers = KINDS.iter().filter(|kind| kind.options().contains(&option));
            let readers: Vec<&str> = readers.map(|kind| kind.name).collect();
            ensure!(
                engines.iter().any(|engine| readers.contains(&engine.name())),
                "{option}: expected with {}, found with {}",
                spec::either(&readers),
                spec::either(&engines.iter().map(|engine| engine.name()).collect::<Vec<_>>())
            );
        }
        Ok(())
    }

    /// Options that were given, as they are typed.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        let remote::Server { host, port, api_token, model, reply_timeout } = &self.server;
        let options = [
            ("--host", host.is_some()),
            ("--port", port.is_some()),
            ("--api-token", api_token.is_some()),
            ("--remote-model", model.is_some()),
            ("--reply-timeout", reply_timeout.is_some()),
            ("--device", self.device.is_some()),
            ("--kernel-cache", self.kernel_cache.is_some()),
            ("--kernel-dir", self.kernel_dir.is_some()),
            ("--onnx", self.onnx.is_some()),
            ("--provider", self.provider.is_some()),
            ("--onnxruntime", self.onnxruntime.is_some()),
            ("--tensorrt", self.tensorrt.is_some()),
        ];
        options.into_iter().filter(|(_, given)| *given).map(|(option, _)| option)
    }
}

impl Kind {
    /// Its own options.
    const fn options(&self) -> &'static [&'static str] {
        match self.open {
            Open::Running { options, .. } | Open::Stored { options, .. } | Open::Examined { options, .. } => {
                options
            }
        }
    }
}
