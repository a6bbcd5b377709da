//! What is done with engines before clients are let in: they are run, and on demand compared with the reference.

use anyhow::{Result, ensure};
use std::time::Instant;
use steadyhand_fidelity::metrics::relative_l2;
use steadyhand_gr00t::engine::{Engine, ModelInput, Reference, one};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::Preparation;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Matrix, Observation, Session};

/// How far f32 actions of two right engines may be apart: what `steady verify` allows at every tap.
const F32_LIMIT: f64 = 1e-5;
/// How many times as far from the f32 actions as the emulation of its number formats an engine may be. Measured on
/// whole tables of actions, engines are 0.99 to 1.02 times as far; one chunk of actions varies more.
const FACTOR: f64 = 2.0;

/// An engine's actions for a made-up observation.
pub struct Trial {
    /// Of each batch size from 1 on, its last member.
    actions: Vec<Matrix>,
    /// Of the last inference.
    pub seconds: f64,
}

/// How near an engine is to the reference.
pub struct Comparison {
    /// Relative L2 distance of its actions from those of the reference in f32, the largest of all batch sizes.
    pub found: f64,
    /// What is allowed.
    pub limit: f64,
}

/// The reference's actions for a made-up observation, and how far number formats may lead from them.
pub struct Expected {
    actions: Matrix,
    limit: f64,
}

/// A made-up observation with its noise.
pub struct MadeUp<'s> {
    session: &'s Session,
    observation: Observation,
    noise: Matrix,
}

impl<'s> MadeUp<'s> {
    /// Of this seed.
    pub fn new(session: &'s Session, seed: u64) -> Self {
        let [rows, cols] = session.parts.noise_shape();
        MadeUp { session, observation: session.random(seed), noise: gaussian(seed, 0, 0, rows, cols) }
    }

    /// As the engine's clients have it prepared.
    fn input(&self, engine: &dyn Engine) -> Result<ModelInput> {
        let preparation = Preparation::new(&self.session.parts.processor, engine);
        Ok(preparation.prepare(&self.observation, self.noise.clone())?)
    }
}

impl Trial {
    /// Runs the engine at every batch size that clients can bring about, so that what it compiles or allocates for them
    /// is there when they come.
    ///
    /// # Errors
    /// As [`Engine::infer`]; frames that do not fit the processor.
    pub fn run(made_up: &MadeUp, engine: &mut dyn Engine, max_batch: usize) -> Result<Self> {
        let input = made_up.input(engine)?;
        let mut actions = Vec::new();
        let mut seconds = 0.0;
        for batch in 1..=max_batch {
            let inputs = vec![input.clone(); batch];
            // The first one may compile kernels.
            engine.infer(&inputs, None)?;
            let started = Instant::now();
            actions.push(one(engine.infer(&inputs, None)?)?);
            seconds = started.elapsed().as_secs_f64();
        }
        Ok(Trial { actions, seconds })
    }
}

impl Expected {
    /// Runs the reference in f32. What the number formats cost there, in the reference's emulation of them, is the measure
    /// of what they may cost an engine.
    ///
    /// # Errors
    /// The reference cannot be opened; frames that do not fit the processor.
    pub fn compute(made_up: &MadeUp, precision: &PrecisionPolicy, denoising_steps: usize) -> Result<Self> {
        let reference = |precision: PrecisionPolicy| -> Result<Matrix> {
            let mut engine = made_up.session.parts.engine(&Reference, precision, denoising_steps)?;
            let input = made_up.input(engine.as_ref())?;
            Ok(one(engine.infer(&[input], None)?)?)
        };
        let f32_policy = PrecisionPolicy::preset("f32")?;
        let actions = reference(f32_policy.clone())?;
        let cost = match precision.identity() == f32_policy.identity() {
            true => 0.0,
            false => relative_l2(&reference(precision.clone())?.data, &actions.data),
        };
        Ok(Expected { actions, limit: F32_LIMIT + FACTOR * cost })
    }

    /// How near an engine is that ran on the same input.
    ///
    /// # Errors
    /// Actions that are not finite.
    pub fn compare(&self, trial: &Trial) -> Result<Comparison> {
        let found = trial.actions.iter().map(|actions| relative_l2(&actions.data, &self.actions.data));
        let found = found.fold(0.0, f64::max);
        ensure!(
            found.is_finite(),
            "--verify: the engine's actions are not finite, or the reference's are zero"
        );
        Ok(Comparison { found, limit: self.limit })
    }
}

impl Comparison {
    /// Whether it is near enough.
    pub fn holds(&self) -> bool {
        self.found <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::session::Options;

    #[test]
    fn rounding_holds_and_wrong_actions_do_not() {
        let session = Session::open("synth:tiny", &Options::default()).expect("opens");
        let bf16 = PrecisionPolicy::preset("bf16").expect("a preset");
        let made_up = MadeUp::new(&session, 1);
        let mut engine = session.parts.engine(&Reference, bf16.clone(), 2).expect("opens");
        let mut trial = Trial::run(&made_up, engine.as_mut(), 2).expect("runs");
        let expected = |precision: &PrecisionPolicy| Expected::compute(&made_up, precision, 2).expect("runs");
        let of_bf16 = expected(&bf16);
        let compared = of_bf16.compare(&trial).expect("finite");
        assert!(compared.holds() && compared.found > F32_LIMIT, "{}", compared.found);
        // Bits of bf16 are not those of f32.
        let f32_policy = PrecisionPolicy::preset("f32").expect("a preset");
        assert!(!expected(&f32_policy).compare(&trial).expect("finite").holds());
        // One batch size alone is wrong.
        trial.actions[1].data.iter_mut().for_each(|action| *action *= 1.5);
        assert!(!of_bf16.compare(&trial).expect("finite").holds());
    }
}
