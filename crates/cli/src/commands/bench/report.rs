//! What was measured, as JSON and as tables.

use super::statistics::Statistics;
use crate::report::table::{Table, thousands};
use serde::Serialize;
use std::fmt::Write;
use steadyhand_gr00t::engine::{DeviceReport, StageTimes};
use steadyhand_gr00t::model::Layout;
use steadyhand_gr00t::workload::Stage;

/// The name of the phase that the floor is compared with.
pub(super) const INFERENCE: &str = "inference";
/// The name of the phase that holds all others but the noise.
pub(super) const END_TO_END: &str = "end to end";

/// Everything that one run of the command found out.
#[derive(Debug, Serialize)]
pub struct Report {
    pub written_by: &'static str,
    /// The release of this program.
    pub version: &'static str,
    pub label: Option<String>,
    pub checkpoint: String,
    pub engine: String,
    pub precision: String,
    /// `calibrated` or `dynamic`, where activations are multiplied in 8 bits.
    pub activation_scales: Option<&'static str>,
    pub host: Host,
    pub device: Option<DeviceReport>,
    pub workload: WorkloadReport,
    pub seed: u64,
    pub warmup: usize,
    pub iterations: usize,
    /// From the checkpoint's name to an engine that is ready.
    pub load_ms: f64,
    /// From the program's start to the actions of the first inference.
    pub first_actions_ms: f64,
    /// Wall clock, from frames in host memory to physical actions in host memory.
    pub latency_ms: Vec<Named>,
    /// How the stages were timed.
    pub stage_clock: &'static str,
    pub stages_ms: Vec<Named>,
    /// The least time that the device's measured rates allow an inference.
    pub floor_ms: Option<f64>,
    /// The median inference in units of that.
    pub ratio_to_floor: Option<f64>,
}

/// The machine around the engine.
#[derive(Debug, Serialize)]
pub struct Host {
    pub cpu: Option<String>,
    pub threads: usize,
}

/// Repeated measurements of one thing.
#[derive(Debug, Serialize)]
pub struct Named {
    pub name: String,
    #[serde(flatten)]
    pub statistics: Statistics,
}

impl Named {
    /// `None` where nothing was measured.
    pub fn of(times: &StageTimes) -> Option<Self> {
        Some(Named { name: times.name.clone(), statistics: Statistics::of(&times.milliseconds)? })
    }
}

/// What every inference had to do.
#[derive(Debug, Serialize)]
pub struct WorkloadReport {
    pub batch: usize,
    /// Height and width of each image that the model was given.
    pub images: Vec<[usize; 2]>,
    pub tokens: usize,
    pub image_tokens: usize,
    pub text_tokens: usize,
    pub state_horizon: usize,
    pub action_horizon: usize,
    pub denoising_steps: usize,
    /// Of the narrowest operands that the engine's precision has.
    pub bytes_per_parameter: u64,
    pub stages: Vec<StageReport>,
}

/// One stage of [`WorkloadReport`].
#[derive(Debug, Serialize)]
pub struct StageReport {
    pub name: &'static str,
    pub parameters: u64,
    pub parameters_read: u64,
    pub passes: u64,
    /// Weights read by all passes.
    pub bytes: u64,
    pub flops: u64,
    /// Depends on the Euler step alone; left out of the floor.
    pub constant: bool,
    pub floor_ms: Option<f64>,
}

impl WorkloadReport {
    pub fn new(
        layout: &Layout,
        action_horizon: usize,
        stages: &[Stage],
        bytes_per_parameter: u64,
        device: Option<&DeviceReport>,
    ) -> Self {
        let stage = |stage: &Stage| StageReport {
            name: stage.of.name,
            parameters: stage.parameters,
            parameters_read: stage.read,
            passes: stage.passes,
            bytes: stage.bytes(bytes_per_parameter),
            flops: stage.flops,
            constant: stage.of.constant,
            floor_ms: device.map(|device| {
                1e3 * stage.floor(bytes_per_parameter, device.copy_bandwidth, device.matrix_rate)
            }),
        };
        WorkloadReport {
            batch: layout.batch,
            images: layout.images.clone(),
            tokens: layout.tokens(),
            image_tokens: layout.image_tokens,
            text_tokens: layout.text_tokens,
            state_horizon: layout.state_horizon,
            action_horizon,
            denoising_steps: layout.denoising_steps,
            bytes_per_parameter,
            stages: stages.iter().map(stage).collect(),
        }
    }

