//! What a policy is tuned for: where it runs, and what running it costs.

use super::ranges::Ranges;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use steadyhand_gr00t::engine::{Backend, CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::observation::Matrix;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Error, Result};

/// The preset that costs are compared with.
pub const BASELINE: &str = "bf16";
/// Inferences before those that are timed.
const WARMUP: usize = 3;
/// Timed inferences of each of two engines when policies are searched.
const SCREENING: usize = 24;
/// The same for the policies that are reported.
const LASTING: usize = 120;
/// How long two engines take turns at most, once each has had [`LEAST`] of them.
const LONGEST: Duration = Duration::from_secs(3);
/// See [`LONGEST`].
const LEAST: usize = 8;
/// What makes the median absolute deviation of normal values their standard deviation.
const NORMAL: f64 = 1.4826;
/// The standard error of a median over that of a mean, for normal values.
const MEDIAN: f64 = 1.2533;

/// What an inference costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Under the policy, in the target's [`Unit`].
    pub value: f64,
    /// Under [`BASELINE`], measured in turns with it.
    pub baseline: f64,
    /// The standard error of the difference of the two.
    pub noise: f64,
}

/// What costs are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Measured time of an inference, inputs in host memory to actions in host memory.
    Milliseconds,
    /// Bytes that an inference moves, counted from the formats: no time of any device.
    Bytes,
}

impl Unit {
    /// As an axis is labelled.
    pub fn label(self) -> &'static str {
        match self {
            Unit::Milliseconds => "milliseconds per inference",
            Unit::Bytes => "bytes per inference",
        }
    }

    /// Whole parts that a unit is cut into: nanoseconds, bytes.
    pub fn parts(self) -> f64 {
        match self {
            Unit::Milliseconds => 1e6,
            Unit::Bytes => 1.0,
        }
    }
}

/// A place to run policies.
pub trait Target {
    /// `cuda` or `cpu`.
    fn name(&self) -> &'static str;

    /// The device's name.
    fn device(&self) -> String;

    /// What [`Target::cost`] counts.
    fn unit(&self) -> Unit;

    /// Whether it can run a policy that fits the model.
    ///
    /// # Errors
    /// The first site that it has no form for.
    fn check(&self, policy: &PrecisionPolicy) -> Result<()>;

    /// Normalized actions of each input.
    ///
    /// # Errors
    /// The engine cannot be opened or fails.
    fn actions(&mut self, policy: &PrecisionPolicy, inputs: &[ModelInput]) -> Result<Vec<Matrix>>;

    /// What an inference of the first input costs; `lasting` measures longer.
    ///
    /// # Errors
    /// As [`Target::actions`].
    fn cost(
        &mut self,
        policy: &PrecisionPolicy,
        inputs: &[ModelInput],
        ranges: &Ranges,
        lasting: bool,
    ) -> Result<Cost>;
}

/// Whether an engine executes a policy at these sites, whatever the device: an error that names the site where not.
pub type Admits = fn(&PrecisionPolicy, &[ModelSite]) -> steadyhand_gr00t::Result<()>;

/// The reference, rounding as the policy says. Its time says nothing about any device.
pub struct CpuTarget {
    model: Model,
    denoising_steps: usize,
    /// What the engine that is to run the policies in the end executes, with the model's sites.
    deployed: Option<(Admits, Vec<ModelSite>)>,
}

impl CpuTarget {
    /// Policies of `model` emulated on the CPU.
    pub fn new(model: Model, denoising_steps: usize) -> Self {
        CpuTarget { model, denoising_steps, deployed: None }
    }

    /// Takes only policies that `admits` takes for this model: what the engine executes that they are for.
    ///
    /// # Errors
    /// The model's sites cannot be listed.
    pub fn deployed_where(mut self, admits: Admits) -> Result<Self> {
        self.deployed = Some((admits, self.model.sites()?));
        Ok(self)
    }
}

impl Target for CpuTarget {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        "emulation on the CPU".to_owned()
    }

    fn unit(&self) -> Unit {
        Unit::Bytes
    }

    /// The reference runs every policy that fits the model.
    fn check(&self, policy: &PrecisionPolicy) -> Result<()> {
        match &self.deployed {
            Some((admits, sites)) => admits(policy, sites),
            None => Ok(()),
        }
    }

    fn actions(&mut self, policy: &PrecisionPolicy, inputs: &[ModelInput]) -> Result<Vec<Matrix>> {
        CpuEngine::new(self.model.clone(), policy.clone(), self.denoising_steps).infer(inputs, None)
    }

    fn cost(
        &mut self,
        policy: &PrecisionPolicy,
        _inputs: &[ModelInput],
        ranges: &Ranges,
        _lasting: bool,
    ) -> Result<Cost> {
        let baseline = ranges.bytes(&PrecisionPolicy::preset(BASELINE)?);
        Ok(Cost { value: ranges.bytes(policy), baseline, noise: 0.0 })
    }
}

