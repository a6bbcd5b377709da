//! Predicted and recorded actions as a table: a row for each step, a column for each joint.

mod csv;
mod npz;
mod parquet;

use super::args::with_suffix;
use super::evaluation::Finished;
use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// Where actions go, and in which form.
#[derive(Debug)]
pub struct ActionsFile {
    path: PathBuf,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Parquet,
    Csv,
    Npz,
}

/// The actions of one run, episode after episode.
#[derive(Debug, Default)]
pub struct Table {
    /// Joints as `group.joint`, or `group[0]` where the dataset has no names.
    pub joints: Vec<String>,
    /// Of each row: the episode's number.
    pub episode: Vec<i64>,
    /// Of each row: the step of the episode.
    pub step: Vec<i64>,
    /// Of each row: which inference of the episode gave its prediction, counted from 0.
    pub inference: Vec<i64>,
    /// `[rows, joints]`, physical units.
    pub predicted: Vec<f32>,
    /// `[rows, joints]`, physical units.
    pub recorded: Vec<f32>,
}

impl ActionsFile {
    /// A file whose name says its form.
    ///
    /// # Errors
    /// Another form.
    pub fn new(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let form = match &extension[..] {
            "parquet" => Form::Parquet,
            "csv" => Form::Csv,
            "npz" => Form::Npz,
            _ => anyhow::bail!("--actions: expected a .parquet, .csv or .npz file, found {}", path.display()),
        };
        Ok(ActionsFile { path: path.to_path_buf(), form })
    }

    /// The file of a run; `label` tells several apart.
    pub fn of_run(&self, label: Option<&str>) -> PathBuf {
        with_suffix(&self.path, label, None)
    }

    /// Writes the actions of a run.
    ///
    /// # Errors
    /// An episode's actions cannot be read, or the file cannot be written.
    pub fn write(&self, path: &Path, finished: &Finished) -> Result<()> {
        let table = Table::of(finished)?;
        match self.form {
            Form::Parquet => parquet::write(&table, path),
            Form::Csv => csv::write(&table, path),
            Form::Npz => npz::write(&table, path),
        }
    }
}

impl Table {
    fn of(finished: &Finished) -> Result<Self> {
        let mut table = Table::default();
        for (report, layout) in finished.report.episodes.iter().zip(&finished.layouts) {
            let joint = |(group, joints): &(String, Vec<String>)| -> Vec<String> {
                // A dataset without names has joints such as `left_arm[0]`.
                let named = |joint: &String| match joint.starts_with(group.as_str()) {
                    true => joint.clone(),
                    false => format!("{group}.{joint}"),
                };
                joints.iter().map(named).collect()
            };
            let joints = unique(layout.groups.iter().flat_map(joint).collect());
            if table.episode.is_empty() {
                table.joints = joints;
            } else {
                ensure!(table.joints == joints, "episode {}: other joints than before", report.episode_index);
            }
            let curves = finished.journal.curves(report.episode_index)?;
            for step in 0..curves.predicted.len() / curves.columns.max(1) {
                let inference = layout.inference_points.partition_point(|point| *point <= step);
                table.episode.push(report.episode_index as i64);
                table.step.push(step as i64);
                table.inference.push(inference as i64 - 1);
            }
            table.predicted.extend(curves.predicted);
            table.recorded.extend(curves.recorded);
        }
        Ok(table)
    }

    /// Rows of predicted and recorded values.
    fn columns(&self) -> impl Iterator<Item = (String, Vec<f32>)> + '_ {
        let both = [("predicted", &self.predicted), ("recorded", &self.recorded)];
        both.into_iter().flat_map(move |(what, values)| {
            self.joints.iter().enumerate().map(move |(column, joint)| {
                let values = values.iter().skip(column).step_by(self.joints.len().max(1));
                (format!("{what}.{joint}"), values.copied().collect())
            })
        })
    }
}

/// The same names, those that come again with a number.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let mut candidate = name.clone();
        for number in 2.. {
            if !found.contains(&candidate) {
                break;
            }
            candidate = format!("{name}_{number}");
        }
        found.push(candidate);
    }
    found
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two episodes of a robot with two joints, one of them with a name that CSV must quote.
    pub fn table() -> Table {
        Table {
            joints: vec!["arm.a".to_owned(), "arm.b, \"c\"".to_owned()],
            episode: vec![3, 3, 7],
            step: vec![0, 1, 0],
            inference: vec![0, 0, 0],
            predicted: vec![0.1, -2.0, 1e-20, 4.0, 5.0, 6.0],
            recorded: vec![1.0, 2.0, 3.0, 4.0, 5.0, 1.0 / 3.0],
        }
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(unique(["a", "b", "a", "a"].map(str::to_owned).into()), ["a", "b", "a_2", "a_3"]);
    }

    #[test]
    fn the_name_says_the_form() {
        let error = ActionsFile::new(Path::new("actions.xlsx")).unwrap_err().to_string();
        assert!(error.contains(".parquet, .csv or .npz"), "{error}");
        let file = ActionsFile::new(Path::new("a/actions.CSV")).unwrap();
        assert_eq!(file.of_run(Some("seed7")), Path::new("a/actions_seed7.CSV"));
    }
}
