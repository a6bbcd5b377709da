//! Tensors put between the components of a running engine.

use super::{Case, F32_LIMIT, ROUNDED_FACTOR, bits, distance, infer, like, preset};
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::exchange::Patches;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// A tensor on its way from a part to the next.
struct Handed {
    place: (Site, [usize; 3]),
    values: Vec<f32>,
}

/// Keeps what is handed over, and puts the tensors of other runs in the place of some.
#[derive(Default)]
struct Exchange<'a> {
    seen: Vec<Handed>,
    instead: Vec<&'a Handed>,
}

impl Patches for Exchange<'_> {
    fn hand_over(&mut self, at: &Site, shape: [usize; 3], values: &mut [f32]) {
        let place = (at.clone(), shape);
        self.seen.push(Handed { place: place.clone(), values: values.to_vec() });
        if let Some(other) = self.instead.iter().find(|other| other.place == place) {
            values.copy_from_slice(&other.values);
        }
    }
}

fn run<'a>(engine: &mut dyn Engine, input: &ModelInput, instead: Vec<&'a Handed>) -> (Matrix, Exchange<'a>) {
    let mut exchange = Exchange { instead, ..Exchange::default() };
    let actions = engine.infer_patched(input, &mut exchange).expect("a patched inference");
    (actions, exchange)
}

/// Every part hands over what the CPU engine's does, in the same order; put back, it changes no bit.
pub fn with_its_own_tensors(case: &Case, policy: &PrecisionPolicy) {
    let mut engine = case.cuda(policy);
    let expected = bits(&infer(&mut engine, &case.input));
    let (actions, own) = run(&mut engine, &case.input, Vec::new());
    assert_eq!(bits(&actions), expected, "nothing was replaced");
    let (actions, _) = run(&mut engine, &case.input, own.seen.iter().collect());
    assert_eq!(bits(&actions), expected, "everything was replaced by itself");
    assert_eq!(bits(&infer(&mut engine, &case.input)), expected, "a replay after the patched runs");

    let mut reference = CpuEngine::new(case.model.clone(), policy.clone(), case.steps);
    let (_, right) = run(&mut reference, &case.input, Vec::new());
    assert_eq!(own.seen.len(), right.seen.len());
    for (found, right) in own.seen.iter().zip(&right.seen) {
        assert_eq!(found.place, right.place);
        let apart = relative_l2(&found.values, &right.values);
        assert!(policy != &preset("f32") || apart <= F32_LIMIT, "{:?}: {apart:.2e} apart", right.place);
    }
}

/// What any part made of another observation, put into this one's inference, gives what it gives on the CPU.
pub fn with_another_observations(case: &Case, policy: &PrecisionPolicy) {
    let cpu = |policy: &PrecisionPolicy| CpuEngine::new(case.model.clone(), policy.clone(), case.steps);
    let f32 = preset("f32");
    let other = like(&case.model, &case.input, 9);
    let (_, others) = run(&mut cpu(policy), &other, Vec::new());
    let mut engine = case.cuda(policy);
    let unpatched = bits(&infer(&mut engine, &case.input));
    for part in &case.model.topology.parts {
        let of =
            || others.seen.iter().filter(|handed| part.hands_over(handed.place.0.path())).collect::<Vec<_>>();
        let (found, _) = run(&mut engine, &case.input, of());
        let (right, _) = run(&mut cpu(policy), &case.input, of());
        // What comes after the last components rounds little or nothing, but sums in f32.
        let rounding = distance(&right, &run(&mut cpu(&f32), &case.input, of()).0);
        let limit = F32_LIMIT.max(ROUNDED_FACTOR * rounding);
        let apart = distance(&found, &right);
        assert!(apart <= limit, "{}: {apart:.2e} from the CPU engine, limit {limit:.2e}", part.name);
        assert_ne!(bits(&found), unpatched, "{}: the patch does nothing", part.name);
    }
}
