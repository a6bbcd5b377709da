//! `steady inspect`: shows what is there, whole or not.

use crate::support::{Demo, has_line, inspect, repo, truncate};
use std::fs;

#[test]
fn the_demo_checkpoint() {
    let run = inspect("checkpoint", &repo("demo/checkpoint")).succeeds();
    has_line(&run, &["model.safetensors", "5,340,312"]);
    has_line(&run, &["vision", "2", "64", "2"]);
    has_line(&run, &["language", "3", "96", "4"]);
    has_line(&run, &["dit", "8", "128", "4"]);
    has_line(&run, &["action", "horizon", "16"]);
    has_line(&run, &["Euler", "steps", "4"]);
    has_line(&run, &["embodiment", "slots", "2"]);
    has_line(&run, &["dit", "122", "1,912,640", "3,825,280", "bf16"]);
    has_line(&run, &["all", "215", "2,656,544", "5,313,088", "bf16"]);
    has_line(&run, &["new_embodiment", "0", "video", "ego_view"]);
    has_line(&run, &["action", "16", "26", "left_arm", "[7]", "right_hand", "[6]"]);
    has_line(&run, &["language", "annotation.human.task_description"]);
    has_line(&run, &["all", "215", "tensors", "fit", "config.json"]);
    has_line(&run, &["new_embodiment", "fits", "the", "model"]);
}

#[test]
fn a_folder_with_weights_only_is_described() {
    let run = inspect("checkpoint", &repo("tests/fixtures/golden/two_views")).succeeds();
    has_line(&run, &["all", "231", "tensors", "fit", "config.json"]);
    has_line(&run, &["processor_config.json", "-", "missing:"]);
    let run = inspect("checkpoint", &repo("tests/fixtures/golden_processor/relative_eef_rot6d")).succeeds();
    has_line(&run, &["new_embodiment", "10", "video"]);
    has_line(&run, &["action", "eef_left", "[9]", "relative"]);
    has_line(&run, &["model.safetensors", "-", "missing:"]);
}

#[test]
fn everything_that_does_not_fit_is_told_after_the_tables() {
    let demo = Demo::copy();
    demo.rewrite_weights(|tensors| {
        tensors.remove("backbone.model.language_model.model.norm.weight").unwrap();
    });
    demo.rewrite_json("embodiment_id.json", |ids| ids["new_embodiment"] = 7.into());
    demo.rewrite_json("statistics.json", |all| {
        all["new_embodiment"]["state"]["left_arm"]["max"] = "x".into()
    });
    let run = inspect("checkpoint", &demo.checkpoint());
    let parts = ["1 tensor does not fit", "language_model.model.norm.weight: missing", "state.left_arm.max"];
    let run = run.refuses(&parts);
    has_line(&run, &["all", "214", "bf16"]);
    has_line(&run, &["new_embodiment", "7", "video"]);
}

