//! The table, as JSON and as text.

use super::accuracy::Accuracy;
use crate::commands::bench::Statistics;
use crate::report::table::Table;
use serde::Serialize;
use std::fmt::Write;
use steadyhand_gr00t::session::CalibrationUsed;
use steadyhand_gr00t_lab::diagnosis::F32_ACTIONS;

/// Policies side by side.
#[derive(Debug, Serialize)]
pub struct PolicyTable {
    /// The release of this program.
    pub written_by: &'static str,
    /// The release of this program.
    pub version: &'static str,
    pub checkpoint: String,
    pub dataset: String,
    pub embodiment_tag: String,
    pub episodes: Vec<usize>,
    /// Over all episodes.
    pub inferences: usize,
    pub steps: usize,
    pub action_horizon: usize,
    pub denoising_steps: usize,
    pub seed: u64,
    /// The folder that the noise was read from; without one, `seed` made it.
    pub noise: Option<String>,
    /// The GPU that policies were run on, if any.
    pub device: Option<DeviceName>,
    pub max_ratio: f64,
    /// The model that latencies are of.
    pub latency_model: Option<String>,
    pub policies: Vec<Row>,
}

/// A GPU.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceName {
    pub name: String,
    pub compute_capability: String,
    /// The newest CUDA version the driver speaks.
    pub driver_version: String,
}

/// One policy.
#[derive(Debug, Serialize)]
pub struct Row {
    /// As it was asked for: a preset or a file.
    pub policy: String,
    /// Where its scales of activations come from, where it has fixed ones.
    pub calibration: Option<CalibrationUsed>,
    /// On the CPU engine.
    pub emulated: Tried<Accuracy>,
    /// On the CUDA engine, where there is one; distances are from the same f32 reference on the CPU.
    pub cuda: Option<Tried<Accuracy>>,
    /// Emulated relative L2 over CUDA's; none where the emulation is the reference itself.
    pub ratio: Option<f64>,
    /// Whether the emulation predicts CUDA's error; none where one of them gave nothing to compare.
    pub predicted: Option<bool>,
    /// Median inferences on the GPU.
    pub latency: Vec<Latency>,
}

/// The result of a trial, or why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Tried<T> {
    Done(T),
    /// The engine does not run the policy.
    Refused {
        refused: String,
    },
    /// The engine ran it, and an inference failed.
    Failed {
        failed: String,
    },
}

/// The inference of one workload in milliseconds, prepared inputs in, normalized actions out.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub workload: String,
    #[serde(flatten)]
    pub milliseconds: Tried<Statistics>,
}

impl<T> Tried<T> {
    /// The result.
    pub fn done(&self) -> Option<&T> {
        match self {
            Tried::Done(result) => Some(result),
            Tried::Refused { .. } | Tried::Failed { .. } => None,
        }
    }

    /// A cell of the table, and what is said below it where there is no result.
    fn cell(&self, text: impl Fn(&T) -> String) -> String {
        match self {
            Tried::Done(result) => text(result),
            Tried::Refused { .. } => "refused".to_owned(),
            Tried::Failed { .. } => "failed".to_owned(),
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Tried::Done(_) => None,
            Tried::Refused { refused: reason } | Tried::Failed { failed: reason } => Some(reason),
        }
    }
}

impl Row {
    /// Puts the two engines' results together.
    pub fn new(
        policy: &str,
        emulated: Tried<Accuracy>,
        cuda: Option<Tried<Accuracy>>,
        latency: Vec<Latency>,
        max_ratio: f64,
    ) -> Self {
        let error = |tried: &Tried<Accuracy>| tried.done().map(|accuracy| accuracy.relative_l2);
        let errors = error(&emulated).zip(cuda.as_ref().and_then(error));
        let predicted = match (&emulated, &cuda) {
            (Tried::Done(_), Some(Tried::Failed { .. })) => Some(false),
            _ => errors.map(|(emulated, cuda)| predicts(emulated, cuda, max_ratio)),
        };
        let ratio = errors.filter(|(emulated, _)| *emulated > 0.0).map(|(emulated, cuda)| emulated / cuda);
        Row { policy: policy.to_owned(), calibration: None, emulated, cuda, ratio, predicted, latency }
    }
}

