//! Datasets that are damaged or do not fit the checkpoint.

use crate::support::{Demo, json, truncate};
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
    demo.eval(&[]).refuses(&["meta/info.json", "invalid JSON"]);
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