    /// The floors of all stages together.
    pub fn floor_ms(&self) -> Option<f64> {
        self.stages.iter().map(|stage| stage.floor_ms).sum()
    }
}

impl Report {
    /// The inference by itself, from prepared inputs to normalized actions.
    pub fn inference(&self) -> Option<Statistics> {
        self.phase(INFERENCE)
    }

    /// From frames in host memory to physical actions there.
    pub fn end_to_end(&self) -> Option<Statistics> {
        self.phase(END_TO_END)
    }

    fn phase(&self, name: &str) -> Option<Statistics> {
        self.latency_ms.iter().find(|named| named.name == name).map(|named| named.statistics)
    }

    /// The report for a terminal.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let w = &self.workload;
        let images = w.images.iter().map(|[h, w]| format!("{h}x{w}")).collect::<Vec<_>>().join(", ");
        let scales = self.activation_scales.map_or(String::new(), |scales| format!(", {scales} scales"));
        let lines = [
            format!("{} on {}, {}{scales}", self.checkpoint, self.engine, self.precision),
            format!(
                "batch {}, images {images}, {} tokens ({} image, {} text), {} action steps, {} Euler steps",
                w.batch, w.tokens, w.image_tokens, w.text_tokens, w.action_horizon, w.denoising_steps
            ),
            format!("{} threads, {}", self.host.threads, self.host.cpu.as_deref().unwrap_or("unknown CPU")),
        ];
        let device = self.device.iter().flat_map(device_lines);
        let (load, first) = (self.load_ms, self.first_actions_ms);
        let start = format!("loaded in {load:.1} ms, first actions {first:.1} ms after the program's start");
        for line in lines.into_iter().chain(device).chain([start]) {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{line}");
        }
        let _ = write!(page, "\n{}", self.stage_table());
        let _ = write!(page, "\n{}", self.time_table());
        if let (Some(floor), Some(ratio)) = (self.floor_ms, self.ratio_to_floor) {
            let _ =
                writeln!(page, "\nfloor {floor:.3} ms; the median inference takes {ratio:.2} times as long");
        }
        page
    }

    fn stage_table(&self) -> Table {
        let mut table =
            Table::new(&["stage", "parameters", "read", "passes", "MB read", "GFLOP", "floor ms"]);
        for stage in &self.workload.stages {
            let name =
                if stage.constant { format!("{} (constant)", stage.name) } else { stage.name.to_owned() };
            table.row([
                name,
                thousands(stage.parameters as usize),
                thousands(stage.parameters_read as usize),
                stage.passes.to_string(),
                format!("{:.1}", stage.bytes as f64 / 1e6),
                format!("{:.2}", stage.flops as f64 / 1e9),
                stage.floor_ms.map_or("-".to_owned(), |floor| format!("{floor:.3}")),
            ]);
        }
        let sum = |value: fn(&StageReport) -> u64| self.workload.stages.iter().map(value).sum::<u64>();
        table.row([
            "all".to_owned(),
            thousands(sum(|stage| stage.parameters) as usize),
            thousands(sum(|stage| stage.parameters_read) as usize),
            String::new(),
            format!("{:.1}", sum(|stage| stage.bytes) as f64 / 1e6),
            format!("{:.2}", sum(|stage| stage.flops) as f64 / 1e9),
            self.floor_ms.map_or("-".to_owned(), |floor| format!("{floor:.3}")),
        ]);
        table
    }

    fn time_table(&self) -> Table {
        let mut table = Table::new(&["ms", "min", "p50", "p90", "p99", "mean", "measured by"]);
        let stages = self.stages_ms.iter().map(|named| (named, self.stage_clock));
        for (named, clock) in stages.chain(self.latency_ms.iter().map(|named| (named, "wall clock"))) {
            let Statistics { min, p50, p90, p99, mean } = named.statistics;
            let numbers = [min, p50, p90, p99, mean].map(|value| format!("{value:.3}"));
            table.row([named.name.clone()].into_iter().chain(numbers).chain([clock.to_owned()]));
        }
        table
    }
}

