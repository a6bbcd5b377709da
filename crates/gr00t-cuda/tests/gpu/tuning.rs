//! Tuning for the GPU at hand.

use std::time::Duration;
use steadyhand_gr00t::engine::Engine;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::processor::{Processor, random_instruction};
use steadyhand_gr00t::{Version, synthetic};
use steadyhand_gr00t_cuda::{Cuda, CudaEngine, Options};
use steadyhand_gr00t_lab::tuning::{Budget, Deadline, State, Subject, TimedTarget, tune};

/// Enough for all kinds and some of the groups.
const LIMIT: Duration = Duration::from_secs(60);

/// Every preset is measured, and the choice is within the budget and runs.
pub fn for_this_device() {
    let (config, steps) = (synthetic::tiny(), 2);
    let processor = Processor::synthetic(Version::N1_6, &config, 1, 56).expect("a processor");
    let model = Model::synthetic(config, 7).expect("consistent sizes");
    let observation = processor.random_observation(7, [60, 60], random_instruction(7, 5));
    let noise = gaussian(7, 0, 0, model.config.action_horizon, model.config.max_action_dim);
    let input = prepare(&processor, &observation, noise).expect("an input");
    let subject = Subject {
        model: &model,
        processor: &processor,
        observations: vec![observation],
        inputs: vec![input.clone()],
        spread: None,
        checkpoint: synthetic::fingerprint("synth:tiny", 7),
        dataset: "random".to_owned(),
        seed: 7,
        denoising_steps: steps,
    };
    let mut target = TimedTarget::new(Box::new(Cuda::default()), model.clone(), steps).expect("a GPU");
    let folder = tempfile::tempdir().expect("a folder");
    let state = State::open(&folder.path().join("state.jsonl"), &subject.header(&target)).expect("a state");
    let budget: Budget = "error<=1.0x bf16".parse().expect("a budget");
    let deadline = Deadline::after(Some(LIMIT));
    let (found, _) = tune(&subject, &mut target, &budget, state, deadline, &mut |_| ()).expect("tuned");
    for name in ["f32", "bf16", "fp16", "mixed", "mixed-fp16"] {
        let measured = found.of_preset(name).expect(name);
        assert!(measured.cost > 0.0 && measured.error.is_some(), "{measured:?}");
    }
    assert_eq!(found.of_preset("f32").and_then(|measured| measured.error), Some(0.0));
    let choice = found.choice();
    assert!(choice.error.is_some_and(|error| error <= found.allowed_error), "{choice:?}");
    let mut engine = CudaEngine::new(model.clone(), choice.policy.clone(), steps, Options::default())
        .expect("it ran before");
    assert_eq!(engine.infer(&[input], None).expect("actions").len(), 1);
}
