//! The engine under examination: running here, or known by what it left.

use super::scene::Scene;
use crate::noise::NoiseSource;
use crate::tensors::Tensors;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use steadyhand_external::onnxruntime::{OnnxRuntimeEngine, RuntimeOptions};
use steadyhand_fidelity::Trace;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::checkpoint::Checkpoint;
use steadyhand_gr00t::engine::{CpuEngine, Engine};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t_cuda::{CudaEngine, Options};
use steadyhand_gr00t_lab::diagnosis::Subject;
use steadyhand_gr00t_lab::fault::{Fault, FaultyEngine, suite};

/// How an engine is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `cpu:PRECISION`, a preset or a `.toml` file.
    Cpu(String),
    /// `cuda:PRECISION`, a preset or a `.toml` file: the engine on the first GPU.
    Cuda(String),
    /// `onnxruntime:PRECISION`: the policy exported and run by ONNX Runtime, which shows its actions only.
    OnnxRuntime(String),
    /// `trace:DIR`: tensors that an engine left, named as the reference's taps.
    Trace(PathBuf),
    /// `expected:DIR#NAME`: only its final actions, tensor `normalized_actions.NAME` of
    /// `episode_NNNNNN.safetensors`, with the noise they came from.
    Expected(PathBuf, String),
    /// `fault:NAME` or `fault:NAME:weak`: the reference with a fault of the suite.
    Fault(String, bool),
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("cpu", precision)) => Ok(Spec::Cpu(precision.to_owned())),
            Some(("cuda", precision)) => Ok(Spec::Cuda(precision.to_owned())),
            Some(("onnxruntime", precision)) => Ok(Spec::OnnxRuntime(precision.to_owned())),
            Some(("trace", folder)) => Ok(Spec::Trace(folder.into())),
            Some(("expected", rest)) => match rest.rsplit_once('#') {
                Some((folder, name)) => Ok(Spec::Expected(folder.into(), name.to_owned())),
                None => Err(format!("expected `expected:DIR#NAME`, found `{text}`")),
            },
            Some(("fault", rest)) => match rest.strip_suffix(":weak") {
                Some(name) => Ok(Spec::Fault(name.to_owned(), true)),
                None => Ok(Spec::Fault(rest.to_owned(), false)),
            },
            _ => Err(format!(
                "expected cpu:PRECISION, cuda:PRECISION, onnxruntime:PRECISION, trace:DIR, expected:DIR#NAME or \
                 fault:NAME[:weak], found `{text}`"
            )),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Cpu(precision) => write!(formatter, "cpu:{precision}"),
            Spec::Cuda(precision) => write!(formatter, "cuda:{precision}"),
            Spec::OnnxRuntime(precision) => write!(formatter, "onnxruntime:{precision}"),
            Spec::Trace(folder) => write!(formatter, "trace:{}", folder.display()),
            Spec::Expected(folder, name) => write!(formatter, "expected:{}#{name}", folder.display()),
            Spec::Fault(name, weak) => write!(formatter, "fault:{name}{}", if *weak { ":weak" } else { "" }),
        }
    }
}

impl Spec {
    /// What the engine runs at where the command line does not say: its own word, or bf16, the official precision.
    pub fn precision(&self) -> &str {
        match self {
            Spec::Cpu(precision) | Spec::Cuda(precision) | Spec::OnnxRuntime(precision) => precision,
            Spec::Fault(..) => "f32",
            Spec::Trace(_) | Spec::Expected(..) => "bf16",
        }
    }

    /// The noise that came with it, if any.
    pub fn noise(&self) -> Option<NoiseSource> {
        match self {
            Spec::Expected(folder, _) => Some(NoiseSource::Recorded(folder.clone())),
            _ => None,
        }
    }
}

/// An engine, opened.
pub enum Opened {
    /// It runs here, and shows every tensor.
    Live(Box<dyn Engine>),
    /// It runs here, and shows its actions only.
    Closed(Box<dyn Engine>),
    /// It left tensors.
    Trace(Rc<Trace>),
    /// It left normalized actions, one matrix an inference.
    Actions(Vec<Matrix>),
}

