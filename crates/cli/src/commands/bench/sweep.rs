//! One measurement for each value of one dimension of the workload.

use super::args::{BATCH, BenchArgs, DENOISING_STEPS};
use super::measure;
use super::report::Report;
use crate::outcome::{Outcome, describe};
use crate::output::note;
use crate::report::cost::{self, Point};
use crate::report::output::WRITTEN_BY;
use crate::report::table::Table;
use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

/// What a sweep changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    Batch,
    Views,
    TextTokens,
    ImageSize,
    ActionHorizon,
    DenoisingSteps,
}

/// A dimension and the values that it is given, as `batch=1,2,4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    dimension: Dimension,
    values: Vec<u16>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Dimension::value_variants().iter().filter_map(Dimension::to_possible_value);
        let names = names.map(|name| name.get_name().to_owned()).collect::<Vec<_>>().join(", ");
        let wrong = || format!("expected DIMENSION=VALUE,... with one of {names}, found {text:?}");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        let dimension = Dimension::from_str(name, false).map_err(|_| wrong())?;
        let most = match dimension {
            Dimension::Batch => 1024,
            Dimension::DenoisingSteps => 1000,
            _ => u16::MAX,
        };
        let value = |text: &str| match text.trim().parse() {
            Ok(value) if (1..=most).contains(&value) => Ok(value),
            _ => Err(format!("{name}: expected whole numbers from 1 to {most}, found {text:?}")),
        };
        Ok(Sweep { dimension, values: values.split(',').map(value).collect::<Result<_, _>>()? })
    }
}

impl Sweep {
    fn name(&self) -> String {
        self.dimension.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned())
    }

    /// Whether the dimension's own option says something too, which would count for nothing.
    fn is_given(&self, args: &BenchArgs) -> bool {
        match self.dimension {
            Dimension::Batch => args.batch != BATCH,
            Dimension::Views => args.views.is_some(),
            Dimension::TextTokens => args.text_tokens.is_some(),
            Dimension::ImageSize => args.image_size.is_some(),
            Dimension::ActionHorizon => args.action_horizon.is_some(),
            Dimension::DenoisingSteps => args.denoising_steps != DENOISING_STEPS,
        }
    }

    /// The options of one of its measurements.
    fn args(&self, args: &BenchArgs, value: u16) -> BenchArgs {
        let mut args = args.clone();
        let size = Some(usize::from(value));
        match self.dimension {
            Dimension::Batch => args.batch = value,
            Dimension::Views => args.views = size,
            Dimension::TextTokens => args.text_tokens = size,
            Dimension::ImageSize => args.image_size = size,
            Dimension::ActionHorizon => args.action_horizon = size,
            Dimension::DenoisingSteps => args.denoising_steps = value,
        }
        args
    }
}

/// All sweeps of a run.
#[derive(Debug, Serialize)]
pub struct Sweeps {
    written_by: &'static str,
    sweeps: Vec<Swept>,
    failures: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Swept {
    dimension: Dimension,
    #[serde(skip)]
    name: String,
    points: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    value: u16,
    report: Report,
}

/// A point that could not be measured.
#[derive(Debug, Serialize)]
struct Failed {
    dimension: Dimension,
    value: u16,
    error: String,
}

impl Sweeps {
    /// Measures every point, telling each as it is there. One that cannot be measured, as a batch that the memory does
    /// not hold, is listed and left out.
    ///
    /// # Errors
    /// The option of a dimension beside its sweep; none of the points could be measured: the error of the first.
    pub fn measure(args: &BenchArgs) -> Result<Self> {
        for (sweep, name) in args.sweep.iter().map(|sweep| (sweep, sweep.name())) {
            ensure!(!sweep.is_given(args), "--{name}: expected without --sweep {name}=..., found both");
        }
        let (mut sweeps, mut failures) = (Vec::new(), Vec::new());
        for sweep in &args.sweep {
            let (name, dimension) = (sweep.name(), sweep.dimension);
            let mut points = Vec::new();
            for value in sweep.values.iter().copied() {
                match measure(&sweep.args(args, value)) {
                    Ok(report) => {
                        if let Some(inference) = report.inference() {
                            note!("{name} {value}: inference p50 {:.3} ms", inference.p50);
                        }
                        points.push(Measured { value, report });
                    }
                    Err(error) => {
                        let error = describe(&error);
                        note!("{name} {value}: {error}");
                        failures.push(Failed { dimension, value, error });
                    }
                }
            }
            sweeps.push(Swept { dimension, name, points });
        }
        match failures.first() {
            Some(first) if sweeps.iter().all(|swept| swept.points.is_empty()) => bail!("{}", first.error),
            _ => Ok(Sweeps { written_by: WRITTEN_BY, sweeps, failures }),
        }
    }

    /// How the command ends.
    pub fn outcome(&self) -> Outcome {
        if self.failures.is_empty() { Outcome::Success } else { Outcome::Partial }
    }

    /// The tables for a terminal.
    pub fn page(&self) -> String {
        let mut page = String::new();
        for swept in &self.sweeps {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{}{}", if page.is_empty() { "" } else { "\n" }, swept.table());
        }
        page
    }

    /// Draws the medians, and the floor where one is known.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let Some(Measured { report, .. }) = self.sweeps.iter().find_map(|swept| swept.points.first()) else {
            return Ok(());
        };
        let device = report.device.as_ref().map(|device| device.name.as_str()).or(report.host.cpu.as_deref());
        let subtitle =
            format!("{} on {}, {}", report.engine, device.unwrap_or("an unknown device"), report.precision);
        let measured = self.sweeps.iter().filter(|swept| !swept.points.is_empty());
        let panels = measured.map(|swept| (swept.name.as_str(), swept.drawn())).collect::<Vec<_>>();
        cost::write_png(&format!("an inference of {}", report.checkpoint), &subtitle, &panels, path)
    }
}

impl Swept {
    fn table(&self) -> Table {
        let header = [&self.name, "p50 ms", "p99 ms", "end to end ms", "floor ms", "times", "chunks/s"];
        let mut table = Table::new(&header);
        for Measured { value, report } in &self.points {
            let number = |number: Option<f64>, digits: usize| {
                number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
            };
            let inference = report.inference();
            let chunks = inference.map(|times| 1e3 * report.workload.batch as f64 / times.p50);
            table.row([
                value.to_string(),
                number(inference.map(|times| times.p50), 3),
                number(inference.map(|times| times.p99), 3),
                number(report.end_to_end().map(|times| times.p50), 3),
                number(report.floor_ms, 3),
                number(report.ratio_to_floor, 2),
                number(chunks, 1),
            ]);
        }
        table
    }

    fn drawn(&self) -> Vec<Point> {
        let point = |Measured { value, report }: &Measured| {
            let median = report.inference()?.p50;
            Some(Point { value: *value, median, floor: report.floor_ms })
        };
        self.points.iter().filter_map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_says_what_it_expects() {
        let sweep = Sweep { dimension: Dimension::TextTokens, values: vec![8, 40] };
        assert_eq!("text-tokens=8, 40".parse(), Ok(sweep));
        for (text, part) in [
            ("batch", "expected DIMENSION=VALUE,... with one of batch, views, text-tokens"),
            ("height=3", "found \"height=3\""),
            ("batch=1,0", "batch: expected whole numbers from 1 to 1024, found \"0\""),
            ("batch=", "found \"\""),
            ("denoising-steps=1001", "from 1 to 1000"),
            ("views=70000", "from 1 to 65535"),
        ] {
            let error = text.parse::<Sweep>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
