//! An evaluation as it grows: what is loaded, what is done, what is written of it.

use super::args::EvalArgs;
use super::chunking;
use super::journal::{CurveLayout, Done, Journal};
use super::plan::{Run, short_names};
use super::printed;
use super::subject::{self, About, Subject};
use crate::options::chosen;
use crate::report::output::{WRITTEN_BY, write_json};
use crate::report::{Evaluating, Failed, GroupError, Report, Status, Timings, metrics, summary};
use anyhow::Result;
use serde::Serialize;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};
use steadyhand_lerobot::Dataset;

/// Time between two writes of the JSON of an evaluation that goes on.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

/// Everything that is evaluated, but for engines.
pub struct Loaded {
    /// As they were named.
    pub subjects: Vec<Subject>,
    /// Short names of them.
    pub names: Vec<String>,
    pub datasets: Vec<Data>,
}

pub struct Data {
    pub dataset: Dataset,
    /// Those that were asked for.
    pub episodes: Vec<usize>,
    pub opening_seconds: f64,
}

impl Loaded {
    /// Opens all checkpoints and datasets.
    ///
    /// # Errors
    /// One that cannot be opened; an episode, a precision or a horizon that does not fit.
    pub fn open(args: &EvalArgs) -> Result<Self> {
        let subjects = subject::open(args)?;
        let mut datasets = Vec::new();
        for folder in &args.dataset_path {
            let opening = Instant::now();
            let dataset = Dataset::open(folder)?.with_video_decoder(args.video.decoder());
            let opening_seconds = opening.elapsed().as_secs_f64();
            datasets.push(Data { episodes: chosen(&args.traj_ids, &dataset)?, dataset, opening_seconds });
        }
        Ok(Loaded { subjects, names: short_names(&args.subjects()?), datasets })
    }

    /// Inferences of all runs, as the datasets' metadata have it.
    ///
    /// # Errors
    /// An episode that the metadata lack.
    pub fn inferences(&self, args: &EvalArgs, runs: &[Run]) -> Result<u64> {
        let mut inferences = 0;
        for run in runs {
            let Data { dataset, episodes, .. } = &self.datasets[run.dataset];
            for index in episodes {
                let steps = dataset.episode_meta(*index)?.length.min(args.steps);
                inferences += steps.div_ceil(args.action_horizon) as u64;
            }
        }
        Ok(inferences)
    }
}

/// All runs with what is known of them so far.
pub struct Evaluation<'a> {
    args: &'a EvalArgs,
    loaded: &'a Loaded,
    several: bool,
    begun: Vec<Finished>,
    status: Status,
    written: Instant,
}

/// One run that was begun.
pub struct Finished {
    pub run: Run,
    pub report: Report,
    /// Of each episode of the report.
    pub layouts: Vec<CurveLayout>,
    /// Holds the episodes' actions.
    pub journal: Rc<Journal>,
}

/// Means over the seeds of one checkpoint on one dataset.
#[derive(Debug, Serialize)]
pub struct Row {
    pub checkpoint: String,
    pub dataset: String,
    pub seeds: Vec<u64>,
    pub episodes: usize,
    pub failures: usize,
    pub mse: Option<Spread>,
    pub mae: Option<Spread>,
    /// MSE by joint group.
    pub groups: Vec<(String, Spread)>,
}

/// How a number varies from seed to seed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub mean: f64,
    /// Of the sample; 0 for a single seed.
    pub standard_deviation: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mean = metrics::mean(values)?;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Spread {
            mean,
            standard_deviation: (squares / (values.len() - 1).max(1) as f64).sqrt(),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// Several runs as JSON.
#[derive(Serialize)]
struct Several<'a> {
    written_by: &'static str,
    status: Status,
    summary: Vec<Row>,
    runs: Vec<&'a Report>,
}

impl<'a> Evaluation<'a> {
    /// Nothing is done yet.
    pub fn new(args: &'a EvalArgs, loaded: &'a Loaded, runs: &[Run]) -> Self {
        let several = runs.len() > 1;
        let (begun, status) = (Vec::new(), Status::Running);
        Evaluation { args, loaded, several, begun, status, written: Instant::now() }
    }

    /// The next run begins.
    pub fn begin(&mut self, run: &Run, journal: &Rc<Journal>, about: About) {
        let args = self.args;
        let data = &self.loaded.datasets[run.dataset];
        let About { subject, engine, precision, embodiment_tag, denoising_steps, .. } = about;
        let About { calibration, model_loading_seconds, .. } = about;
        let report = Report {
            written_by: WRITTEN_BY,
            status: Status::Running,
            episodes_asked: data.episodes.len(),
            failures: Vec::new(),
            engine,
            precision,
            checkpoint: subject,
            dataset: args.dataset_path[run.dataset].display().to_string(),
            embodiment_tag,
            seed: run.seed,
            noise: args.noise.as_ref().map(|path| path.display().to_string()),
            steps: args.steps,
            action_horizon: args.action_horizon,
            denoising_steps,
            calibration,
            mse: None,
            mae: None,
            groups: Vec::new(),
            episodes: Vec::new(),
            chunking: None,
            timings: Timings::new(model_loading_seconds, data.opening_seconds, &[], args.skip_timing_steps),
        };
        self.begun.push(Finished {
            run: run.clone(),
            report,
            layouts: Vec::new(),
            journal: Rc::clone(journal),
        });
    }

    /// An episode of the run at hand is done.
    pub fn add(&mut self, done: Done) {
        if let Some(Finished { report, layouts, .. }) = self.begun.last_mut() {
            report.episodes.push(done.report);
            layouts.push(done.layout);
        }
    }