impl Opened {
    /// The engine as a diagnosis takes it.
    pub fn subject(&mut self) -> Subject<'_> {
        match self {
            Opened::Live(engine) => Subject::Live(engine.as_mut()),
            Opened::Closed(engine) => Subject::Closed(engine.as_mut()),
            Opened::Trace(trace) => Subject::Trace(Rc::clone(trace)),
            Opened::Actions(actions) => Subject::Actions(actions.clone()),
        }
    }

    /// Opens the engine that `spec` names. `policy` is what it says it runs at.
    ///
    /// # Errors
    /// What is named does not exist or has another form; the runtime or the GPU that it needs is not there.
    pub fn open(spec: &Spec, scene: &Scene, policy: &PrecisionPolicy) -> Result<Self> {
        let (model, denoising_steps) = (&scene.model, scene.denoising_steps);
        Ok(match spec {
            Spec::Cpu(precision) => {
                // Whatever it claims to run at.
                let own = scene.policy(precision)?;
                Opened::Live(Box::new(CpuEngine::new(model.clone(), own, denoising_steps)))
            }
            Spec::Cuda(precision) => {
                let own = scene.policy(precision)?;
                let engine = CudaEngine::new(model.clone(), own, denoising_steps, Options::default())
                    .with_context(|| format!("{spec} cannot run"))?;
                Opened::Live(Box::new(engine))
            }
            Spec::OnnxRuntime(precision) => {
                let own = scene.policy(precision)?;
                let Some(folder) = &scene.folder else {
                    bail!("{spec}: expected a checkpoint folder, found {}", scene.checkpoint)
                };
                let fingerprint = Checkpoint::open(folder)?.fingerprint();
                let (model, runtime) = (model.clone(), RuntimeOptions::default());
                let engine =
                    OnnxRuntimeEngine::exporting(model, &fingerprint, own, denoising_steps, &runtime)?;
                Opened::Closed(Box::new(engine))
            }
            Spec::Fault(name, weak) => {
                let fault = known_fault(model, name, *weak)?;
                Opened::Live(Box::new(FaultyEngine::new(model, policy, denoising_steps, fault)))
            }
            Spec::Trace(folder) => Opened::Trace(Rc::new(Trace::open(folder)?)),
            Spec::Expected(folder, name) => Opened::Actions(recorded_actions(folder, name, scene.episode)?),
        })
    }
}

/// A fault of the suite by its name, words joined by hyphens.
fn known_fault(model: &Model, name: &str, weak: bool) -> Result<Fault> {
    let hyphened = |name: &str| name.replace(' ', "-");
    let cases = suite(&model.config);
    match cases.iter().find(|case| hyphened(case.name) == name) {
        Some(case) => Ok(if weak { case.weak.clone() } else { case.strong.clone() }),
        None => {
            let known: Vec<String> = cases.iter().map(|case| hyphened(case.name)).collect();
            bail!("fault: expected one of {}, found `{name}`", known.join(", "))
        }
    }
}

fn recorded_actions(folder: &Path, name: &str, episode: usize) -> Result<Vec<Matrix>> {
    let path = folder.join(format!("episode_{episode:06}.safetensors"));
    let tensor = format!("normalized_actions.{name}");
    let tensors = Tensors::read(&path)?;
    let actions = tensors.float(&tensor).with_context(|| {
        let known = tensors.floats().keys().filter_map(|key| key.strip_prefix("normalized_actions."));
        format!("known names: {}", known.collect::<Vec<_>>().join(", "))
    })?;
    let [_, rows, cols] = actions.shape[..] else {
        bail!("{}: {tensor}: expected [inferences, horizon, dim], found {:?}", path.display(), actions.shape);
    };
    let chunks = actions.values.chunks_exact(rows * cols);
    Ok(chunks.map(|data| Matrix { rows, cols, data: data.to_vec() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_understood() {
        assert_eq!("cpu:bf16".parse(), Ok(Spec::Cpu("bf16".into())));
        assert_eq!("cuda:mixed".parse(), Ok(Spec::Cuda("mixed".into())));
        assert_eq!("onnxruntime:f32".parse(), Ok(Spec::OnnxRuntime("f32".into())));
        assert_eq!("cpu:a/my.toml".parse(), Ok(Spec::Cpu("a/my.toml".into())));
        assert_eq!("trace:a:b".parse(), Ok(Spec::Trace("a:b".into())));
        assert_eq!("expected:a#b#misread".parse(), Ok(Spec::Expected("a#b".into(), "misread".into())));
        assert_eq!("fault:unwritten-tail:weak".parse(), Ok(Spec::Fault("unwritten-tail".into(), true)));
        assert!("expected:a".parse::<Spec>().is_err() && "gpu".parse::<Spec>().is_err());
    }

    #[test]
    fn specs_are_written_as_they_are_read() {
        for text in ["cpu:f32", "cuda:mixed", "onnxruntime:bf16", "trace:a", "expected:a#b", "fault:a:weak"] {
            let spec: Spec = text.parse().expect("a spec");
            assert_eq!(format!("{spec}"), text);
        }
        assert_eq!("cuda:fp16".parse::<Spec>().expect("a spec").precision(), "fp16");
    }
}
