//! Engines of one checkpoint, which take from one queue.

use crate::metrics::EngineMetrics;
use crate::queue::Queue;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use steadyhand_gr00t::engine::{Engine, ModelInput, one};
use steadyhand_gr00t::{Error, Matrix, Result};

/// An engine and where it computes.
pub struct Placed {
    /// Of the same weights and number formats as those beside it.
    pub engine: Box<dyn Engine + Send>,
    /// Such as `NVIDIA H100 80GB HBM3 (0)`.
    pub device: String,
}

/// The engines of one checkpoint at work.
pub struct Pool {
    /// What pages call its checkpoint.
    pub checkpoint: String,
    /// What waits for its engines.
    pub queue: Queue,
    /// One for each engine.
    pub engines: Vec<EngineMetrics>,
    /// Engines that take requests.
    working: AtomicUsize,
    /// An input that an engine computed: what one that failed is tried with.
    known_good: OnceLock<ModelInput>,
    /// Is told that an engine was set aside, and why.
    tell: fn(&str),
}

impl Pool {
    /// A pool of these engines, none of which works yet.
    pub fn new(checkpoint: String, queue: Queue, engines: Vec<EngineMetrics>, tell: fn(&str)) -> Self {
        let working = AtomicUsize::new(engines.len());
        Pool { checkpoint, queue, engines, working, known_good: OnceLock::new(), tell }
    }

    /// Whether some engine takes requests.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::Acquire) > 0
    }

    /// Runs the engine of this place until the queue is closed and empty, or the engine is set aside.
    ///
    /// A request that an engine fails is answered with the error. Where the engine then fails an input too that was computed
    /// before, it would fail whatever it took, and faster than others compute: it is set aside, unless it is the last one.
    pub fn run(&self, place: usize, engine: &mut dyn Engine) {
        let metrics = &self.engines[place];
        while let Some(inference) = self.queue.next() {
            let started = Instant::now();
            let results = infer(engine, &inference.inputs);
            let elapsed = started.elapsed();
            metrics.ran(elapsed, results.len());
            let failure =
                results.iter().find_map(|result| result.as_ref().err().filter(|error| is_its_own(error)));
            let failure = failure.map(ToString::to_string);
            if let (None, Some(place)) = (self.known_good.get(), results.iter().position(Result::is_ok)) {
                let _ = self.known_good.set(ModelInput { rtc: None, ..inference.inputs[place].clone() });
            }
            inference.answer(results, elapsed);
            let Some(failure) = failure else { continue };
            metrics.failed();
            if self.fails_known_good(engine) && self.leaves_others() {
                metrics.end();
                let EngineMetrics { number, device, .. } = metrics;
                (self.tell)(&format!("engine {number} on {device}: set aside, as it fails: {failure}"));
                return;
            }
        }
    }

    fn fails_known_good(&self, engine: &mut dyn Engine) -> bool {
        self.known_good.get().is_some_and(|input| engine.infer(std::slice::from_ref(input), None).is_err())
    }

    /// Counts one engine less, unless it is the last one.
    fn leaves_others(&self) -> bool {
        let fewer = |working: usize| (working > 1).then(|| working - 1);
        self.working.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    /// The engine's thread ended, however it did. Without engines nothing that waits is answered.
    pub fn ended(&self, place: usize) {
        if self.engines[place].end() && self.working.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.queue.abandon();
        }
    }
}

/// Whether an error is the engine's rather than that of what it was given.
fn is_its_own(error: &Error) -> bool {
    match error {
        Error::Engine(_) => true,
        Error::At { source, .. } => is_its_own(source),
        _ => false,
    }
}

