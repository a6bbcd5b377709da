//! Checkpoints that are damaged or do not fit: each is refused with the file and the field.

use crate::support::{Demo, Tensors, number, truncate, write_tensors};
use safetensors::Dtype;
use serde_json::json;
use std::fs;

/// A tensor of the demo: `[128]` values.
const NORM: &str = "action_head.model.timestep_encoder.timestep_embedder.linear_1.bias";
/// A tensor of the demo: `[96]` values.
const LANGUAGE_NORM: &str = "backbone.model.language_model.model.norm.weight";

#[test]
fn the_folder_is_missing() {
    let demo = Demo::copy();
    fs::rename(demo.checkpoint(), demo.folder().join("elsewhere")).unwrap();
    let place = demo.checkpoint();
    demo.eval(&[]).refuses(&[place.to_str().unwrap(), "expected a checkpoint folder, found none"]);
}

#[test]
fn a_file_is_missing() {
    for file in
        ["config.json", "model.safetensors", "processor_config.json", "statistics.json", "tokenizer.json"]
    {
        let demo = Demo::copy();
        fs::remove_file(demo.checkpoint().join(file)).unwrap();
        let run = demo.eval(&[]).refuses(&[file]);
        assert!(run.stderr.matches("No such file").count() <= 1, "told twice: {run:#?}");
    }
}

#[test]
fn a_tokenizer_may_lie_elsewhere() {
    let demo = Demo::copy();
    let (own, other) = (demo.checkpoint().join("tokenizer.json"), demo.folder().join("tokenizer.json"));
    let expected = demo.report(&[])["mse"].clone();
    fs::rename(own, &other).unwrap();
    for path in [other.as_path(), demo.folder()] {
        assert_eq!(demo.report(&["--tokenizer", path.to_str().unwrap()])["mse"], expected);
    }
    demo.eval(&["--tokenizer", "nowhere"]).refuses(&["nowhere"]);
    demo.eval(&[]).refuses(&["checkpoint", "tokenizer.json", "--tokenizer"]);
}

#[test]
fn a_configuration_that_was_cut_short_or_has_another_encoding_is_told_as_such() {
    let demo = Demo::copy();
    let path = demo.checkpoint().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    demo.eval(&[]).refuses(&["config.json", "ends in the middle of a value"]);
    let wide: Vec<u8> =
        "\u{feff}".chars().chain(text.chars()).flat_map(|c| (c as u16).to_le_bytes()).collect();
    fs::write(&path, wide).unwrap();
    demo.eval(&[]).refuses(&["config.json", "expected UTF-8, found UTF-16 text"]);
}

#[test]
fn the_weights_are_truncated() {
    for part in [0.0, 1e-6, 1e-4, 0.5, 0.9999999] {
        let demo = Demo::copy();
        truncate(&demo.checkpoint().join("model.safetensors"), part);
        demo.eval(&[]).refuses(&["model.safetensors"]);
    }
}

#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let demo = Demo::copy();
    demo.rewrite_weights(|tensors| {
        tensors.remove(NORM).unwrap();
        tensors.get_mut(LANGUAGE_NORM).unwrap().1 = vec![2, 48];
        tensors.insert("action_head.surprise".to_owned(), (Dtype::BF16, vec![3], vec![0; 6]));
    });
    let parts = [
        "3 tensors do not fit config.json",
        &format!("{NORM}: missing, expected shape [128]"),
        &format!("{LANGUAGE_NORM}: expected shape [96], found [2, 48]"),
        "action_head.surprise: unexpected, shape [3]",
    ];
    demo.eval(&[]).refuses(&parts);
}

#[test]
fn a_tensor_has_an_integer_type() {
    let demo = Demo::copy();
    demo.rewrite_weights(|tensors| {
        tensors.insert(NORM.to_owned(), (Dtype::I32, vec![128], vec![0; 512]));
    });
    demo.eval(&[]).refuses(&["model.safetensors", NORM, "BF16, F16 or F32", "I32"]);
}

/// Writes the weights of a copy as two shards with an index.
fn shard(demo: &Demo) {
    let mut index = serde_json::Map::new();
    demo.rewrite_weights(|tensors| {
        let mut shards = [Tensors::new(), Tensors::new()];
        for (place, (name, tensor)) in tensors.iter().enumerate() {
            shards[place % 2].insert(name.clone(), tensor.clone());
            index.insert(name.clone(), shard_name(place % 2).into());
        }
        for (place, tensors) in shards.iter().enumerate() {
            write_tensors(&demo.checkpoint().join(shard_name(place)), tensors);
        }
    });
    fs::remove_file(demo.checkpoint().join("model.safetensors")).unwrap();
    let index = json!({"metadata": {"total_size": 5_313_088}, "weight_map": index}).to_string();
    fs::write(demo.checkpoint().join("model.safetensors.index.json"), index).unwrap();
}

fn shard_name(place: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", place + 1)
}

#[test]
fn shards_give_the_same_actions_as_one_file() {
    let demo = Demo::copy();
    let whole = number(&demo.report(&[])["mse"]);
    shard(&demo);
    assert_eq!(number(&demo.report(&[])["mse"]), whole);
}

#[test]
fn a_shard_is_missing_or_incomplete() {
    let demo = Demo::copy();
    shard(&demo);
    let second = demo.checkpoint().join(shard_name(1));
    write_tensors(&second, &Tensors::new());
    demo.eval(&[]).refuses(&[&shard_name(1), "listed in the index, not in the file"]);
    fs::remove_file(second).unwrap();
    demo.eval(&[]).refuses(&[&shard_name(1)]);
}

