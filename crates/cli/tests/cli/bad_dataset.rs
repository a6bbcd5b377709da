//! Datasets that are damaged or do not fit the checkpoint.

use crate::support::{Demo, json, steady, truncate};
use std::ffi::OsStr;
use std::fs;

#[test]
fn the_folder_or_its_description_is_missing() {
    let demo = Demo::copy();
    for file in ["meta/tasks.jsonl", "meta/episodes.jsonl", "meta/info.json"] {
        fs::remove_file(demo.dataset().join(file)).unwrap();
        demo.eval(&[]).refuses(&[file, "missing"]);
    }
    fs::remove_dir_all(demo.dataset()).unwrap();
    demo.eval(&[]).refuses(&[demo.dataset().to_str().unwrap()]);
}

#[test]
fn the_description_is_not_json() {
    let demo = Demo::copy();
    truncate(&demo.dataset().join("meta/info.json"), 0.5);
    demo.eval(&[]).refuses(&["meta/info.json", "ends in the middle of a value"]);
}

#[test]
fn an_episode_does_not_exist() {
    Demo::copy().eval(&["--traj-ids", "0", "99"]).refuses(&["--traj-ids", "0 to 3", "99"]);
}

#[test]
fn a_group_lies_outside_its_column() {
    let demo = Demo::copy();
    let path = demo.dataset().join("meta/modality.json");
    let mut modality = json(&path);
    modality["state"]["left_arm"]["end"] = 27.into();
    fs::write(&path, modality.to_string()).unwrap();
    demo.eval(&[]).refuses(&["meta/modality.json", "state.left_arm", "26", "27"]);
}

#[test]
fn a_group_or_a_view_is_missing() {
    for (kind, name) in [("state", "left_arm"), ("action", "right_hand"), ("video", "ego_view")] {
        let demo = Demo::copy();
        let path = demo.dataset().join("meta/modality.json");
        let mut modality = json(&path);
        modality[kind].as_object_mut().unwrap().remove(name);
        fs::write(&path, modality.to_string()).unwrap();
        demo.eval(&[]).refuses(&[demo.dataset().to_str().unwrap(), kind, name]);
    }
}

#[test]
fn the_video_is_missing() {
    let demo = Demo::copy();
    fs::remove_file(demo.video(0)).unwrap();
    demo.eval(&[]).refuses(&["episode_000000.mp4", "`ego_view`", "missing"]);
}

#[test]
fn the_video_is_truncated() {
    for (episode, part) in [(0, 0.5), (1, 0.5), (1, 0.01), (0, 0.0)] {
        let demo = Demo::copy();
        truncate(&demo.video(episode), part);
        let options = ["--steps", "400", "--traj-ids", &episode.to_string()];
        demo.eval(&options).refuses(&[&format!("episode_{episode:06}.mp4")]);
    }
}

#[test]
fn the_video_is_shorter_than_the_episode() {
    let demo = Demo::copy();
    fs::copy(demo.video(2), demo.video(0)).unwrap();
    demo.eval(&[]).refuses(&["episode_000000.mp4", "260 frames", "episode 0", "362 steps"]);
}

#[test]
fn the_data_is_missing_or_truncated() {
    let demo = Demo::copy();
    for part in [0.9, 0.5, 0.0] {
        truncate(&demo.parquet(0), part);
        demo.eval(&[]).refuses(&["episode_000000.parquet"]);
    }
    fs::remove_file(demo.parquet(0)).unwrap();
    demo.eval(&[]).refuses(&["episode_000000.parquet", "missing"]);
}

#[test]
fn data_bytes_are_damaged() {
    let demo = Demo::copy();
    let mut contents = fs::read(demo.parquet(0)).unwrap();
    // The pages, not the footer, which is at the end.
    contents[4..40_000].fill(0xa5);
    fs::write(demo.parquet(0), contents).unwrap();
    demo.eval(&[]).refuses(&["episode_000000.parquet"]);
}

#[test]
fn a_damaged_line_matters_to_its_own_episode() {
    let demo = Demo::copy();
    let expected = demo.report(&[])["mse"].clone();
    let path = demo.dataset().join("meta/episodes.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("{\"episode_index\": 2", "{\"episode_index\": 2, ", 1)).unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(demo.report(&[])["mse"], expected);
    demo.eval(&["--traj-ids", "2"]).refuses(&["meta/episodes.jsonl", "line 3"]);
    let shown = crate::support::inspect("dataset", &demo.dataset()).succeeds();
    assert!(shown.stdout.contains("damaged episodes") && shown.stdout.contains("line 3"), "{shown:#?}");
}

#[test]
fn the_list_of_tasks_is_read_where_a_task_is_looked_up() {
    let demo = Demo::copy();
    let key = |name: &str| {
        demo.rewrite_json("processor_config.json", |config| {
            config["processor_kwargs"]["modality_configs"]["new_embodiment"]["language"]["modality_keys"]
                [0] = name.into();
        });
    };
    let path = demo.dataset().join("meta/tasks.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    // Of two texts for one task none is right.
    fs::write(&path, text.replace("Pick", "Drop") + &text).unwrap();
    demo.eval(&[]).refuses(&["meta/tasks.jsonl", "task_index", "Drop up"]);
    fs::remove_file(&path).unwrap();
    demo.eval(&[]).refuses(&["meta/tasks.jsonl", "missing"]);
    key("task");
    demo.eval(&[]).succeeds();
}

#[test]
fn lengths_that_the_metadata_make_up_cost_nothing() {
    let demo = Demo::copy();
    let path = demo.dataset().join("meta/episodes.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let calibrate = |out: &str| {
        let (checkpoint, dataset) = (demo.checkpoint(), demo.dataset());
        let args = ["precision", "calibrate", "--frames", "2", "--denoising-steps", "1", "--out", out];
        let folders =
            [OsStr::new("--checkpoint"), checkpoint.as_ref(), "--dataset-path".as_ref(), dataset.as_ref()];
        steady(demo.folder(), args.map(OsStr::new).into_iter().chain(folders)).succeeds();
        json(&demo.folder().join(out))["amax"].clone()
    };
    let expected = calibrate("a.json");
    fs::write(&path, text.replace("\"length\": ", "\"length\": 1000000000000")).unwrap();
    assert_eq!(calibrate("b.json"), expected);
}

#[test]
fn the_report_says_what_decoded() {
    let demo = Demo::copy();
    let options = ["--video-decoder", "native"];
    assert_eq!(demo.report(&options)["episodes"][0]["decoded_by"], "native");
    demo.eval(&["--video-decoder", "gstreamer"]).refuses(&["--video-decoder", "auto, native or ffmpeg"]);
    let version = std::process::Command::new("ffmpeg").arg("-version").output();
    let ffmpeg = demo.eval(&["--video-decoder", "ffmpeg"]);
    match version {
        Ok(_) => {
            let native = demo.report(&options)["mse"].clone();
            let report = demo.report(&["--video-decoder", "ffmpeg"]);
            assert_eq!((&report["episodes"][0]["decoded_by"], &report["mse"]), (&"ffmpeg".into(), &native));
        }
        Err(_) => drop(ffmpeg.refuses(&["not on PATH", "ffmpeg -i"])),
    }
}
