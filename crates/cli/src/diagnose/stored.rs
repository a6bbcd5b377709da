//! Intermediate tensors on disk: written as an engine runs, read one at a time.

use anyhow::{Context, Result};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use steadyhand_fidelity::{Trace, TraceError, TraceWriter};
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t_lab::diagnosis::Observed;
use tempfile::TempDir;

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
    inference: usize,
    /// Whether the tap of this name is written.
    wanted: fn(&str) -> bool,
    values: usize,
    failure: Option<TraceError>,
}

impl<'a> TapWriter<'a> {
    /// Writes those taps of an inference that are `wanted`.
    pub fn new(writer: &'a mut TraceWriter, inference: usize, wanted: fn(&str) -> bool) -> Self {
        TapWriter { writer, inference, wanted, values: 0, failure: None }
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
                Err(failure).with_context(|| format!("after {megabytes} MB of one inference's tensors"))
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
/// One observation of `synth:n1.6` (a view of 252x252 pixels, 121 tokens, 4 Euler steps) has 2415 taps, 1.85 GB on
/// disk. A comparison keeps two or three such inferences, a diagnosis three.
pub struct Scratch {
    folder: TempDir,
    traces: Cell<usize>,
}

impl Scratch {
    /// A new folder in `parent`, or in the system's folder for temporary files.
    ///
    /// # Errors
    /// It cannot be made there.
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let folder = tempfile::Builder::new().prefix("steady-scratch-").tempdir_in(&parent);
        let folder = folder.with_context(|| {
            format!("{}: no folder for tensors can be made (--scratch)", parent.display())
        })?;
        Ok(Scratch { folder, traces: Cell::new(0) })
    }

    /// Runs one inference and keeps every tensor that the engine shows.
    ///
    /// # Errors
    /// Those of the engine; a tensor that cannot be written, as on a full disk.
    pub fn record(&self, engine: &mut dyn Engine, input: &ModelInput) -> Result<(Matrix, OfInference)> {
        let folder = self.folder.path().join(self.traces.get().to_string());
        self.traces.set(self.traces.get() + 1);
        let mut writer = TraceWriter::create(&folder, BTreeMap::new())?;
        let mut probe = TapWriter::new(&mut writer, 0, |_| true);
        let actions = engine.infer(std::slice::from_ref(input), Some(&mut probe))?.swap_remove(0);
        let full = "tensors of a running engine cannot be kept (--scratch names another folder)";
        probe.finish().context(full)?;
        writer.finish().context(full)?;
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
    use steadyhand_gr00t::{noise, synthetic as sizes};

    /// What is read back is what a probe sees, and nothing stays behind.
    #[test]
    fn tensors_survive_the_disk() {
        let shapes = sizes::Shapes::default();
        let made = sizes::Synthetic::make("synth:tiny", sizes::tiny(), 3, &shapes).expect("a policy");
        let model: &Model = &made.parts.model;
        let noise = noise::gaussian(1, 0, 0, model.config.action_horizon, model.config.max_action_dim);
        let input = prepare(&made.parts.processor, &made.observation(1), noise).expect("an input");
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
        assert!(error.contains("/none/such") && error.contains("--scratch"), "{error}");
    }
}
