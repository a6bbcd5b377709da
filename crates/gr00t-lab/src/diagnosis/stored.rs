//! Intermediate tensors on disk: written as an engine runs, read one at a time.

use super::Observed;
use crate::{Error, Result};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use steadyhand_fidelity::{Trace, TraceError, TraceWriter};
use steadyhand_files::scratch;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::probe::Probe;

/// The tensors of one inference in a trace: names begin with the inference's number, `003/dit.output`.
#[derive(Clone)]
pub struct OfInference {
    /// All tensors.
    pub trace: Rc<Trace>,
    /// Counted from 0.
    pub inference: usize,
}

impl OfInference {
    /// A tap's name in the trace.
    pub fn name(inference: usize, tap: &str) -> String {
        format!("{inference:03}/{tap}")
    }

    /// The taps of this inference, in the order of writing.
    pub fn taps(&self) -> Vec<String> {
        let prefix = Self::name(self.inference, "");
        self.trace.names().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
    }
}

impl Observed for OfInference {
    fn read(&self, tap: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let name = Self::name(self.inference, tap);
        let shape = self.trace.entry(&name).ok()?.shape.clone();
        // A tensor that cannot be read was reported when the trace was audited.
        Some((shape, self.trace.read(&name).ok()?))
    }
}

/// A probe that writes taps as they come; none of them stays in memory.
pub struct TapWriter<'a> {
    writer: &'a mut TraceWriter,
    folder: PathBuf,
    inference: usize,
    /// Whether the tap of this name is written.
    wanted: &'a dyn Fn(&str) -> bool,
    values: usize,
    failure: Option<TraceError>,
}

impl<'a> TapWriter<'a> {
    /// Writes those taps of an inference that are `wanted`.
    pub fn new(writer: &'a mut TraceWriter, inference: usize, wanted: &'a dyn Fn(&str) -> bool) -> Self {
        let folder = writer.folder().to_path_buf();
        TapWriter { writer, folder, inference, wanted, values: 0, failure: None }
    }

    /// Whether everything was written.
    ///
    /// # Errors
    /// The first tensor that was not, with how much was before it: a disk fills up.
    pub fn finish(self) -> Result<()> {
        match self.failure {
            None => Ok(()),
            Some(failure) => {
                let megabytes = self.values * 4 / 1_000_000;
                let what = format!("after {megabytes} MB of one inference's tensors: {failure}");
                Err(Error::scratch(&self.folder, what))
            }
        }
    }
}

impl Probe for TapWriter<'_> {
    fn tap(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        if self.failure.is_none() && (self.wanted)(name) {
            self.failure = self.writer.add(&OfInference::name(self.inference, name), shape, values).err();
            self.values += if self.failure.is_none() { values.len() } else { 0 };
        }
    }
}

/// A folder for the tensors of running engines, which is gone when this is dropped.
///
/// One observation of `synth:n1.6` (a view of 252x252 pixels, 121 tokens, 4 Euler steps) has 2416 taps, 1.85 GB on
/// disk. A comparison keeps two or three such inferences, a diagnosis three.
pub struct Scratch {
    folder: scratch::Scratch,
    traces: Cell<usize>,
}

impl Scratch {
    /// A new folder in `parent`, or in the system's folder for temporary files.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let folder = scratch::Scratch::new("steady-scratch-", &parent);
        let folder =
            folder.map_err(|error| Error::scratch(&parent, format!("no folder can be made: {error}")))?;
        Ok(Scratch { folder, traces: Cell::new(0) })
    }

    /// Forgets tensors that were kept; others of the same engine stay.
    ///
    /// # Errors
    /// Their folder cannot be removed.
    pub fn discard(&self, kept: &OfInference) -> Result<()> {
        let folder = kept.trace.path();
        std::fs::remove_dir_all(folder).map_err(|error| Error::scratch(folder, error.to_string()))
    }

    /// Runs one inference and keeps every tensor that the engine shows.
    ///
    /// # Errors
    /// Those of the engine; a tensor that cannot be written, as on a full disk.
    pub fn record(&self, engine: &mut dyn Engine, input: &ModelInput) -> Result<(Matrix, OfInference)> {
        let name = self.traces.get().to_string();
        self.traces.set(self.traces.get() + 1);
        let mut writer = TraceWriter::create_in(self.folder.path(), &name, BTreeMap::new())?;
        let mut probe = TapWriter::new(&mut writer, 0, &|_| true);
        let actions = engine.infer(std::slice::from_ref(input), Some(&mut probe))?.swap_remove(0);
        probe.finish()?;
        writer.finish()?;
        let folder = self.folder.path().join(name);
        Ok((actions, OfInference { trace: Rc::new(Trace::open(&folder)?), inference: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::engine::CpuEngine;
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::policy::prepare;
    use steadyhand_gr00t::precision::PrecisionPolicy;
    use steadyhand_gr00t::probe::Recorder;
    use steadyhand_gr00t::processor::Processor;
    use steadyhand_gr00t::{noise, synthetic as sizes};

    /// What is read back is what a probe sees, and nothing stays behind.
    #[test]
    fn tensors_survive_the_disk() {
        let config = sizes::tiny();
        let processor = Processor::synthetic(&config, 1, 56).expect("a processor");
        let model = Model::synthetic(config, 3).expect("a model");
        let observation = processor.random_observation(1, [64, 64], "move".to_owned());
        let noise = noise::gaussian(1, 0, 0, model.config.action_horizon, model.config.max_action_dim);
        let input = prepare(&processor, &observation, noise).expect("an input");
        let policy = PrecisionPolicy::preset("bf16").expect("a preset");
        let mut engine = CpuEngine::new(model.clone(), policy, 2);
        let mut seen = Recorder::all();
        let expected = engine.infer(std::slice::from_ref(&input), Some(&mut seen)).expect("probed");
        let parent = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::new(Some(parent.path())).expect("a folder");
        let (actions, taps) = scratch.record(&mut engine, &input).expect("recorded");
        assert_eq!(actions, expected[0]);
        assert_eq!(taps.taps().len(), seen.tensors.len());
        for (name, tensor) in &seen.tensors {
            assert_eq!(taps.read(name).as_ref(), Some(tensor), "{name}");
        }
        drop(scratch);
        assert_eq!(std::fs::read_dir(parent.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Scratch::new(Some(Path::new("/none/such"))).err().expect("refused").to_string();
        assert!(error.contains("/none/such") && error.contains("cannot be kept"), "{error}");
    }
}