/// A device on which the engines of a backend are timed.
pub struct TimedTarget {
    backend: Box<dyn Backend>,
    model: Model,
    sites: Vec<ModelSite>,
    denoising_steps: usize,
    device: String,
    /// [`BASELINE`]'s engine, kept to take turns with.
    baseline: Option<Box<dyn Engine>>,
    /// The engine used last, by its policy's identity: errors and costs are asked for one after the other.
    last: Option<(String, Box<dyn Engine>)>,
}

impl TimedTarget {
    /// Policies of `model` in engines of `backend`.
    ///
    /// # Errors
    /// The backend has no device.
    pub fn new(backend: Box<dyn Backend>, model: Model, denoising_steps: usize) -> Result<Self> {
        let (device, sites) = (backend.device()?, model.sites()?);
        Ok(TimedTarget { backend, model, sites, denoising_steps, device, baseline: None, last: None })
    }

    fn open(&self, policy: &PrecisionPolicy) -> Result<Box<dyn Engine>> {
        Ok(self.backend.open(self.model.clone(), policy.clone(), self.denoising_steps)?)
    }

    /// Makes the engine of a policy the last one.
    fn keep(&mut self, policy: &PrecisionPolicy) -> Result<()> {
        let identity = policy.identity();
        if self.last.as_ref().is_none_or(|(kept, _)| *kept != identity) {
            // Its memory goes before the next one asks for some.
            self.last = None;
            self.last = Some((identity, self.open(policy)?));
        }
        Ok(())
    }
}

impl Target for TimedTarget {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn unit(&self) -> Unit {
        Unit::Milliseconds
    }

    fn check(&self, policy: &PrecisionPolicy) -> Result<()> {
        self.backend.check(policy, &self.sites)
    }

    fn actions(&mut self, policy: &PrecisionPolicy, inputs: &[ModelInput]) -> Result<Vec<Matrix>> {
        self.keep(policy)?;
        let Some((_, engine)) = &mut self.last else { return Err(no_engine()) };
        // One at a time: the program is then the one that is timed.
        let each = inputs.iter().map(|input| engine.infer(std::slice::from_ref(input), None));
        Ok(each.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn cost(
        &mut self,
        policy: &PrecisionPolicy,
        inputs: &[ModelInput],
        _ranges: &Ranges,
        lasting: bool,
    ) -> Result<Cost> {
        if self.baseline.is_none() {
            self.baseline = Some(self.open(&PrecisionPolicy::preset(BASELINE)?)?);
        }
        self.keep(policy)?;
        let (Some(baseline), Some((_, engine))) = (&mut self.baseline, &mut self.last) else {
            return Err(no_engine());
        };
        let input = inputs.first().ok_or_else(|| Error::input("frames", "expected at least 1, found 0"))?;
        in_turns([engine.as_mut(), baseline.as_mut()], input, if lasting { LASTING } else { SCREENING })
    }
}

fn no_engine() -> Error {
    Error::input("tune", "expected an open engine")
}

/// Times two engines in turns, so that whatever the device's clocks do they do to both.
fn in_turns(mut engines: [&mut dyn Engine; 2], input: &ModelInput, repetitions: usize) -> Result<Cost> {
    let input = std::slice::from_ref(input);
    let (mut times, begin) = ([Vec::new(), Vec::new()], Instant::now());
    for repetition in 0..WARMUP + repetitions {
        if times[1].len() >= LEAST && begin.elapsed() > LONGEST {
            break;
        }
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            let start = Instant::now();
            engine.infer(input, None)?;
            if repetition >= WARMUP {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [ours, baseline] = times;
    let differences: Vec<f64> = ours.iter().zip(&baseline).map(|(ours, theirs)| ours - theirs).collect();
    let difference = median(&differences);
    let deviations: Vec<f64> = differences.iter().map(|value| (value - difference).abs()).collect();
    let noise = NORMAL * median(&deviations) * MEDIAN / (differences.len() as f64).sqrt();
    let baseline = median(&baseline);
    Ok(Cost { value: baseline + difference, baseline, noise })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::probe::Probe;

    /// An engine that only takes its time.
    struct Sleeper(PrecisionPolicy, u64);

    impl Engine for Sleeper {
        fn name(&self) -> &str {
            "sleeper"
        }

        fn precision(&self) -> &PrecisionPolicy {
            &self.0
        }

        fn infer(&mut self, _: &[ModelInput], _: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
            std::thread::sleep(std::time::Duration::from_millis(self.1));
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_cost_is_the_baseline_and_the_difference() {
        let policy = PrecisionPolicy::preset("f32").expect("a preset");
        let (mut fast, mut slow) = (Sleeper(policy.clone(), 1), Sleeper(policy, 4));
        let cost = in_turns([&mut fast, &mut slow], &ModelInput::default(), 5).expect("timed");
        // A sleep lasts at least as long as it was asked for; how much longer is the machine's affair.
        assert!(cost.baseline >= 4.0 && cost.value.is_finite() && cost.noise >= 0.0, "{cost:?}");
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