#[test]
fn a_damaged_file_does_not_hide_the_others() {
    let demo = Demo::copy();
    truncate(&demo.checkpoint().join("model.safetensors"), 0.5);
    let run = inspect("checkpoint", &demo.checkpoint()).refuses(&["model.safetensors"]);
    has_line(&run, &["dit", "8", "128"]);
    has_line(&run, &["new_embodiment", "0"]);
    fs::write(demo.checkpoint().join("config.json"), "{").unwrap();
    inspect("checkpoint", &demo.checkpoint()).refuses(&["model.safetensors", "config.json"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_is_refused() {
    inspect("checkpoint", &repo("demo/dataset")).refuses(&["demo/dataset", "config.json"]);
    inspect("checkpoint", &repo("demo/none")).refuses(&["demo/none", "checkpoint folder"]);
    inspect("dataset", &repo("demo/checkpoint")).refuses(&["demo/checkpoint", "info.json"]);
}

#[test]
fn the_demo_dataset() {
    let run = inspect("dataset", &repo("demo/dataset")).succeeds();
    has_line(&run, &["version", "v2.1"]);
    has_line(&run, &["robot", "Unitree_G1_Inspire"]);
    has_line(&run, &["fps", "30"]);
    has_line(&run, &["steps", "1,284"]);
    has_line(&run, &["260", "to", "362", "mean", "321.0"]);
    has_line(&run, &["0", "Pick", "up", "the", "yellow", "bottle"]);
    has_line(&run, &["observation.images.ego_view", "video", "[256", "256", "3]", "yes"]);
    has_line(&run, &["action", "right_hand", "6", "action", "20..26"]);
    has_line(&run, &["annotation", "human.task_description", "task_index"]);
    has_line(&run, &["observation.state", "[26]", "max", "mean", "q99"]);
    has_line(&run, &["ego_view", "AV1", "256x256", "362", "decoded", "by", "native"]);
}

#[test]
fn missing_and_damaged_parts_are_shown() {
    let demo = Demo::copy();
    fs::remove_file(demo.dataset().join("meta/modality.json")).unwrap();
    fs::remove_file(demo.dataset().join("meta/stats.json")).unwrap();
    fs::remove_file(demo.video(0)).unwrap();
    let run = inspect("dataset", &demo.dataset()).succeeds();
    has_line(&run, &["modalities", "meta/modality.json", "is", "missing)"]);
    has_line(&run, &["statistics", "(meta/stats.json):", "none"]);
    has_line(&run, &["ego_view", "-", "-", "-", "is", "missing"]);
    truncate(&demo.parquet(0), 0.5);
    let run = inspect("dataset", &demo.dataset()).succeeds();
    has_line(&run, &["episode", "0:", "footer", "of", "a", "parquet", "file", "copied"]);
}

#[test]
fn the_processors_subfolder_is_looked_into() {
    let demo = Demo::copy();
    let folder = demo.checkpoint().join("processor");
    fs::create_dir(&folder).unwrap();
    for name in ["processor_config.json", "statistics.json", "embodiment_id.json", "tokenizer.json"] {
        fs::rename(demo.checkpoint().join(name), folder.join(name)).unwrap();
    }
    let run = inspect("checkpoint", &demo.checkpoint()).succeeds();
    has_line(&run, &["processor/statistics.json", "10,796"]);
    has_line(&run, &["action", "16", "26", "left_arm", "[7]", "right_hand", "[6]"]);
    has_line(&run, &["new_embodiment", "fits", "the", "model"]);
    assert!(!run.stdout.contains("missing"), "{}", run.stdout);
}

#[test]
fn what_an_evaluation_would_refuse_is_said() {
    let demo = Demo::copy();
    fs::remove_file(demo.checkpoint().join("tokenizer.json")).unwrap();
    let run = inspect("checkpoint", &demo.checkpoint()).succeeds();
    has_line(&run, &["expected", "a", "tokenizer.json", "found", "none;", "--tokenizer."]);
    fs::rename(
        demo.checkpoint().join("model.safetensors"),
        demo.checkpoint().join("adapter_model.safetensors"),
    )
    .unwrap();
    let run = inspect("checkpoint", &demo.checkpoint()).succeeds();
    has_line(&run, &["model.safetensors.index.json)", "a", "LoRA", "adapter:"]);
    let parent = demo.folder().join("runs");
    for step in ["checkpoint-9", "checkpoint-10"] {
        crate::support::copy(&demo.checkpoint(), &parent.join(step));
    }
    inspect("checkpoint", &parent).refuses(&["did you mean", "checkpoint-10"]);
}

#[test]
fn tables_fit_80_columns_where_no_terminal_says_otherwise() {
    for args in [
        &["inspect", "checkpoint"][..],
        &["precision", "show", "bf16", "--checkpoint"],
        &["precision", "diff", "f32", "bf16", "--checkpoint"],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_steady"));
        // The folder as a user in the repository names it: a longer name of it would widen the title.
        command.current_dir(repo("")).args(args).arg("demo/checkpoint").env_remove("COLUMNS");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rows = text.lines().skip_while(|line| !line.starts_with("---"));
        let wide: Vec<&str> = rows.filter(|line| line.chars().count() > 80).collect();
        assert!(text.lines().count() > 10 && wide.is_empty(), "{wide:#?}");
    }
}
