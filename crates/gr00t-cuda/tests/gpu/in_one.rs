//! The DiT in one kernel against its chain of kernels, at the size that the kernel is written for.

use super::{Case, bits, distance, infer, like, made, preset};
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::engine::{Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::probe::Probe;
use steadyhand_gr00t_cuda::CudaEngine;

/// The kernel's actions may lie this much further from the f32 engine's than the chain's. Measured on an H100: 1.06 times
/// as far for one view (5.7e-3 and 5.4e-3), 1.09 times for two (5.97e-3 and 5.48e-3); the excess over 1, times 2.
const FURTHER: f64 = 1.2;
/// Inferences that must not differ in a bit.
const REPLAYS: usize = 200;

/// Asks for every tensor and looks at none, so that the chain runs.
struct Asks;

impl Probe for Asks {
    fn tap(&mut self, _: &str, _: &[usize], _: &[f32]) {}
}

/// On a device of another compute capability than the kernel's, the engine says so and runs the chain.
pub fn is_a_chain_elsewhere(config: Config) {
    let model = Model::synthetic(config, 1).expect("consistent sizes");
    let input = made(&model, 1, &[[9, 9]], 40);
    let case = Case { model, input, steps: 4 };
    let mut engine = case.cuda(&preset("bf16"));
    let obstacle = engine.dit_obstacle().expect("the kernel is of compute capability 9.0").to_owned();
    assert!(obstacle.contains("compute capability"), "{obstacle}");
    let (plain, chain) = (infer(&mut engine, &case.input), by_the_chain(&mut engine, &case.input));
    assert_eq!(bits(&plain), bits(&chain));
}

fn by_the_chain(engine: &mut CudaEngine, input: &ModelInput) -> Matrix {
    let found = engine.infer(std::slice::from_ref(input), Some(&mut Asks));
    found.expect("a probed inference").swap_remove(0)
}

/// One view and two, whose memories have more keys than one pass of the kernel's warps takes.
pub fn is_as_near_as_the_chain(config: Config) {
    let model = Model::synthetic(config, 1).expect("consistent sizes");
    let inputs = [&[[9, 9]][..], &[[9, 9], [9, 9]]].map(|sizes| made(&model, 1, sizes, 40));
    let case = Case { model, input: inputs[0].clone(), steps: 4 };
    let mut engine = case.cuda(&preset("bf16"));
    assert_eq!(engine.dit_obstacle(), None, "this device was expected to run the kernel");
    let found = inputs.each_ref().map(|input| [infer(&mut engine, input), by_the_chain(&mut engine, input)]);
    let expected = {
        let mut exact = case.cuda(&preset("f32"));
        assert!(exact.dit_obstacle().is_some(), "f32 has no such kernel");
        inputs.each_ref().map(|input| infer(&mut exact, input))
    };
    for (views, ([one, chain], exact)) in found.iter().zip(&expected).enumerate() {
        let [one, chain] = [one, chain].map(|actions| distance(actions, exact));
        eprintln!("{} views: {one:.3e} from f32, the chain {chain:.3e}", views + 1);
        assert!(one <= FURTHER * chain, "{one:.3e} from f32, the chain {chain:.3e}");
        assert_ne!(
            bits(&found[views][0]),
            bits(&found[views][1]),
            "expected the kernel to have run, found the chain's bits"
        );
    }
    for (input, [one, _]) in inputs.iter().zip(&found) {
        for _ in 0..REPLAYS {
            assert_eq!(bits(&infer(&mut engine, input)), bits(one));
        }
        let other = like(&case.model, input, 5);
        assert_ne!(bits(&infer(&mut engine, &other)), bits(one));
        assert_eq!(bits(&infer(&mut engine, input)), bits(one), "after another observation");
    }
}
