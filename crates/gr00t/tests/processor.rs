//! The processor against the official ones: configurations of both versions with inputs and outputs recorded
//! from the official code, and the first frame of the demo.

mod cases;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cases::{
    CASES, CASES_N1_7, Tensors, check_n1_7, golden, goldens_n1_7, observation, relative_l2, repository,
    tokenizer_n1_7,
};
use steadyhand_gr00t::processor::{Encoded, PixelValues, Processor};
use steadyhand_gr00t::{ActionChunk, Image, Matrix, Observation};

/// Pixels: the measured difference is 0 (every byte equal), and so is the tolerance.
const PIXEL_TOLERANCE: f32 = 0.0;
/// State and actions, relative L2: measured at most 3.2e-8, where f32 rounds differently from the official f32 rotation; times 10.
const RELATIVE_TOLERANCE: f64 = 3.2e-7;

/// The demo's tokenizer: it has the special tokens, which is all that loading needs.
fn small_tokenizer() -> PathBuf {
    repository().join("demo/checkpoint")
}

/// Largest and mean difference in levels of 255.
fn pixel_difference(found: &PixelValues, expected: &(Vec<usize>, Vec<f32>)) -> (f32, f64) {
    assert_eq!(expected.0, [1, 3, found.height, found.width]);
    let levels = found.data.iter().zip(&expected.1).map(|(a, b)| (a - b).abs() * 127.5);
    let (max, sum) = levels.fold((0f32, 0f64), |(max, sum), d| (max.max(d), sum + f64::from(d)));
    (max, sum / found.data.len() as f64)
}

fn check_encoded(case: &str, encoded: &Encoded, tensors: &Tensors) {
    let images = tensors.names("out.pixel_values.").len();
    assert_eq!(encoded.pixel_values.len(), images, "{case}");
    for (k, found) in encoded.pixel_values.iter().enumerate() {
        let (max, mean) = pixel_difference(found, &tensors.floats(&format!("out.pixel_values.{k}")));
        println!("{case}: pixel_values.{k}: max {max} mean {mean} levels");
        assert!(max <= PIXEL_TOLERANCE, "{case}: pixel_values.{k}: {max} levels");
    }
    let expected = tensors.matrix("out.state");
    assert_eq!((encoded.state.rows, encoded.state.cols), (expected.rows, expected.cols), "{case}");
    let error = relative_l2(&encoded.state.data, &expected.data);
    println!("{case}: state: relative L2 {error:.2e}");
    assert!(error <= RELATIVE_TOLERANCE, "{case}: state: {error:e}");
}

fn check_actions(case: &str, chunk: &ActionChunk, tensors: &Tensors) {
    assert_eq!(chunk.groups.len(), tensors.names("out.action.").len(), "{case}");
    for (key, found) in &chunk.groups {
        let expected = tensors.matrix(&format!("out.action.{key}"));
        assert_eq!((found.rows, found.cols), (expected.rows, expected.cols), "{case}: {key}");
        let error = relative_l2(&found.data, &expected.data);
        println!("{case}: action.{key}: relative L2 {error:.2e}");
        assert!(error <= RELATIVE_TOLERANCE, "{case}: action.{key}: {error:e}");
    }
}

#[test]
fn official_cases_are_reproduced() {
    for case in CASES {
        let tensors = Tensors::read(&golden(case).join("case.safetensors"));
        let processor =
            Processor::load(&golden(case), "new_embodiment", Some(&small_tokenizer())).expect(case);
        let observation = observation(&golden(case), &tensors);
        let encoded = processor.encode(&observation).expect(case);
        check_encoded(case, &encoded, &tensors);

        let prompt = std::fs::read_to_string(golden(case).join("prompt.json")).expect(case);
        let prompt: serde_json::Value = serde_json::from_str(&prompt).expect(case);
        assert_eq!(prompt["text_after_template"], encoded.prompt.as_str(), "{case}");
        assert_eq!(prompt["embodiment_id"], encoded.embodiment_id, "{case}");

        let normalized = tensors.matrix("in.normalized_action");
        let chunk = processor.decode(&normalized, &observation).expect(case);
        assert_eq!(processor.action_horizon(), 16);
        check_actions(case, &chunk, &tensors);
    }
}

#[test]
fn official_cases_of_n1_7_are_reproduced() {
    for case in CASES_N1_7 {
        check_n1_7(&goldens_n1_7().join(case), &tokenizer_n1_7());
    }
}

/// The demo's groups at rest, with an image and an instruction.
fn demo_observation(image: Image) -> Observation {
    let dims = [("left_arm", 7), ("right_arm", 7), ("left_hand", 6), ("right_hand", 6)];
    let state = dims.map(|(key, cols)| (key.to_string(), Matrix { rows: 1, cols, data: vec![0.0; cols] }));
    Observation {
        images: BTreeMap::from([("ego_view".to_string(), vec![image.into()])]),
        state: BTreeMap::from(state),
        instruction: "Pick up the yellow bottle on the table.".to_string(),
    }
}

#[test]
fn the_demo_is_reproduced() {
    let tensors =
        Tensors::read(&repository().join("tests/fixtures/demo_expected/episode_000000.safetensors"));
    let processor = Processor::load(&small_tokenizer(), "NEW_EMBODIMENT", None).expect("the demo");
    let observation = demo_observation(tensors.image("frame0_rgb"));
    let encoded = processor.encode(&observation).expect("a frame");
    let (max, _) = pixel_difference(&encoded.pixel_values[0], &tensors.floats("pixel_values.step0"));
    assert!(max <= PIXEL_TOLERANCE, "{max} levels");
    let ids: Vec<i64> = encoded.input_ids.iter().map(|&id| i64::from(id)).collect();
    assert_eq!(ids, tensors.integers("input_ids"));

    let (shape, normalized) = tensors.floats("normalized_actions.f32");
    let expected = tensors.floats("actions.f32").1;
    let [_, rows, cols] = shape[..] else { panic!("{shape:?}") };
    let mut found = Vec::new();
    for inference in normalized.chunks_exact(rows * cols) {
        let normalized = Matrix { rows, cols, data: inference.to_vec() };
        let chunk = processor.decode(&normalized, &observation).expect("actions");
        for step in 0..rows {
            found.extend(chunk.groups.iter().flat_map(|(_, group)| group.row(step)).copied());
        }
    }
    let error = relative_l2(&found, &expected);
    println!("demo: actions: relative L2 {error:.2e}");
    assert!(error <= RELATIVE_TOLERANCE, "{error:e}");
}
