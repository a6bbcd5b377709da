//! What a server counts, as Prometheus reads it (text format 0.0.4).

use crate::pool::Pool;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        // Of values that are being added just now the count may be ahead of the sum.
        let count = self.count.load(Ordering::Relaxed).max(total);
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(page, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(page, "{name}_count{{{labels}}} {count}");
    }
}

/// Where the time of a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The message becomes observations.
    Read,
    /// Observations become model input.
    Prepare,
    /// Waiting for an engine, and for others to share a batch.
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
    /// Requests that were answered with an error, but for those that are late.
    Refused,
    /// Requests whose deadline passed before an engine was free.
    Late,
    /// Requests for actions that were recorded.
    Recorded,
    /// Requests for actions that were to be recorded and were not: after the limit or an error, or because the disk was
    /// too slow.
    Unrecorded,
}

/// A count's family and its own label.
const COUNTS: [(Count, &str, &str); 6] = [
    (Count::Answered, "requests", "result=\"actions\","),
    (Count::Other, "requests", "result=\"other\","),
    (Count::Refused, "requests", "result=\"error\","),
    (Count::Late, "deadlines_missed", ""),
    (Count::Recorded, "recorded_requests", ""),
    (Count::Unrecorded, "unrecorded_requests", ""),
];

/// Counts and histograms of one model.
pub struct Metrics {
    /// `model="NAME"`, escaped.
    label: String,
    stages: [Histogram<{ SECONDS.len() }>; STAGES.len()],
    counts: [AtomicU64; COUNTS.len()],
    /// 1 while requests are recorded.
    pub recording: AtomicU64,
    /// Bytes of the recording, about.
    pub recorded_bytes: AtomicU64,
}

/// Counts and histograms of one engine.
pub struct EngineMetrics {
    /// Its place among all engines of the server.
    pub number: usize,
    /// Its kind, such as `cuda`.
    pub name: String,
    /// Where it computes.
    pub device: String,
    up: AtomicBool,
    failures: AtomicU64,
    seconds: Histogram<{ SECONDS.len() }>,
    batches: Histogram<{ SIZES.len() }>,
}

impl Metrics {
    /// Counts of the model of this name.
    pub fn new(model: &str) -> Self {
        Metrics {
            label: label("model", model),
            stages: std::array::from_fn(|_| Histogram::new(SECONDS)),
            counts: [const { AtomicU64::new(0) }; COUNTS.len()],
            recording: AtomicU64::new(0),
            recorded_bytes: AtomicU64::new(0),
        }
    }

