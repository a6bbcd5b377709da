//! A policy without its engine.

use super::Policy;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::engine::{Backend, Engine, check_steps};
use crate::model::Model;
use crate::precision::PrecisionPolicy;
use crate::processor::{Processor, chosen_tag, known_embodiment_tags};
use crate::{Error, Result, synthetic};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The model and the processor of one embodiment, which fit each other.
#[derive(Clone)]
pub struct Parts {
    /// The model.
    pub model: Model,
    /// Observations to model input, normalized to physical actions.
    pub processor: Arc<Processor>,
    weights: Weights,
}

/// Where the weights are from.
#[derive(Debug, Clone)]
enum Weights {
    Folder(PathBuf),
    /// The sizes' name, such as `synth:n1.6`.
    Synthetic {
        name: String,
        seed: u64,
    },
}

/// How number formats are named.
#[derive(Debug, Clone)]
pub enum Precision {
    /// A preset such as `bf16`, or the path of a `.toml` file.
    Name(String),
    /// The path of a TOML file.
    File(PathBuf),
    /// Number formats that are already read.
    Policy(PrecisionPolicy),
}

impl Parts {
    /// Loads processor and model of a checkpoint folder and checks that they fit. `embodiment_tag` may be left out where
    /// the checkpoint has only one; the tokenizer is the folder's unless `tokenizer` names another.
    ///
    /// # Errors
    /// [`Error::Option`] for a tag that must be named; otherwise the file and the field.
    pub fn load(folder: &Path, embodiment_tag: Option<&str>, tokenizer: Option<&Path>) -> Result<Self> {
        let tags = known_embodiment_tags(folder)?;
        let tag = chosen_tag(embodiment_tag, &tags)?;
        let processor = Processor::load(folder, tag, tokenizer)?;
        let model = load_model(folder)?;
        check_horizon(&processor, &model)?;
        check_processor(&processor, &model)?;
        Ok(Parts { model, processor: Arc::new(processor), weights: Weights::Folder(folder.to_path_buf()) })
    }

    /// Parts without files: a model of random weights that `seed` determines. `name` is that of its sizes.
    pub(crate) fn synthetic(name: &str, seed: u64, model: Model, processor: Processor) -> Self {
        let weights = Weights::Synthetic { name: name.to_owned(), seed };
        Parts { model, processor: Arc::new(processor), weights }
    }

    /// The checkpoint's folder, or the name of synthetic sizes.
    pub fn name(&self) -> String {
        match &self.weights {
            Weights::Folder(folder) => folder.display().to_string(),
            Weights::Synthetic { name, .. } => name.clone(),
        }
    }

    /// The checkpoint's folder; `None` for synthetic weights.
    pub fn folder(&self) -> Option<&Path> {
        match &self.weights {
            Weights::Folder(folder) => Some(folder),
            Weights::Synthetic { .. } => None,
        }
    }

    /// What tells the weights from others: [`Checkpoint::fingerprint`], which reads them all, or
    /// [`synthetic::fingerprint`].
    pub fn fingerprint(&self) -> String {
        match (&self.weights, self.model.checkpoint()) {
            (Weights::Synthetic { name, seed }, _) => synthetic::fingerprint(name, *seed),
            (Weights::Folder(_), checkpoint) => checkpoint.map(Checkpoint::fingerprint).unwrap_or_default(),
        }
    }

    /// The shape of an inference's noise: `[action_horizon, max_action_dim]`.
    pub fn noise_shape(&self) -> [usize; 2] {
        [self.model.config.action_horizon, self.model.config.max_action_dim]
    }

    /// Number formats that fit the model and whose calibration, where they have one, is of these weights and this
    /// embodiment.
    ///
    /// # Errors
    /// An unknown preset, a file that cannot be read, a rule that reaches no site of the model, formats that do not go
    /// together at some site, a calibration of something else.
    pub fn precision(&self, wanted: impl Into<Precision>) -> Result<PrecisionPolicy> {
        match &self.weights {
            Weights::Folder(_) => precision(&self.model, wanted, Some(self.processor.embodiment_tag())),
            Weights::Synthetic { .. } => {
                let policy = fitting(&self.model, wanted.into())?;
                if let Some(calibration) = policy.calibration() {
                    calibration.expect_weights(&self.fingerprint())?;
                }
                Ok(policy)
            }
        }
    }

    /// An engine of these parts' model.
    ///
    /// # Errors
    /// As [`Parts::precision`] and [`Backend::open`].
    pub fn engine(
        &self,
        backend: &dyn Backend,
        precision: impl Into<Precision>,
        denoising_steps: usize,
    ) -> Result<Box<dyn Engine + Send>> {
        check_steps(&self.model, denoising_steps)?;
        backend.open(self.model.clone(), self.precision(precision)?, denoising_steps)
    }

