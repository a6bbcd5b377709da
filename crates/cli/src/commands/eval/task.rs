//! One episode of a run: evaluated, drawn and kept.

use super::args::EvalArgs;
use super::episode::{self, Evaluated, Failure, evaluate};
use super::journal::{Done, Journal};
use super::plan::Run;
use super::printed;
use super::subject::About;
use super::{Came, Stop};
use crate::interrupt;
use crate::outcome::describe;
use crate::progress::Progress;
use crate::report::Failed;
use anyhow::Result;
use std::ops::ControlFlow;
use std::path::Path;
use steadyhand_gr00t::session::{Actor, NoiseSource};
use steadyhand_lerobot::Dataset;

/// What the episodes of a run have in common; actors in several threads share it.
pub struct Task<'a> {
    pub args: &'a EvalArgs,
    pub run: &'a Run,
    pub dataset: &'a Dataset,
    pub about: &'a About,
    pub journal: &'a Journal,
    pub progress: &'a Progress,
    /// Whether the run has no other episode.
    pub only: bool,
}

impl Task<'_> {
    /// Evaluates the episode `index`, and gives `place` back with what it came to. Breaks where no other may follow.
    pub fn evaluate<A: Actor>(
        &self,
        actor: &mut A,
        place: usize,
        index: usize,
        noise: &NoiseSource,
    ) -> ControlFlow<(usize, Came), (usize, Came)> {
        let stopped = |stop| ControlFlow::Break((place, Came::Stopped(stop)));
        if let Some(signal) = interrupt::signal() {
            return stopped(Stop::Signal(signal));
        }
        self.progress.now(printed::place(self.run, index));
        let skipped = |error| Failed { episode_index: index, reason: describe(&error) };
        match self.measure(actor, index, noise) {
            Ok(done) => ControlFlow::Continue((place, Came::Done(done))),
            Err(Failure::Interrupted) => stopped(Stop::Signal(interrupt::signal().unwrap_or_default())),
            Err(Failure::Engine(error)) => stopped(Stop::Error(error)),
            Err(Failure::Episode(error)) if self.args.strict => stopped(Stop::Error(error)),
            Err(Failure::Episode(error)) => ControlFlow::Continue((place, Came::Skipped(skipped(error)))),
        }
    }

    fn measure<A: Actor>(&self, actor: &mut A, index: usize, noise: &NoiseSource) -> Result<Done, Failure> {
        let Task { args, run, dataset, about, .. } = self;
        let mut evaluated = evaluate(args.pace(), actor, dataset, index, noise, &|| self.progress.inc())?;
        let path = args.plot(run.label.as_deref(), &about.engine, index, self.only);
        evaluated.report.noise_confirmed = args.is_remote().then_some(evaluated.asked_noise);
        evaluated.report.plot = Some(path.display().to_string());
        // What cannot be written for this episode cannot be for others.
        self.keep(evaluated, &path).map_err(Failure::Engine)
    }

    fn keep(&self, evaluated: Evaluated, path: &Path) -> Result<Done> {
        episode::plot(&evaluated, self.about, path)?;
        self.journal.keep(&evaluated.report, evaluated.layout, &evaluated.curves)
    }
}