    /// A request spent `time` at a stage.
    pub fn time(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].add(time.as_secs_f64());
    }

    /// One more of these.
    pub fn count(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl EngineMetrics {
    /// Counts of an engine that is about to work.
    pub fn new(number: usize, name: String, device: String) -> Self {
        EngineMetrics {
            number,
            name,
            device,
            up: AtomicBool::new(true),
            failures: AtomicU64::new(0),
            seconds: Histogram::new(SECONDS),
            batches: Histogram::new(SIZES),
        }
    }

    /// An inference of so many observations took so long.
    pub fn ran(&self, time: Duration, batch: usize) {
        self.seconds.add(time.as_secs_f64());
        self.batches.add(batch as f64);
    }

    /// An inference failed by the engine's own fault.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How many there were.
    pub fn inferences(&self) -> u64 {
        self.seconds.count.load(Ordering::Relaxed)
    }

    /// Whether it takes requests.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// It takes no more; whether it did until now.
    pub fn end(&self) -> bool {
        self.up.swap(false, Ordering::AcqRel)
    }

    fn labels(&self, pool: &Pool) -> String {
        let EngineMetrics { number, device, .. } = self;
        format!("engine=\"{number}\",{},{}", label("device", device), label("checkpoint", &pool.checkpoint))
    }
}

/// What is counted of connections and of requests that are for no model.
#[derive(Default)]
pub struct Connections {
    /// Clients that are connected.
    pub now: AtomicU64,
    /// Connections that were closed because they did not follow the protocol, were silent, or there were too many.
    dropped: AtomicU64,
    /// Requests without the token.
    unauthorized: AtomicU64,
    /// Other requests that could not be told for which model they are.
    refused: AtomicU64,
}

impl Connections {
    /// One more was closed.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// One more request was without the token.
    pub fn unauthorized(&self) {
        self.unauthorized.fetch_add(1, Ordering::Relaxed);
    }

    /// One more request was refused before it was known for which model it is.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A label with its value, in which the text format escapes three characters.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP steadyhand_{name} {help}");
    let _ = writeln!(page, "# TYPE steadyhand_{name} {kind}");
}

/// The page that Prometheus reads.
pub fn page(models: &[Arc<Metrics>], pools: &[Arc<Pool>], connections: &Connections) -> String {
    let mut page = String::new();
    head(&mut page, "stage_seconds", "histogram", "Where the time of a request for actions goes.");
    for model in models {
        for ((_, stage), histogram) in STAGES.iter().zip(&model.stages) {
            let labels = format!("stage=\"{stage}\",{}", model.label);
            histogram.write(&mut page, "steadyhand_stage_seconds", &labels);
        }
    }
    let mut last = "";
    for (place, (_, name, own)) in COUNTS.iter().enumerate() {
        if *name != last {
            let _ = writeln!(page, "# TYPE steadyhand_{name}_total counter");
            last = name;
        }
        for model in models {
            let counted = model.counts[place].load(Ordering::Relaxed);
            let _ = writeln!(page, "steadyhand_{name}_total{{{own}{}}} {counted}", model.label);
        }
        if *name == "requests" && COUNTS.get(place + 1).is_none_or(|(_, next, _)| next != name) {
            for (result, count) in
                [("unauthorized", &connections.unauthorized), ("error", &connections.refused)]
            {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(page, "steadyhand_requests_total{{result=\"{result}\"}} {count}");
            }
        }
    }
    for (name, gauge) in [
        ("recording", (|model| &model.recording) as fn(&Metrics) -> &AtomicU64),
        ("recorded_bytes", |model| &model.recorded_bytes),
    ] {
        let _ = writeln!(page, "# TYPE steadyhand_{name} gauge");
        for model in models {
            let value = gauge(model).load(Ordering::Relaxed);
            let _ = writeln!(page, "steadyhand_{name}{{{}}} {value}", model.label);
        }
    }
    let engines =
        || pools.iter().flat_map(|pool| pool.engines.iter().map(move |engine| (engine, engine.labels(pool))));
    head(&mut page, "engine_seconds", "histogram", "How long an engine ran for an inference.");
    for (engine, labels) in engines() {
        engine.seconds.write(&mut page, "steadyhand_engine_seconds", &labels);
    }
    head(&mut page, "batch_observations", "histogram", "Observations of an inference.");
    for (engine, labels) in engines() {
        engine.batches.write(&mut page, "steadyhand_batch_observations", &labels);
    }
    head(&mut page, "engine_up", "gauge", "1 while an engine takes requests.");
    for (engine, labels) in engines() {
        let _ = writeln!(page, "steadyhand_engine_up{{{labels}}} {}", u8::from(engine.is_up()));
    }
    head(&mut page, "engine_failures_total", "counter", "Inferences that failed by the engine's own fault.");
    for (engine, labels) in engines() {
        let _ = writeln!(page, "steadyhand_engine_failures_total{{{labels}}} {}", engine.failures());
    }
    head(&mut page, "waiting_observations", "gauge", "Observations that wait for an engine.");
    for pool in pools {
        // Two pools may be of one checkpoint.
        let engines: Vec<String> = pool.engines.iter().map(|engine| engine.number.to_string()).collect();
        let labels = format!("{},engines=\"{}\"", label("checkpoint", &pool.checkpoint), engines.join(","));
        let _ = writeln!(page, "steadyhand_waiting_observations{{{labels}}} {}", pool.queue.waiting());
    }
    let Connections { now, dropped, .. } = connections;
    let _ = writeln!(page, "# TYPE steadyhand_connections_dropped_total counter");
    let _ = writeln!(page, "steadyhand_connections_dropped_total {}", dropped.load(Ordering::Relaxed));
    let _ = writeln!(page, "# TYPE steadyhand_connections gauge");
    let _ = writeln!(page, "steadyhand_connections {}", now.load(Ordering::Relaxed));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    #[test]
    fn places_of_lists_are_those_of_the_enums() {
        assert!(STAGES.iter().enumerate().all(|(place, (stage, _))| *stage as usize == place));
        assert!(COUNTS.iter().enumerate().all(|(place, (count, ..))| *count as usize == place));
    }

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let model = Metrics::new("a\"b");
        for ms in [1, 5, 30_000] {
            model.time(Stage::Inference, Duration::from_millis(ms));
        }
        model.count(Count::Late);
        let engine = EngineMetrics::new(1, "cpu".to_owned(), "CPU".to_owned());
        engine.ran(Duration::from_millis(3), 3);
        engine.failed();
        engine.end();
        let queue = Queue::new(1, Duration::ZERO);
        let pool = Arc::new(Pool::new("C:\\x".to_owned(), queue, vec![engine], |_| {}));
        let page = page(&[Arc::new(model)], &[pool], &Connections::default());
        let of = "engine=\"1\",device=\"CPU\",checkpoint=\"C:\\\\x\"";
        for line in [
            "steadyhand_stage_seconds_bucket{stage=\"inference\",model=\"a\\\"b\",le=\"0.001\"} 1",
            "steadyhand_stage_seconds_bucket{stage=\"inference\",model=\"a\\\"b\",le=\"16\"} 2",
            "steadyhand_stage_seconds_bucket{stage=\"inference\",model=\"a\\\"b\",le=\"+Inf\"} 3",
            "steadyhand_stage_seconds_sum{stage=\"inference\",model=\"a\\\"b\"} 30.006",
            "steadyhand_stage_seconds_count{stage=\"total\",model=\"a\\\"b\"} 0",
            "steadyhand_deadlines_missed_total{model=\"a\\\"b\"} 1",
            "steadyhand_requests_total{result=\"actions\",model=\"a\\\"b\"} 0",
            &format!("steadyhand_batch_observations_bucket{{{of},le=\"2\"}} 0"),
            &format!("steadyhand_batch_observations_bucket{{{of},le=\"4\"}} 1"),
            &format!("steadyhand_engine_seconds_sum{{{of}}} 0.003"),
            &format!("steadyhand_engine_up{{{of}}} 0"),
            &format!("steadyhand_engine_failures_total{{{of}}} 1"),
            "steadyhand_waiting_observations{checkpoint=\"C:\\\\x\",engines=\"1\"} 0",
            "steadyhand_connections 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