/// Whether two errors lie within a factor of each other, or both within what two correct f32 engines differ by.
fn predicts(emulated: f64, cuda: f64, max_ratio: f64) -> bool {
    let ratio = emulated / cuda;
    emulated.max(cuda) <= F32_ACTIONS || (1.0 / max_ratio..=max_ratio).contains(&ratio)
}

impl PolicyTable {
    /// Whether no emulation fails to predict CUDA's error.
    pub fn holds(&self) -> bool {
        self.policies.iter().all(|row| row.predicted != Some(false))
    }

    /// The table for a terminal, with what its cells leave out.
    pub fn page(&self) -> String {
        let mut page = format!("{}\n", self.table());
        let mut line = |text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{text}");
        };
        line(format!(
            "{} on {}, episodes {}, {} in all. An error is the relative L2 of normalized actions from the f32 \
             reference's, same observations, same noise.",
            self.checkpoint,
            self.dataset,
            self.episodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            counted(self.inferences)
        ));
        for row in &self.policies {
            let tried = [("cpu", Some(&row.emulated)), ("cuda", row.cuda.as_ref())];
            let reasons = tried.into_iter().filter_map(|(engine, tried)| Some((engine, tried?.reason()?)));
            let latencies =
                row.latency.iter().filter_map(|l| Some((l.workload.as_str(), l.milliseconds.reason()?)));
            reasons.chain(latencies).for_each(|(on, why)| line(format!("{} on {on}: {why}", row.policy)));
        }
        if let Some(device) = &self.device {
            line(format!(
                "{}, compute capability {}, driver for CUDA {}",
                device.name, device.compute_capability, device.driver_version
            ));
            line(self.verdict());
        }
        page
    }

    /// How well the emulation predicts CUDA.
    fn verdict(&self) -> String {
        let judged = self.policies.iter().filter(|row| row.predicted.is_some()).count();
        let outside = self.policies.iter().filter(|row| row.predicted == Some(false));
        let outside: Vec<&str> = outside.map(|row| row.policy.as_str()).collect();
        let held = judged - outside.len();
        let but =
            if outside.is_empty() { String::new() } else { format!("; not for {}", outside.join(", ")) };
        let factor = self.max_ratio;
        format!(
            "The emulation predicts CUDA's error within a factor of {factor} for {held} of {judged} precisions{but}."
        )
    }

    fn table(&self) -> Table {
        let mut header = vec!["precision", "MSE", "MAE", "error"];
        if self.device.is_some() {
            header.extend(["cuda MSE", "cuda error", "emulated/cuda"]);
        }
        let workloads = self.policies.first().map_or(&[][..], |row| &row.latency);
        let workloads: Vec<String> = workloads.iter().map(|l| format!("{} ms", l.workload)).collect();
        header.extend(workloads.iter().map(String::as_str));
        let mut table = Table::new(&header);
        let mse = |accuracy: &Accuracy| format!("{:.6}", accuracy.mse);
        let error = |accuracy: &Accuracy| match accuracy.relative_l2 {
            0.0 => "0".to_owned(),
            error => format!("{error:.2e}"),
        };
        for row in &self.policies {
            let mut cells = vec![row.policy.clone(), row.emulated.cell(mse)];
            cells.extend([row.emulated.cell(|a| format!("{:.6}", a.mae)), row.emulated.cell(error)]);
            if let Some(cuda) = &row.cuda {
                let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                cells.extend([cuda.cell(mse), cuda.cell(error), ratio]);
            }
            cells.extend(row.latency.iter().map(|l| l.milliseconds.cell(|ms| format!("{:.3}", ms.p50))));
            table.row(cells);
        }
        table
    }
}