#[test]
fn a_field_of_the_config_is_wrong() {
    for (field, value, parts) in [
        (
            "/model_type",
            json!("Gr00tN1d5"),
            &["model_type", "Gr00tN1d6", "found a GR00T N1.5 checkpoint"][..],
        ),
        ("/action_horizon", json!("16"), &["action_horizon: expected usize, found string \"16\"", "line"]),
        ("/action_horizon", json!(0), &["action_horizon", "expected 1 to 1048576, found 0"]),
        ("/select_layer", json!(1_000_000_000), &["select_layer", "at most 1000"]),
        ("/diffusion_model_cfg/num_attention_heads", json!(3), &["input_embedding_dim", "96", "128"]),
        (
            "/diffusion_model_cfg/num_layers",
            json!(9),
            &["action_head.model.transformer_blocks.8.", "missing"],
        ),
        (
            "/max_state_dim",
            json!(24),
            &["action_head.state_encoder.layer1.W", "[2, 24, 128]", "[2, 32, 128]"],
        ),
    ] {
        let demo = Demo::copy();
        demo.rewrite_json("config.json", |config| *config.pointer_mut(field).unwrap() = value);
        let run = demo.eval(&[]).refuses(parts);
        assert!(run.stderr.contains("config.json"), "{field}: {run:#?}");
    }
}

#[test]
fn the_processor_wants_more_than_the_model_gives() {
    let demo = Demo::copy();
    demo.rewrite_json("processor_config.json", |config| {
        let action = &mut config["processor_kwargs"]["modality_configs"]["new_embodiment"]["action"];
        action["delta_indices"] = (0..17).collect();
    });
    demo.eval(&[]).refuses(&["processor_config.json", "new_embodiment.action", "at most 16", "found 17"]);
}

#[test]
fn the_processor_pads_to_other_widths() {
    for field in ["max_state_dim", "max_action_dim"] {
        let demo = Demo::copy();
        demo.rewrite_json("processor_config.json", |config| config["processor_kwargs"][field] = json!(64));
        demo.eval(&[]).refuses(&["processor_config.json", field, "expected 32", "found 64"]);
    }
}

#[test]
fn an_embodiment_has_no_slot_in_the_model() {
    let demo = Demo::copy();
    demo.rewrite_json("embodiment_id.json", |ids| ids["new_embodiment"] = json!(2));
    demo.eval(&[]).refuses(&["new_embodiment", "max_num_embodiments = 2", "found 2"]);
    // Without the file, the id is that of the official code.
    fs::remove_file(demo.checkpoint().join("embodiment_id.json")).unwrap();
    demo.eval(&[]).refuses(&["official table of GR00T N1.6", "max_num_embodiments = 2", "found 10"]);
}

#[test]
fn statistics_have_another_dimension() {
    let demo = Demo::copy();
    demo.rewrite_json("statistics.json", |statistics| {
        for modality in ["state", "action"] {
            for values in
                statistics["new_embodiment"][modality]["left_arm"].as_object_mut().unwrap().values_mut()
            {
                values.as_array_mut().unwrap().truncate(6);
            }
        }
    });
    demo.eval(&[]).refuses(&["episode 0, step 0", "state.left_arm", "6 values (statistics.json), found 7"]);
}

#[test]
fn groups_of_the_same_sum_but_other_dimensions() {
    let demo = Demo::copy();
    demo.rewrite_json("statistics.json", |statistics| {
        let action = &mut statistics["new_embodiment"]["action"];
        let arm = action["left_arm"].take();
        action["left_arm"] = action["left_hand"].take();
        action["left_hand"] = arm;
    });
    demo.eval(&[]).refuses(&["action.left_arm", "expected 6", "found 7"]);
}

#[test]
fn action_statistics_have_another_dimension() {
    let demo = Demo::copy();
    demo.rewrite_json("statistics.json", |statistics| {
        for values in statistics["new_embodiment"]["action"]["left_arm"].as_object_mut().unwrap().values_mut()
        {
            values.as_array_mut().unwrap().truncate(6);
        }
    });
    demo.eval(&[]).refuses(&["action.left_arm", "statistics.json", "expected 6", "found 7"]);
}

#[test]
fn a_statistic_is_missing_or_ragged() {
    let demo = Demo::copy();
    demo.rewrite_json("statistics.json", |statistics| {
        statistics["new_embodiment"]["state"]["left_arm"]["max"].as_array_mut().unwrap().pop();
    });
    demo.eval(&[]).refuses(&["statistics.json", "new_embodiment.state.left_arm", "[1, 7]", "[1, 6]"]);
    demo.rewrite_json("statistics.json", |statistics| {
        statistics["new_embodiment"]["action"].as_object_mut().unwrap().remove("right_hand");
        statistics["new_embodiment"]["state"]["left_arm"]["max"].as_array_mut().unwrap().push(json!(1.0));
    });
    demo.eval(&[]).refuses(&["statistics.json", "new_embodiment.action.right_hand.min", "missing"]);
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let demo = Demo::copy();
    demo.rewrite_weights(|tensors| {
        let (dtype, _, bytes) = tensors.get_mut(NORM).unwrap();
        assert_eq!(*dtype, Dtype::BF16);
        bytes[6..8].copy_from_slice(&[0xc0, 0x7f]);
    });
    demo.eval(&[]).refuses(&["model.safetensors", NORM, "NaN at element 3"]);
}

#[test]
fn more_euler_steps_than_timesteps_are_refused() {
    let demo = Demo::copy();
    demo.eval(&["--denoising-steps", "1000000000000"]).refuses(&["--denoising-steps", "expected 1 to 1000"]);
}