    /// The whole policy. `seed` is that of its noise.
    ///
    /// # Errors
    /// As [`Parts::engine`].
    pub fn policy(
        &self,
        backend: &dyn Backend,
        precision: impl Into<Precision>,
        denoising_steps: usize,
        seed: u64,
    ) -> Result<Policy> {
        Ok(Policy::new(self, self.engine(backend, precision, denoising_steps)?, seed))
    }
}

impl Precision {
    fn load(self) -> Result<PrecisionPolicy> {
        match self {
            Precision::Name(name) => PrecisionPolicy::load(&name),
            Precision::File(path) => PrecisionPolicy::from_toml_file(path),
            Precision::Policy(policy) => Ok(policy),
        }
    }
}

impl From<&str> for Precision {
    fn from(name: &str) -> Self {
        Precision::Name(name.to_owned())
    }
}

impl From<&String> for Precision {
    fn from(name: &String) -> Self {
        Precision::Name(name.clone())
    }
}

impl From<String> for Precision {
    fn from(name: String) -> Self {
        Precision::Name(name)
    }
}

impl From<&Path> for Precision {
    fn from(path: &Path) -> Self {
        Precision::File(path.to_path_buf())
    }
}

impl From<PathBuf> for Precision {
    fn from(path: PathBuf) -> Self {
        Precision::File(path)
    }
}

impl From<PrecisionPolicy> for Precision {
    fn from(policy: PrecisionPolicy) -> Self {
        Precision::Policy(policy)
    }
}

/// Number formats that fit `model`. A calibration must be of its checkpoint, and of the embodiment where that is known.
///
/// # Errors
/// As [`Parts::precision`].
pub fn precision(
    model: &Model,
    wanted: impl Into<Precision>,
    embodiment_tag: Option<&str>,
) -> Result<PrecisionPolicy> {
    let policy = fitting(model, wanted.into())?;
    if let (Some(calibration), Some(checkpoint)) = (policy.calibration(), model.checkpoint()) {
        calibration.expect_model(checkpoint, embodiment_tag)?;
    }
    Ok(policy)
}

fn fitting(model: &Model, wanted: Precision) -> Result<PrecisionPolicy> {
    let policy = wanted.load()?;
    policy.check(&model.sites()?)?;
    Ok(policy)
}

/// Opens a checkpoint folder and finds the model in it.
///
/// # Errors
/// The folder is not a checkpoint of a known version: named by file and field.
pub fn load_model(folder: &Path) -> Result<Model> {
    let config = Config::load(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    Model::load(&checkpoint, config)
}

/// Whether a processor's action horizon fits the model's.
///
/// # Errors
/// The processor asks for more action steps than the model predicts.
pub fn check_horizon(processor: &Processor, model: &Model) -> Result<()> {
    let (asked, predicted) = (processor.action_horizon(), model.config.action_horizon);
    if asked <= predicted {
        return Ok(());
    }
    let field = format!("processor_config.json: modality_configs.{}.action", processor.embodiment_tag());
    Err(Error::input(field, format!("expected at most {predicted} delta_indices, found {asked}")))
}

/// Whether the model is of the processor's version, and has the slot of its embodiment and its padded widths.
///
/// # Errors
/// One of them differs.
pub fn check_processor(processor: &Processor, model: &Model) -> Result<()> {
    let (found, expected) = (processor.version(), model.config.version);
    if found != expected {
        let what = format!(
            "expected that of config.json's model_type `{}`, found `{}`, that of {found}",
            expected.model_type(),
            found.processor_class()
        );
        return Err(Error::input("processor_config.json: processor_class", what));
    }
    let (slot, slots) = (processor.embodiment_id(), model.config.max_num_embodiments);
    if slot >= slots {
        let field = format!("embodiment id of {}", processor.embodiment_tag());
        let what = format!(
            "expected below max_num_embodiments = {slots} of config.json, found {slot}; embodiment_id.json gives the ids, \
             and the official table of {expected} those of tags that the file leaves out"
        );
        return Err(Error::input(field, what));
    }
    let rows = processor.modalities().state.delta_indices.len();
    if let Some(expected) = model.config.state_rows().filter(|expected| *expected != rows) {
        let field = format!("processor_config.json: modality_configs.{}.state", processor.embodiment_tag());
        let what =
            format!("expected {expected} delta_indices, state_history_length of config.json, found {rows}");
        return Err(Error::input(field, what));
    }
    for (name, model, processor) in [
        ("max_state_dim", model.config.max_state_dim, processor.max_state_dim()),
        ("max_action_dim", model.config.max_action_dim, processor.max_action_dim()),
    ] {
        if model != processor {
            let what = format!("expected {model} as in config.json, found {processor}");
            return Err(Error::input(format!("processor_config.json: {name}"), what));
        }
    }
    Ok(())
}