/// `1 inference`, `2 inferences`.
pub fn counted(inferences: usize) -> String {
    format!("{inferences} inference{}", if inferences == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accuracy(relative_l2: f64) -> Tried<Accuracy> {
        Tried::Done(Accuracy { mse: 0.004, mae: 0.04, relative_l2, groups: Vec::new(), episodes: Vec::new() })
    }

    fn refused() -> Tried<Accuracy> {
        Tried::Refused { refused: "site `dit.block.0.key`: no kernel".to_owned() }
    }

    fn row(policy: &str, emulated: Tried<Accuracy>, cuda: Tried<Accuracy>) -> Row {
        let latency = vec![
            Latency {
                workload: "W1".to_owned(),
                milliseconds: Tried::Done(Statistics { min: 7.0, p50: 7.5, p90: 8.0, p99: 8.0, mean: 7.5 }),
            },
            Latency { workload: "W2".to_owned(), milliseconds: Tried::Refused { refused: "no".to_owned() } },
        ];
        Row::new(policy, emulated, Some(cuda), latency, 1.5)
    }

    fn table(policies: Vec<Row>) -> PolicyTable {
        let device = DeviceName {
            name: "a device".to_owned(),
            compute_capability: "9.0".to_owned(),
            driver_version: "13.0".to_owned(),
        };
        PolicyTable {
            written_by: "steady 0",
            version: "0",
            checkpoint: "c".to_owned(),
            dataset: "d".to_owned(),
            embodiment_tag: "e".to_owned(),
            episodes: vec![0, 2],
            inferences: 26,
            steps: 200,
            action_horizon: 16,
            denoising_steps: 4,
            seed: 42,
            noise: None,
            device: Some(device),
            max_ratio: 1.5,
            latency_model: Some("synth:n1.6".to_owned()),
            policies,
        }
    }

    #[test]
    fn errors_are_compared_in_both_directions_and_above_the_floor_alone() {
        assert!(predicts(0.0, 3.3e-7, 1.5) && !predicts(0.0, 1e-5, 1.5));
        assert!(predicts(6e-3, 4.1e-3, 1.5) && predicts(4.1e-3, 6e-3, 1.5));
        assert!(!predicts(6e-3, 3.9e-3, 1.5) && !predicts(3.9e-3, 6e-3, 1.5));
        assert!(!predicts(6e-3, f64::INFINITY, 1.5) && !predicts(f64::INFINITY, f64::INFINITY, 1.5));
        assert!(!predicts(6e-3, 0.0, 1.5));
    }

    #[test]
    fn a_refused_policy_is_a_row_and_no_failure() {
        let table = table(vec![
            row("f32", accuracy(0.0), accuracy(3.3e-7)),
            row("bf16", accuracy(6.3e-3), accuracy(6.2e-3)),
            row("fp8", accuracy(2.3e-2), refused()),
        ]);
        assert!(table.holds());
        let page = table.page();
        for part in [
            "bf16       0.004000  0.040000  6.30e-3  0.004000  6.20e-3              1.02  7.500  refused",
            "fp8 on cuda: site `dit.block.0.key`: no kernel",
            "for 2 of 2 precisions",
            "c on d, episodes 0, 2, 26 inferences in all",
        ] {
            assert!(page.contains(part), "no {part:?} in {page}");
        }
        let json = serde_json::to_value(&table).expect("JSON");
        assert_eq!(json["policies"][0]["ratio"], serde_json::Value::Null);
        assert_eq!(json["policies"][1]["latency"][0]["p50"], 7.5);
        assert_eq!(json["policies"][2]["cuda"]["refused"], "site `dit.block.0.key`: no kernel");
        assert_eq!(json["policies"][2]["predicted"], serde_json::Value::Null);
    }

    #[test]
    fn what_the_emulation_does_not_predict_is_named() {
        let failed = || Tried::Failed { failed: "not finite".to_owned() };
        for (name, cuda) in [("bf16", accuracy(1e-2)), ("fp16", failed())] {
            let table =
                table(vec![row("mixed", accuracy(4e-3), accuracy(4e-3)), row(name, accuracy(6e-3), cuda)]);
            assert!(!table.holds());
            assert!(table.page().contains(&format!("for 1 of 2 precisions; not for {name}.")));
        }
        // Nothing was predicted where the emulation failed too.
        assert!(table(vec![row("fp16", failed(), failed())]).holds());
    }
}