fn device_lines(device: &DeviceReport) -> [String; 3] {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    [
        format!(
            "{}, compute capability {}, driver {}, {} multiprocessors, {:.1} MB of L2 cache",
            device.name,
            device.compute_capability,
            device.driver_version,
            device.multiprocessors,
            mb(device.l2_bytes)
        ),
        format!(
            "{:.1} of {:.1} MB used, {} kernels an inference",
            mb(device.allocated_bytes),
            mb(device.total_memory_bytes),
            device.kernels_per_inference
        ),
        format!(
            "measured: copies at {:.1} GB/s, matrix products at {:.1} TFLOP/s",
            device.copy_bandwidth / 1e9,
            device.matrix_rate / 1e12
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::{synthetic, workload};

    fn device() -> DeviceReport {
        DeviceReport {
            name: "a device".to_owned(),
            compute_capability: "9.0".to_owned(),
            driver_version: "13.0".to_owned(),
            multiprocessors: 132,
            total_memory_bytes: 80_000_000_000,
            l2_bytes: 50_000_000,
            allocated_bytes: 6_000_000_000,
            kernels_per_inference: 321,
            copy_bandwidth: 1e12,
            matrix_rate: 1e15,
        }
    }

    fn report(device: Option<DeviceReport>) -> Report {
        let model = Model::synthetic(synthetic::n1_6(), 1).expect("consistent sizes");
        let one_view = Layout::example(&model.config, &[[252, 252]], 1, 4);
        let layout = Layout { text_tokens: 40, ..one_view };
        let stages = workload::stages(&model, &layout).expect("shapes that fit");
        let workload = WorkloadReport::new(&layout, 50, &stages, 2, device.as_ref());
        let times = |name: &str, value| {
            Named::of(&StageTimes { name: name.to_owned(), milliseconds: vec![value; 3] }).expect("measured")
        };
        let floor_ms = workload.floor_ms();
        Report {
            written_by: "steady 0",
            version: "0",
            label: None,
            checkpoint: "synth:n1.6".to_owned(),
            engine: "cuda".to_owned(),
            precision: "bf16".to_owned(),
            activation_scales: None,
            host: Host { cpu: None, threads: 16 },
            device,
            workload,
            seed: 1,
            warmup: 1,
            iterations: 3,
            load_ms: 100.0,
            first_actions_ms: 200.0,
            latency_ms: vec![times("inference", 20.0), times("end to end", 21.5)],
            stage_clock: "events",
            stages_ms: vec![times("vision", 1.25)],
            floor_ms,
            ratio_to_floor: floor_ms.map(|floor| 20.0 / floor),
        }
    }

    #[test]
    fn the_floor_sums_what_each_stage_must_read() {
        let report = report(Some(device()));
        // All stages are bound by reading here: 2 bytes of 412.4 + 13.6 + 805.5 + 102.4 + 4 * (7.4 + 832.4 + 1.2)
        // million parameters at 1 TB/s.
        let expected = 2e-6 * (412.442352 + 13.6448 + 805.459968 + 102.42304 + 4.0 * 840.976) * 1e3;
        assert!((report.floor_ms.expect("a floor") - expected).abs() < 1e-9, "{:?}", report.floor_ms);
        let page = report.page();
        for part in [
            "121 tokens (81 image, 40 text)",
            "321 kernels",
            "copies at 1000.0 GB/s",
            // A narrow table breaks the name.
            "(constant)",
        ] {
            assert!(page.contains(part), "no {part:?} in {page}");
        }
        assert!(page.contains("floor 9.396 ms; the median inference takes 2.13 times as long"), "{page}");
    }

    #[test]
    fn without_a_device_there_is_no_floor() {
        let report = report(None);
        assert_eq!(report.floor_ms, None);
        assert!(!report.page().contains("\nfloor"));
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["latency_ms"][1]["p50"], 21.5);
        assert_eq!(json["device"], serde_json::Value::Null);
    }
}
