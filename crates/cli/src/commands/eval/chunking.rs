//! How chunks follow each other, by joint group: what an error over all steps does not show, and a robot feels.

use super::evaluation::Finished;
use super::journal::{CurveLayout, Curves};
use crate::report::table::Table;
use crate::report::{Chunking, Pair};
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// A sum and how much went into it.
#[derive(Default, Clone, Copy)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What is summed up of a group over episodes.
#[derive(Default, Clone)]
struct Sums {
    jump: Mean,
    step: Mean,
    recorded_step: Mean,
    jitter: Mean,
    recorded_jitter: Mean,
    /// Of the first and of the last row of a whole chunk.
    errors: [Mean; 2],
}

/// The measures of a run's episodes, group by group.
///
/// # Errors
/// The actions of an episode cannot be read.
pub fn of(finished: &Finished) -> Result<Vec<Chunking>> {
    let mut names: Vec<String> = Vec::new();
    let mut sums: Vec<Sums> = Vec::new();
    for (report, layout) in finished.report.episodes.iter().zip(&finished.layouts) {
        let curves = finished.journal.curves(report.episode_index)?;
        if names.is_empty() {
            names = layout.groups.iter().map(|(name, _)| name.clone()).collect();
            sums = vec![Sums::default(); names.len()];
        }
        add(&mut sums, layout, &curves, finished.report.action_horizon);
    }
    let whole = |(name, sums): (String, Sums)| {
        let Sums { jump, step, recorded_step, jitter, recorded_jitter, errors: [first, last] } = sums;
        Chunking {
            name,
            boundary_jump: jump.get(),
            step: Pair { predicted: step.get(), recorded: recorded_step.get() },
            jitter: Pair { predicted: jitter.get(), recorded: recorded_jitter.get() },
            error_of_first_row: first.get(),
            error_of_last_row: last.get(),
        }
    };
    Ok(names.into_iter().zip(sums).map(whole).collect())
}

/// Adds an episode, of whose chunks `horizon` rows each were taken.
fn add(sums: &mut [Sums], layout: &CurveLayout, curves: &Curves, horizon: usize) {
    let starts: BTreeSet<usize> = layout.inference_points.iter().copied().collect();
    let steps = curves.predicted.len() / curves.columns.max(1);
    let mut first = 0;
    for ((_, joints), sums) in layout.groups.iter().zip(sums) {
        for column in first..first + joints.len() {
            let values = |values: &[f32]| -> Vec<f64> {
                curves.column(values, column).into_iter().map(f64::from).collect()
            };
            let (predicted, recorded) = (values(&curves.predicted), values(&curves.recorded));
            let step = |values: &[f64], at: usize| (values[at] - values[at - 1]).abs();
            let bend = |values: &[f64], at: usize| (values[at + 1] - 2.0 * values[at] + values[at - 1]).abs();
            for at in 1..steps {
                match starts.contains(&at) {
                    true => sums.jump.add(step(&predicted, at)),
                    false => sums.step.add(step(&predicted, at)),
                }
                sums.recorded_step.add(step(&recorded, at));
                // Three steps of one chunk.
                if at + 1 < steps {
                    sums.recorded_jitter.add(bend(&recorded, at));
                    if !starts.contains(&at) && !starts.contains(&(at + 1)) {
                        sums.jitter.add(bend(&predicted, at));
                    }
                }
            }
            for start in &starts {
                for (mean, at) in sums.errors.iter_mut().zip([*start, start + horizon - 1]) {
                    if start + horizon <= steps {
                        mean.add((predicted[at] - recorded[at]).abs());
                    }
                }
            }
        }
        first += joints.len();
    }
}

/// Prints the measures.
///
/// # Errors
/// The reader went away.
pub fn print(chunking: &[Chunking], out: &mut impl Write) -> io::Result<()> {
    let header = ["joint group", "jump", "step", "recorded", "jitter", "recorded", "first row", "last row"];
    let mut table = Table::new(&header);
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.5}"));
    for group in chunking {
        let Chunking { name, boundary_jump, step, jitter, error_of_first_row, error_of_last_row } = group;
        let (steps, jitters) = ([step.predicted, step.recorded], [jitter.predicted, jitter.recorded]);
        let values = [*boundary_jump].into_iter().chain(steps).chain(jitters);
        let values = values.chain([*error_of_first_row, *error_of_last_row]).map(shown);
        table.row(std::iter::once(name.clone()).chain(values));
    }
    writeln!(out, "\nChunk after chunk, means of joints in their units:\n{table}")?;
    writeln!(
        out,
        "jump: from the last action of a chunk to the first of the next; step: to the next action within a chunk; jitter: \
         what three actions of a chunk bend by; first and last row: the error there."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two chunks of three rows that rise by 1 a step, 10 apart, beside a recording that stands still.
    #[test]
    fn jumps_steps_and_drift_are_told_apart() {
        let layout = CurveLayout {
            groups: vec![("arm".into(), vec!["a".into()]), ("hand".into(), vec!["b".into()])],
            inference_points: vec![0, 3],
        };
        let arm = [0.0, 1.0, 2.0, 12.0, 13.0, 16.0f32];
        let predicted = arm.iter().flat_map(|value| [*value, 0.0]).collect();
        let curves = Curves { columns: 2, predicted, recorded: vec![0.0; 12], state: None };
        let mut sums = vec![Sums::default(); 2];
        add(&mut sums, &layout, &curves, 3);
        let Sums { jump, step, recorded_step, jitter, errors: [first, last], .. } = &sums[0];
        assert_eq!((jump.get(), jump.count), (Some(10.0), 1));
        assert_eq!((step.get(), step.count), (Some(1.5), 4));
        assert_eq!((recorded_step.get(), recorded_step.count), (Some(0.0), 5));
        // Rows 0 to 2, and 3 to 5 with a bend of 2.
        assert_eq!((jitter.get(), jitter.count), (Some(1.0), 2));
        assert_eq!((first.get(), last.get()), (Some(6.0), Some(9.0)));
        assert_eq!((sums[1].jump.get(), sums[1].errors[1].get()), (Some(0.0), Some(0.0)));
    }
}
