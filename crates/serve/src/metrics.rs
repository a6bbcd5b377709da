//! What a server counts, as Prometheus reads it (text format 0.0.4).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds.
const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 1.0, 4.0, 16.0];
/// Upper bounds in observations.
const SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Counts of values up to each of `N` bounds.
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// One for each bound, and one for larger values.
    counts: [AtomicU64; N],
    count: AtomicU64,
    /// In millionths.
    sum: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Histogram {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn add(&self, value: f64) {
        if let Some(place) = self.bounds.iter().position(|bound| value <= *bound) {
            self.counts[place].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    fn write(&self, page: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        // Of values that are being added just now the count may be ahead of the sum.
        let count = self.count.load(Ordering::Relaxed).max(total);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(page, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let _ = writeln!(page, "{name}_sum{braced} {sum}");
        let _ = writeln!(page, "{name}_count{braced} {count}");
    }
}

/// Where the time of a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The message becomes observations.
    Read,
    /// Observations become model input.
    Prepare,
    /// Waiting for the engine, and for others to share a batch.
    Queue,
    /// The engine.
    Inference,
    /// Actions become a reply.
    Write,
    /// From the whole message to the reply, without the network.
    Total,
}

const STAGES: [(Stage, &str); 6] = [
    (Stage::Read, "read"),
    (Stage::Prepare, "prepare"),
    (Stage::Queue, "queue"),
    (Stage::Inference, "inference"),
    (Stage::Write, "write"),
    (Stage::Total, "total"),
];

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Requests for actions that were answered with actions.
    Answered,
    /// Requests of other endpoints that were answered.
    Other,
    /// Requests that were answered with an error, but for the two below.
    Refused,
    /// Requests without the token.
    Unauthorized,
    /// Requests whose deadline passed before the engine was free.
    Late,
    /// Requests for actions that were recorded.
    Recorded,
    /// Requests for actions that were to be recorded and were not: after the limit or an error, or because the disk was
    /// too slow.
    Unrecorded,
    /// Connections that were closed because they did not follow the protocol, were silent, or there were too many.
    Dropped,
}

const COUNTS: [(Count, &str, &str); 8] = [
    (Count::Answered, "requests", "result=\"actions\""),
    (Count::Other, "requests", "result=\"other\""),
    (Count::Refused, "requests", "result=\"error\""),
    (Count::Unauthorized, "requests", "result=\"unauthorized\""),
    (Count::Late, "deadlines_missed", ""),
    (Count::Recorded, "recorded_requests", ""),
    (Count::Unrecorded, "unrecorded_requests", ""),
    (Count::Dropped, "connections_dropped", ""),
];

/// All counts and histograms of a server.
pub struct Metrics {
    stages: [Histogram<{ SECONDS.len() }>; STAGES.len()],
    batches: Histogram<{ SIZES.len() }>,
    counts: [AtomicU64; COUNTS.len()],
    /// Clients that are connected.
    pub connections: AtomicU64,
    /// Observations that wait for the engine.
    pub waiting: AtomicU64,
    /// 1 while requests are recorded.
    pub recording: AtomicU64,
    /// Bytes of the recording, about.
    pub recorded_bytes: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            stages: std::array::from_fn(|_| Histogram::new(SECONDS)),
            batches: Histogram::new(SIZES),
            counts: [const { AtomicU64::new(0) }; COUNTS.len()],
            connections: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            recording: AtomicU64::new(0),
            recorded_bytes: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// A request spent `time` at a stage.
    pub fn time(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].add(time.as_secs_f64());
    }

    /// An inference had so many observations.
    pub fn batch(&self, size: usize) {
        self.batches.add(size as f64);
    }

    /// One more of these.
    pub fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many of these there were.
    pub fn counted(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// The page that Prometheus reads.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let _ =
            writeln!(page, "# HELP steadyhand_stage_seconds Where the time of a request for actions goes.");
        let _ = writeln!(page, "# TYPE steadyhand_stage_seconds histogram");
        for ((_, name), histogram) in STAGES.iter().zip(&self.stages) {
            histogram.write(&mut page, "steadyhand_stage_seconds", &format!("stage=\"{name}\""));
        }
        let _ = writeln!(page, "# HELP steadyhand_batch_observations Observations of an inference.");
        let _ = writeln!(page, "# TYPE steadyhand_batch_observations histogram");
        self.batches.write(&mut page, "steadyhand_batch_observations", "");
        let mut last = "";
        for (count, name, labels) in COUNTS {
            if name != last {
                let _ = writeln!(page, "# TYPE steadyhand_{name}_total counter");
                last = name;
            }
            let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let _ = writeln!(page, "steadyhand_{name}_total{braced} {}", self.counted(count));
        }
        for (name, gauge) in [
            ("connections", &self.connections),
            ("waiting_observations", &self.waiting),
            ("recording", &self.recording),
            ("recorded_bytes", &self.recorded_bytes),
        ] {
            let _ = writeln!(page, "# TYPE steadyhand_{name} gauge");
            let _ = writeln!(page, "steadyhand_{name} {}", gauge.load(Ordering::Relaxed));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_lists_are_those_of_the_enums() {
        assert!(STAGES.iter().enumerate().all(|(place, (stage, _))| *stage as usize == place));
        assert!(COUNTS.iter().enumerate().all(|(place, (count, ..))| *count as usize == place));
    }

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for ms in [1, 5, 30_000] {
            metrics.time(Stage::Inference, Duration::from_millis(ms));
        }
        metrics.batch(3);
        metrics.count(Count::Late);
        let page = metrics.page();
        for line in [
            "steadyhand_stage_seconds_bucket{stage=\"inference\",le=\"0.001\"} 1",
            "steadyhand_stage_seconds_bucket{stage=\"inference\",le=\"16\"} 2",
            "steadyhand_stage_seconds_bucket{stage=\"inference\",le=\"+Inf\"} 3",
            "steadyhand_stage_seconds_sum{stage=\"inference\"} 30.006",
            "steadyhand_stage_seconds_count{stage=\"total\"} 0",
            "steadyhand_batch_observations_bucket{le=\"2\"} 0",
            "steadyhand_batch_observations_bucket{le=\"4\"} 1",
            "steadyhand_deadlines_missed_total 1",
            "steadyhand_requests_total{result=\"actions\"} 0",
            "steadyhand_connections 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
