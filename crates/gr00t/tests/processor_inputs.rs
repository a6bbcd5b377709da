//! What the processor makes of observations and checkpoints that the recorded cases do not cover:
//! several time steps, other reference states, and everything that does not fit.

mod made;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use made::{checkpoint, demo, folder, frame, load, matrix, modality, observation, refused};
use serde_json::{Value, json};
use steadyhand_gr00t::processor::{Encoded, Processor, RawImage, Tokenizer, known_embodiment_tags};
use steadyhand_gr00t::{Matrix, Observation};

#[test]
fn state_is_scaled_clipped_and_padded() {
    let clipped = load(&checkpoint("clipped", |_, _| ())).encode(&observation()).expect("fits").state;
    assert_eq!(clipped, matrix(1, &[0.5, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    let open = checkpoint("unclipped", |kwargs, _| kwargs["clip_outliers"] = json!(false));
    assert_eq!(load(&open).encode(&observation()).expect("fits").state.data[..3], [0.5, -2.0, 0.0]);
}

#[test]
fn sine_and_cosine_double_a_group_that_needs_no_statistics() {
    let path = checkpoint("sin_cos", |kwargs, statistics| {
        kwargs["apply_sincos_state_encoding"] = json!(true);
        modality(kwargs, "state")["sin_cos_embedding_keys"] = json!(["arm"]);
        statistics["state"].as_object_mut().expect("groups").remove("arm");
    });
    let state = load(&path).encode(&observation()).expect("fits").state.data;
    let expected = [0.75f32.sin(), (-4.0f32).sin(), 0.75f32.cos(), (-4.0f32).cos(), 0.0, 0.0, 0.0, 0.0];
    assert_eq!(state, expected);
}

#[test]
fn several_time_steps_are_stacked_time_outer_view_inner() {
    let path = checkpoint("steps", |kwargs, _| {
        modality(kwargs, "video")["delta_indices"] = json!([-1, 0]);
        modality(kwargs, "state")["delta_indices"] = json!([-1, 0]);
    });
    let mut observation = observation();
    observation.images = BTreeMap::from([
        ("left".into(), vec![frame(0), frame(51)]),
        ("right".into(), vec![frame(102), frame(255)]),
    ]);
    observation.state.insert("arm".into(), matrix(2, &[0.0, 0.0, 1.0, 2.0]));
    observation.state.insert("hand".into(), matrix(2, &[0.0, 10.0]));
    let encoded = load(&path).encode(&observation).expect("fits");
    let levels: Vec<f32> = encoded.pixel_values.iter().map(|p| (p.data[0] * 127.5 + 127.5).round()).collect();
    assert_eq!(levels, [0.0, 102.0, 51.0, 255.0]);
    assert_eq!((encoded.state.rows, encoded.state.cols), (2, 8));
    assert_eq!(encoded.state.row(0)[..3], [-1.0, 0.0, -1.0]);
    assert_eq!(encoded.state.row(1)[..3], [1.0, 1.0, 1.0]);
    assert!(encoded.prompt.ends_with("go<image-1><image-2><image-3><image-4><|im_end|>\n"));
    assert_eq!(encoded.attention_mask, vec![true; encoded.input_ids.len()]);
}

#[test]
fn an_image_named_in_the_instruction_is_given_again() {
    let path = checkpoint("named_image", |kwargs, _| kwargs["formalize_language"] = json!(false));
    let observation = Observation { instruction: "like <image-2>".into(), ..observation() };
    let encoded = load(&path).encode(&observation).expect("fits");
    let first: Vec<f32> = encoded.pixel_values.iter().map(|p| p.data[0]).collect();
    assert_eq!(first, [1.0, -1.0, 1.0]);
    // Frames for an engine that processes them come in the same order, and everything else is the same.
    let mut with_frames = Encoded::default();
    let raw = load(&path).encode_raw(&observation, &mut with_frames).expect("fits");
    with_frames.pixel_values = raw.iter().map(RawImage::pixels).collect();
    assert_eq!(with_frames, encoded);
    let missing = Observation { instruction: "like <image-3>".into(), ..observation };
    let error = load(&path).encode(&missing).expect_err("two images").to_string();
    assert_eq!(error, "instruction: '<image-3>' refers to none of the 2 images");
}

/// `arm` relative to `reference`, two steps of state and action.
fn relative(name: &str, reference: Value) -> PathBuf {
    checkpoint(name, |kwargs, _| {
        kwargs["use_relative_action"] = json!(true);
        modality(kwargs, "state")["delta_indices"] = json!([-1, 0]);
        modality(kwargs, "action")["delta_indices"] = json!([0, 1]);
        modality(kwargs, "action")["action_configs"] = json!([
            {"rep": "RELATIVE", "type": "NON_EEF", "format": "DEFAULT", "state_key": reference},
            {"rep": "ABSOLUTE", "type": "NON_EEF", "format": "DEFAULT", "state_key": null},
        ]);
    })
}

#[test]
fn relative_actions_start_from_the_last_state() {
    let mut observation = observation();
    observation.state.insert("arm".into(), matrix(2, &[9.0, 9.0, 100.0, 200.0]));
    let processor = load(&relative("relative", Value::Null));
    // Rows beyond the horizon are ignored; 7 clips to 1.
    let normalized = matrix(3, &[-1.0, 0.0, 0.0, 9.0, 7.0, 1.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0]);
    let chunk = processor.decode(&normalized, &observation).expect("fits");
    assert_eq!(processor.action_horizon(), 2);
    assert_eq!(chunk.groups[0], ("arm".to_string(), matrix(2, &[100.0, 200.0, 101.0, 202.0])));
    assert_eq!(chunk.groups[1], ("hand".to_string(), matrix(2, &[5.0, 10.0])));

    observation.state.remove("arm");
    let error = processor.decode(&normalized, &observation).expect_err("no state").to_string();
    assert_eq!(error, "state.arm: missing; expected groups: arm, hand");
}

#[test]
fn references_that_cannot_work_are_refused_at_load() {
    let error = refused(&relative("other_width", json!("hand")));
    assert!(error.ends_with("relative_action.arm: 2 values, but state.hand has 1"), "{error}");
    let error = refused(&relative("no_group", json!("leg")));
    assert!(error.contains("refers to state.leg, which is not a group of the state"), "{error}");
    let pose = checkpoint("pose_width", |kwargs, _| {
        kwargs["use_relative_action"] = json!(true);
        let pose = json!({"rep": "RELATIVE", "type": "EEF", "format": "XYZ_ROT6D"});
        modality(kwargs, "action")["action_configs"] = json!([pose, pose]);
    });
    assert!(refused(&pose).contains("expected 9 values (xyz + rot6d), found 2"));
}

#[test]
fn observations_that_do_not_fit_name_their_field() {
    let processor = load(&checkpoint("observations", |_, _| ()));
    let refused = |change: &dyn Fn(&mut Observation)| {
        let mut observation = observation();
        change(&mut observation);
        processor.encode(&observation).expect_err("does not fit").to_string()
    };
    let state = |key: &'static str, value: Matrix| {
        refused(&move |o| {
            o.state.insert(key.into(), value.clone());
        })
    };
    assert_eq!(state("arm", matrix(1, &[0.0; 3])), "state.arm: expected 2 values (statistics.json), found 3");
    assert_eq!(state("arm", matrix(2, &[0.0; 4])), "state.arm: expected 1 time steps, found 2");
    assert_eq!(state("hand", matrix(1, &[f32::NAN])), "state.hand: value 0 of time step 0 is NaN");
    assert_eq!(state("arm", matrix(1, &[0.0, f32::INFINITY])), "state.arm: value 1 of time step 0 is inf");
    let wrong = Matrix { rows: usize::MAX, cols: 2, data: vec![0.0; 2] };
    assert!(state("arm", wrong).contains("found 2"));
    let missing = refused(&|o| drop(o.state.remove("hand")));
    assert_eq!(missing, "state.hand: missing; expected groups: arm, hand");
    let missing = refused(&|o| drop(o.images.remove("right")));
    assert_eq!(missing, "video.right: missing; expected views: left, right");
    let frames = refused(&|o| o.images.get_mut("left").expect("a view").push(frame(0)));
    assert_eq!(frames, "video.left: expected 1 frames, found 2");
    let bytes = refused(&|o| {
        Arc::make_mut(&mut o.images.get_mut("left").expect("a view")[0]).rgb.truncate(9407);
    });
    assert_eq!(bytes, "video.left: expected 9408 bytes for 56x56 RGB, found 9407");
}

#[test]
fn model_output_that_does_not_fit_is_refused() {
    let processor = load(&checkpoint("output", |_, _| ()));
    let refused = |m: Matrix| processor.decode(&m, &observation()).expect_err("does not fit").to_string();
    assert_eq!(refused(matrix(1, &[0.0; 3])), "action: expected at least 1 steps of 4 values, found 1 of 3");
    assert!(refused(Matrix { rows: 0, cols: 4, data: vec![] }).contains("found 0 of 4"));
    assert_eq!(refused(matrix(1, &[0.0, f32::NAN, 0.0, 0.0])), "action: value 1 of time step 0 is NaN");
}

#[test]
fn checkpoints_that_do_not_fit_name_file_and_field() {
    let expect = |name: &str, text: &str, change: fn(&mut Value, &mut Value)| {
        let error = refused(&checkpoint(name, change));
        assert!(error.contains(text), "{error}");
    };
    expect("no_max", "statistics.json: new_embodiment.state.arm.max: missing", |_, s| {
        s["state"]["arm"].as_object_mut().expect("statistics").remove("max");
    });
    expect("ragged", "new_embodiment.state.arm: min is [1, 2] and max is [1, 3]", |_, s| {
        s["state"]["arm"]["max"] = json!([1.0, 2.0, 3.0]);
    });
    expect("steps_of_statistics", "expected statistics for 1 or 1 time steps, found 2", |_, s| {
        s["action"]["hand"] = json!({"min": [[0.0], [0.0]], "max": [[1.0], [1.0]]});
    });
    expect("small_state", "3 values together, max_state_dim is 2", |k, _| k["max_state_dim"] = json!(2));
    expect("small_action", "3 values together, max_action_dim is 2", |k, _| k["max_action_dim"] = json!(2));
    expect("no_state", "missing field `state`", |k, _| {
        k["modality_configs"]["new_embodiment"].as_object_mut().expect("modalities").remove("state");
    });
    expect("no_views", "new_embodiment.video: expected at least one key", |k, _| {
        modality(k, "video")["modality_keys"] = json!([]);
    });
    expect("two_languages", "new_embodiment.language: expected one key", |k, _| {
        modality(k, "language")["modality_keys"] = json!(["a", "b"]);
    });
    expect("fraction", "crop_fraction: expected above 0 and at most 1", |k, _| {
        k["crop_fraction"] = json!(1.5)
    });
    expect("letterbox", "image_crop_size: expected [height, width]", |k, _| {
        k["use_albumentations"] = json!(false)
    });

    let folder = folder("empty");
    assert!(refused(&folder).contains("processor_config.json"));
    let no_tokenizer = checkpoint("no_tokenizer", |_, _| ());
    let error =
        Processor::load(&no_tokenizer, "new_embodiment", None).err().expect("no tokenizer").to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn what_statistics_and_steps_cannot_be_is_refused() {
    let expect = |name: &str, text: &str, change: fn(&mut Value, &mut Value)| {
        let error = refused(&checkpoint(name, change));
        assert!(error.contains(text), "{error}");
    };
    expect("crossed", "state.arm: value 1 of row 0: expected a lower and an upper bound", |_, s| {
        s["state"]["arm"]["min"] = json!([0.0, 3.0]);
    });
    expect("negative_std", "expected a std from 0, found mean 5 and std -2", |k, s| {
        modality(k, "state")["mean_std_embedding_keys"] = json!(["hand"]);
        s["state"]["hand"]["std"] = json!([-2.0]);
    });
    expect("no_number", "action.hand.max: expected finite numbers", |_, s| {
        s["action"]["hand"]["max"] = json!([null]);
    });
    expect("strides", "action.delta_indices: expected 0, 1, 2, …, found 2 at place 1", |k, _| {
        modality(k, "action")["delta_indices"] = json!([0, 2, 4]);
    });
    expect("late", "found 1 at place 0", |k, _| modality(k, "action")["delta_indices"] = json!([1, 2]));
    expect("endless", "video.delta_indices: expected at most 1024, found 100000", |k, _| {
        modality(k, "video")["delta_indices"] = json!(vec![0; 100_000]);
    });
    expect("wide", "max_state_dim: expected at most", |k, _| k["max_state_dim"] = json!(1u64 << 40));
}

#[test]
fn what_is_beside_the_embodiment_does_not_matter() {
    let path = checkpoint("beside", |kwargs, _| {
        kwargs["modality_configs"]["gr1"] = json!({"video": {"delta_indices": [0]}});
        kwargs["max_state_dim"] = json!(8.0);
    });
    std::fs::write(path.join("embodiment_id.json"), r#"{"new_embodiment": 3.0, "gr1": null}"#)
        .expect("a file");
    assert_eq!(load(&path).embodiment_id(), 3);
    assert_eq!(known_embodiment_tags(&path).expect("one"), ["new_embodiment"]);
    let error = Processor::load(&path, "gr1", Some(&demo())).err().expect("incomplete").to_string();
    assert!(error.contains("modality_configs.gr1") && error.contains("missing field"), "{error}");
    // Newer training code leaves the files in a subfolder.
    let below = path.join("processor");
    std::fs::create_dir(&below).expect("a folder");
    for name in ["processor_config.json", "statistics.json", "embodiment_id.json"] {
        std::fs::rename(path.join(name), below.join(name)).expect("moved");
    }
    assert_eq!(load(&path).embodiment_id(), 3);
    std::fs::write(below.join("statistics.json"), "version https://git-lfs.github.com/spec/v1\n")
        .expect("a file");
    assert!(refused(&path).contains("Git LFS pointer"));
}

#[test]
fn instructions_have_an_end() {
    let processor = load(&checkpoint("endless_instruction", |_, _| ()));
    let endless = Observation { instruction: "go ".repeat(40_000), ..observation() };
    let error = processor.encode(&endless).expect_err("too long").to_string();
    assert!(error.contains("instruction: expected at most"), "{error}");
}

#[test]
fn damaged_files_are_errors_or_processors_but_never_panics() {
    let folder = checkpoint("damaged", |_, _| ());
    let mut state = 0x5eed_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    // What changes structure, numbers and names.
    let bytes = b"0919-.e{}[]\",:nNtx ";
    for file in ["processor_config.json", "statistics.json"] {
        let path = folder.join(file);
        let whole = std::fs::read(&path).expect("a file");
        for _ in 0..300 {
            let mut damaged = whole.clone();
            for _ in 0..1 + below(4) {
                let at = below(damaged.len());
                damaged[at] = bytes[below(bytes.len())];
            }
            std::fs::write(&path, &damaged).expect("written");
            if let Ok(processor) = Processor::load(&folder, "new_embodiment", Some(&demo())) {
                let _ = processor.encode(&observation());
            }
        }
        std::fs::write(&path, &whole).expect("written");
    }
}

#[test]
fn embodiments_are_listed_and_found_in_any_case() {
    assert_eq!(known_embodiment_tags(&demo()).expect("the demo"), ["new_embodiment"]);
    let processor = Processor::load(&demo(), "New_Embodiment", None).expect("the demo");
    assert_eq!((processor.embodiment_tag(), processor.embodiment_id()), ("new_embodiment", 0));
    let error = Processor::load(&demo(), "gr1", None).err().expect("unknown").to_string();
    assert_eq!(error, "embodiment_tag: 'gr1' is not configured in this checkpoint; known: new_embodiment");
}

#[test]
fn embodiment_ids_come_from_the_file_then_from_the_official_table() {
    let path = checkpoint("ids", |_, _| ());
    assert_eq!(load(&path).embodiment_id(), 10);
    std::fs::write(path.join("embodiment_id.json"), r#"{"new_embodiment": 3}"#).expect("a file");
    assert_eq!(load(&path).embodiment_id(), 3);
}

#[test]
fn tokenizers_are_read_from_a_file_a_folder_or_a_vocabulary() {
    let by_file = Tokenizer::from_path(&demo().join("tokenizer.json")).expect("the demo");
    let by_folder = Tokenizer::from_path(&demo()).expect("the demo");
    let text = "<|im_start|>user\ngo<IMG_CONTEXT>";
    assert_eq!(by_file.encode(text).expect("text"), by_folder.encode(text).expect("text"));
    assert_eq!(by_file.token_id("<IMG_CONTEXT>"), Some(5));

    let folder = folder("vocabulary");
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
    write("vocab.json", r#"{"a": 0, "b": 1, "ab": 2, "é": 3}"#);
    write("merges.txt", "#version: 0.2\na b\n");
    write("added_tokens.json", r#"{"<b>": 4, "<a>": 5}"#);
    let tokenizer = Tokenizer::from_path(&folder).expect("a vocabulary");
    assert_eq!(tokenizer.encode("ab<a>b<b>").expect("text"), [2, 5, 1, 4]);
    assert_eq!((tokenizer.token_id("<a>"), tokenizer.token_id("<c>")), (Some(5), None));

    write("tokenizer_config.json", r#"{"added_tokens_decoder": {"9": {"content": "<a>", "special": true}}}"#);
    let error = Tokenizer::from_path(&folder).err().expect("a gap in the ids").to_string();
    assert!(error.contains("added token '<a>' should have id 9"), "{error}");
    assert!(Tokenizer::from_path(&folder.join("merges.txt")).is_err());
}