/// One result for each input: one that does not fit does not fail those beside it.
fn infer(engine: &mut dyn Engine, inputs: &[ModelInput]) -> Vec<Result<Matrix>> {
    match engine.infer(inputs, None) {
        Ok(actions) => actions.into_iter().map(Ok).collect(),
        Err(error) if inputs.len() == 1 => vec![Err(error)],
        Err(_) => {
            inputs.iter().map(|input| engine.infer(std::slice::from_ref(input), None).and_then(one)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Answer, Ticket};
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;
    use steadyhand_gr00t::precision::PrecisionPolicy;
    use steadyhand_gr00t::probe::Probe;

    /// Gives each input's slot of weights as its actions, refuses slot 9, and fails at slot 7 or after `until` inferences.
    struct Echo {
        precision: PrecisionPolicy,
        until: usize,
        inferences: usize,
    }

    impl Engine for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn precision(&self) -> &PrecisionPolicy {
            &self.precision
        }

        fn infer(&mut self, inputs: &[ModelInput], _: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
            self.inferences += 1;
            if self.inferences > self.until || inputs.iter().any(|input| input.embodiment_id == 7) {
                return Err(Error::engine("the device is gone"));
            }
            if inputs.iter().any(|input| input.embodiment_id == 9) {
                return Err(Error::input("embodiment_id", "expected below 9, found 9"));
            }
            Ok(inputs.iter().map(|input| Matrix::from(vec![input.embodiment_id as f32])).collect())
        }
    }

    fn echo(until: usize) -> Echo {
        Echo { precision: PrecisionPolicy::preset("f32").expect("a preset"), until, inferences: 0 }
    }

    fn pool(engines: usize, max_batch: usize) -> Pool {
        let metrics = |number| EngineMetrics::new(number, "echo".to_owned(), format!("device {number}"));
        let tell = |what: &str| assert!(what.contains("the device is gone"), "{what}");
        let queue = Queue::new(max_batch, Duration::ZERO);
        Pool::new("weights".to_owned(), queue, (0..engines).map(metrics).collect(), tell)
    }

    fn push(pool: &Pool, slot: usize) -> Receiver<Answer> {
        let (send, receive) = channel();
        let input = ModelInput { embodiment_id: slot, ..ModelInput::default() };
        assert!(pool.queue.push(Ticket::new(None, Arc::default()), vec![input], send));
        receive
    }

    fn answer(receiver: &Receiver<Answer>) -> Result<Matrix> {
        receiver.recv().expect("an answer").actions
    }

    #[test]
    fn a_flaw_of_one_does_not_fail_those_beside_it() {
        let pool = pool(2, 2);
        let (bad, good) = (push(&pool, 9), push(&pool, 1));
        pool.queue.close();
        pool.run(0, &mut echo(usize::MAX));
        assert!(answer(&bad).is_err());
        assert_eq!(answer(&good).expect("computed").data, [1.0]);
        assert!(pool.engines[0].is_up() && pool.engines[0].failures() == 0);
    }

    #[test]
    fn an_engine_that_fails_everything_leaves_the_queue_to_the_others() {
        let pool = pool(2, 1);
        let requests: Vec<_> = (0..5).map(|slot| push(&pool, slot)).collect();
        // Computes two requests, fails the third, and is tried.
        let mut failing = echo(2);
        pool.run(0, &mut failing);
        assert_eq!((failing.inferences, pool.queue.waiting()), (4, 2));
        assert!(!pool.engines[0].is_up() && pool.engines[0].failures() == 1 && pool.is_working());
        pool.queue.close();
        pool.run(1, &mut echo(usize::MAX));
        let computed: Vec<bool> = requests.iter().map(|request| answer(request).is_ok()).collect();
        assert_eq!(computed, [true, true, false, true, true]);
    }

    #[test]
    fn a_request_that_no_engine_computes_costs_no_engine() {
        let pool = pool(2, 1);
        let requests: Vec<_> = [1, 7, 2].map(|slot| push(&pool, slot)).into();
        pool.queue.close();
        pool.run(0, &mut echo(usize::MAX));
        let computed: Vec<bool> = requests.iter().map(|request| answer(request).is_ok()).collect();
        assert_eq!(computed, [true, false, true]);
        assert!(pool.engines[0].is_up() && pool.engines[0].failures() == 1);
    }

    #[test]
    fn the_last_engine_stays_and_without_any_nothing_waits() {
        let pool = pool(1, 1);
        let requests: Vec<_> = (0..3).map(|slot| push(&pool, slot)).collect();
        pool.queue.close();
        pool.run(0, &mut echo(1));
        assert!(answer(&requests[2]).is_err() && pool.engines[0].is_up());
        pool.ended(0);
        pool.ended(0);
        assert!(!pool.is_working() && !pool.engines[0].is_up());
    }
}
