//! The CPU engine: a result depends on its input alone, not on the batch, the threads or the run.

use std::path::Path;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;

fn model() -> Model {
    load_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint")).expect("the demo")
}

/// An observation with images of these sizes, all of it made from `seed`.
fn input(model: &Model, seed: u64, sizes: &[[usize; 2]], embodiment_id: usize) -> ModelInput {
    let config = &model.config;
    let image = |(index, [height, width]): (usize, &[usize; 2])| PixelValues {
        height: *height,
        width: *width,
        data: gaussian(seed, 1, index as u32, 3, height * width).data,
    };
    let tokens: usize = sizes.iter().map(|[height, width]| height * width / 28 / 28).sum();
    let image_token = config.image_token();
    let prompt = [7, 9, 11].into_iter().chain(std::iter::repeat_n(image_token, tokens)).chain([13]);
    ModelInput {
        images: sizes.iter().enumerate().map(image).collect(),
        input_ids: prompt.collect(),
        state: gaussian(seed, 2, 0, 1, config.max_state_dim),
        embodiment_id,
        noise: gaussian(seed, 3, 0, config.action_horizon, config.max_action_dim),
        rtc: None,
    }
}

fn engine(precision: &str) -> CpuEngine<'static> {
    CpuEngine::new(model(), PrecisionPolicy::preset(precision).expect("a preset"), 4)
}

fn bits(actions: &[Matrix]) -> Vec<Vec<u32>> {
    actions.iter().map(|matrix| matrix.data.iter().map(|value| value.to_bits()).collect()).collect()
}

/// Two layouts, mixed, two embodiments, one image (large enough that threads share its products) and two.
fn inputs() -> Vec<ModelInput> {
    let model = model();
    let (one, two): (&[[usize; 2]], &[[usize; 2]]) = (&[[252, 252]], &[[56, 56], [84, 28]]);
    vec![
        input(&model, 1, one, 0),
        input(&model, 2, two, 1),
        input(&model, 3, one, 1),
        input(&model, 4, two, 0),
    ]
}

#[test]
fn a_batch_gives_what_its_members_give_alone() {
    let inputs = inputs();
    for precision in ["f32", "bf16"] {
        let mut engine = engine(precision);
        let together = engine.infer(&inputs, None).expect("a batch");
        let alone: Vec<Matrix> = inputs
            .iter()
            .map(|input| engine.infer(std::slice::from_ref(input), None).expect("one").swap_remove(0))
            .collect();
        assert_eq!(bits(&together), bits(&alone), "{precision}");
        assert!(together.iter().all(|matrix| matrix.data.iter().all(|value| value.is_finite())));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let inputs = inputs();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| bits(&engine("f32").infer(&inputs, None).expect("a batch")))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_probe_changes_no_bit_and_sees_the_actions() {
    let inputs = &inputs()[..1];
    let mut engine = engine("f32");
    let mut recorder = Recorder::all();
    let probed = engine.infer(inputs, Some(&mut recorder)).expect("probed");
    assert_eq!(bits(&probed), bits(&engine.infer(inputs, None).expect("plain")));
    assert_eq!(recorder.tensors["action_pred"].1, probed[0].data);
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_field() {
    type Change = fn(&mut ModelInput);
    let changes: [(Change, &str); 7] = [
        (|input| input.embodiment_id = 99, "embodiment_id"),
        (|input| input.noise.rows -= 1, "noise"),
        (|input| input.state.data[3] = f32::NAN, "state"),
        (|input| input.images.change(|images| images[0].data[0] = f32::INFINITY), "pixel_values.0"),
        (|input| input.images.change(|images| images[0].height += 14), "pixel_values.0"),
        (|input| input.input_ids[0] = u32::MAX, "input_ids"),
        (|input| input.input_ids.truncate(9), "input_ids"),
    ];
    for (change, field) in changes {
        let mut input = inputs().swap_remove(0);
        change(&mut input);
        let error = engine("f32").infer(&[input], None).expect_err(field).to_string();
        assert!(error.starts_with(field), "{field}: {error}");
    }
}
