//! What is done with the engine before clients are let in: it is run, and on demand compared with the reference.

use anyhow::{Result, ensure};
use std::time::Instant;
use steadyhand_fidelity::metrics::relative_l2;
use steadyhand_gr00t::engine::{ModelInput, Reference, one};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::{Matrix, Policy, Session};

/// How far f32 actions of two right engines may be apart: what `steady verify` allows at every tap.
const F32_LIMIT: f64 = 1e-5;
/// How many times as far from the f32 actions as the emulation of its number formats an engine may be. Measured on
/// whole tables of actions, engines are 0.99 to 1.02 times as far; one chunk of actions varies more.
const FACTOR: f64 = 2.0;

/// The engine's actions for a made-up observation.
pub struct Trial {
    input: ModelInput,
    /// Of each batch size from 1 on, its last member.
    actions: Vec<Matrix>,
    /// Of the last inference.
    pub seconds: f64,
}

/// How near the engine is to the reference.
pub struct Comparison {
    /// Relative L2 distance of its actions from those of the reference in f32, the largest of all batch sizes.
    pub found: f64,
    /// What is allowed.
    pub limit: f64,
}

impl Trial {
    /// Runs the engine at every batch size that clients can bring about, so that what it compiles or allocates for them
    /// is there when they come.
    ///
    /// # Errors
    /// As [`Engine::infer`](steadyhand_gr00t::engine::Engine::infer).
    pub fn run(session: &Session, policy: &mut Policy, seed: u64, max_batch: usize) -> Result<Self> {
        let [rows, cols] = policy.noise_shape();
        let noise = gaussian(seed, 0, 0, rows, cols);
        let input = policy.preparation().prepare(&session.random(seed), noise)?;
        let mut actions = Vec::new();
        let mut seconds = 0.0;
        for batch in 1..=max_batch {
            let inputs = vec![input.clone(); batch];
            // The first one may compile kernels.
            policy.engine_mut().infer(&inputs, None)?;
            let started = Instant::now();
            actions.push(one(policy.engine_mut().infer(&inputs, None)?)?);
            seconds = started.elapsed().as_secs_f64();
        }
        Ok(Trial { input, actions, seconds })
    }

    /// Compares with the reference in f32. What the number formats cost there, in the reference's emulation of them, is
    /// the measure of what they may cost here.
    ///
    /// # Errors
    /// The reference cannot be opened.
    pub fn compare(
        &self,
        session: &Session,
        precision: &PrecisionPolicy,
        denoising_steps: usize,
    ) -> Result<Comparison> {
        let reference = |precision: PrecisionPolicy| -> Result<Matrix> {
            let mut engine = session.parts.engine(&Reference, precision, denoising_steps)?;
            Ok(one(engine.infer(std::slice::from_ref(&self.input), None)?)?)
        };
        let f32_policy = PrecisionPolicy::preset("f32")?;
        let expected = reference(f32_policy.clone())?;
        let cost = match precision.identity() == f32_policy.identity() {
            true => 0.0,
            false => relative_l2(&reference(precision.clone())?.data, &expected.data),
        };
        let found = self.actions.iter().map(|actions| relative_l2(&actions.data, &expected.data));
        let found = found.fold(0.0, f64::max);
        ensure!(
            found.is_finite(),
            "--verify: the engine's actions are not finite, or the reference's are zero"
        );
        Ok(Comparison { found, limit: F32_LIMIT + FACTOR * cost })
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
        let mut policy = session.parts.policy(&Reference, bf16.clone(), 2, 1).expect("opens");
        let mut trial = Trial::run(&session, &mut policy, 1, 2).expect("runs");
        let compared = trial.compare(&session, &bf16, 2).expect("runs");
        assert!(compared.holds() && compared.found > F32_LIMIT, "{}", compared.found);
        // Bits of bf16 are not those of f32.
        let f32_policy = PrecisionPolicy::preset("f32").expect("a preset");
        assert!(!trial.compare(&session, &f32_policy, 2).expect("runs").holds());
        // One batch size alone is wrong.
        trial.actions[1].data.iter_mut().for_each(|action| *action *= 1.5);
        assert!(!trial.compare(&session, &bf16, 2).expect("runs").holds());
    }
}