    /// An episode of the run at hand cannot be evaluated.
    pub fn fail(&mut self, failed: Failed) {
        if let Some(finished) = self.begun.last_mut() {
            finished.report.failures.push(failed);
        }
    }

    /// The run at hand is over, after so long.
    pub fn end(&mut self, evaluating: Evaluating) {
        if let Some(finished) = self.begun.last_mut() {
            finished.report.timings.evaluating = Some(evaluating);
            finished.close(match finished.report.failures.is_empty() {
                true => Status::Complete,
                false => Status::Partial,
            });
        }
    }

    /// No run follows.
    pub fn close(&mut self, status: Status) {
        self.status = status;
        if let Some(last) = self.begun.last_mut().filter(|last| last.report.status == Status::Running) {
            last.close(status);
        }
    }

    /// Runs that were begun.
    pub fn finished(&self) -> impl Iterator<Item = &Finished> {
        self.begun.iter()
    }

    /// Episodes that are done, of all runs.
    pub fn episodes(&self) -> usize {
        self.begun.iter().map(|finished| finished.report.episodes.len()).sum()
    }

    /// Episodes that could not be evaluated, of all runs.
    pub fn failures(&self) -> usize {
        self.begun.iter().map(|finished| finished.report.failures.len()).sum()
    }

    /// Why the first of those could not be.
    pub fn first_failure(&self) -> Option<&str> {
        self.begun
            .iter()
            .flat_map(|finished| &finished.report.failures)
            .map(|failed| &failed.reason[..])
            .next()
    }

    /// Measures how chunks follow each other, in every run.
    ///
    /// # Errors
    /// Actions that were kept cannot be read.
    pub fn measure_chunking(&mut self) -> Result<()> {
        for finished in &mut self.begun {
            finished.report.chunking = Some(chunking::of(finished)?);
        }
        Ok(())
    }

    /// Writes the JSON if that was not done just now.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_now_and_then(&mut self) -> Result<()> {
        if self.written.elapsed() < BETWEEN_WRITES {
            return Ok(());
        }
        self.written = Instant::now();
        if let Some(last) = self.begun.last_mut() {
            last.close(Status::Running);
        }
        self.write()
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self) -> Result<()> {
        let runs: Vec<&Report> = self.begun.iter().map(|finished| &finished.report).collect();
        match (self.several, &runs[..]) {
            (false, [only]) => write_json(&self.args.json(), only),
            _ => {
                let (written_by, status, summary) = (WRITTEN_BY, self.status, self.rows());
                write_json(&self.args.json(), &Several { written_by, status, summary, runs })
            }
        }
    }

    /// Each checkpoint on each dataset.
    pub fn rows(&self) -> Vec<Row> {
        let datasets = short_names(&self.args.dataset_path);
        let same = |a: &Finished, b: &Finished| {
            (a.run.checkpoint, a.run.dataset) == (b.run.checkpoint, b.run.dataset)
        };
        let row = |seeds: &[Finished]| {
            let reports: Vec<&Report> = seeds.iter().map(|finished| &finished.report).collect();
            let of = |value: &dyn Fn(&Report) -> Option<f64>| {
                Spread::of(&reports.iter().filter_map(|report| value(report)).collect::<Vec<_>>())
            };
            let group = |name: &str| {
                of(&|report| report.groups.iter().find(|group| group.name == name).map(|group| group.mse))
            };
            let names = reports.iter().find(|report| !report.groups.is_empty()).map(|report| &report.groups);
            Row {
                checkpoint: self.loaded.names[seeds[0].run.checkpoint].clone(),
                dataset: datasets[seeds[0].run.dataset].clone(),
                seeds: seeds.iter().map(|finished| finished.run.seed).collect(),
                episodes: reports.iter().map(|report| report.episodes.len()).sum(),
                failures: reports.iter().map(|report| report.failures.len()).sum(),
                mse: of(&|report| report.mse),
                mae: of(&|report| report.mae),
                groups: names
                    .into_iter()
                    .flatten()
                    .filter_map(|GroupError { name, .. }| Some((name.clone(), group(name)?)))
                    .collect(),
            }
        };
        self.begun.chunk_by(same).map(row).collect()
    }

    /// Prints what came out.
    ///
    /// # Errors
    /// The reader went away.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        for finished in &self.begun {
            if let Some(label) = &finished.run.label {
                writeln!(out, "\n{label}")?;
            }
            printed::run(&finished.report, out)?;
            if let Some(measured) = &finished.report.chunking {
                chunking::print(measured, out)?;
            }
            if !self.several {
                summary::write_summary(&finished.report, out)?;
            }
        }
        if self.several {
            printed::runs(&self.rows(), out)?;
        }
        Ok(())
    }
}

impl Finished {
    /// Sums up what is done.
    fn close(&mut self, status: Status) {
        let report = &mut self.report;
        let values = |value: fn(&crate::report::EpisodeReport) -> f64| {
            metrics::mean(&report.episodes.iter().map(value).collect::<Vec<_>>())
        };
        (report.mse, report.mae) = (values(|episode| episode.mse), values(|episode| episode.mae));
        report.groups = GroupError::means(&report.episodes);
        report.status = status;
        let Timings { model_loading_seconds, dataset_loader_seconds, evaluating, skip_timing_steps, .. } =
            report.timings;
        report.timings = Timings {
            evaluating,
            ..Timings::new(model_loading_seconds, dataset_loader_seconds, &report.episodes, skip_timing_steps)
        };
    }
}
