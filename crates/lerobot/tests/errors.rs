//! Damaged datasets: each error names the file, the field, what was expected and what was found.

mod common;

use std::{fs, path::Path};

use common::{Random, demo_copy, demo_video, repo};
use steadyhand_lerobot::{Dataset, Error, Kind};

/// Damaged copies tried.
const DAMAGED_COPIES: usize = 600;

/// Replaces a text in a file of the dataset.
fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file}: {from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// The error's text holds every part.
fn says<T: std::fmt::Debug>(result: Result<T, Error>, parts: &[&str]) {
    let error = result.unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn missing_metadata() {
    for (file, name) in [("info.json", "info.json"), ("episodes.jsonl", "episodes")] {
        let folder = demo_copy();
        fs::remove_file(folder.path().join("meta").join(file)).unwrap();
        let result = Dataset::open(folder.path());
        assert!(matches!(result, Err(Error::Missing { .. })));
        says(result, &[file, name, "missing"]);
    }
    // The list of tasks matters to those who look one up.
    let folder = demo_copy();
    fs::remove_file(folder.path().join("meta/tasks.jsonl")).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    assert!(matches!(dataset.tasks(), Err(Error::Missing { .. })));
    says(dataset.tasks(), &["tasks.jsonl", "tasks", "missing"]);
    let folder = demo_copy();
    fs::remove_file(folder.path().join("data/chunk-000/episode_000003.parquet")).unwrap();
    let result = Dataset::open(folder.path()).unwrap().episode(3);
    says(result, &["episode_000003.parquet", "the data of episode 3", "missing"]);
    says(Dataset::open(repo("demo/nowhere")), &["nowhere", "info.json", "missing"]);
}

#[test]
fn malformed_metadata() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("info.json", "\"fps\": 30", "\"fps\": 0", &["info.json", "fps", "positive"]),
        ("info.json", "\"fps\": 30", "\"fps\": \"fast\"", &["info.json", "fast", "f64"]),
        ("info.json", "\"chunks_size\": 1000", "\"chunks_size\": 0", &["chunks_size", "at least 1"]),
        ("info.json", "v2.1", "v1.6", &["codebase_version", "v1.6", "v3.0"]),
        ("info.json", "\"data_path\"", "\"path\"", &["info.json", "data_path"]),
    ];
    for (file, from, to, parts) in cases {
        let folder = demo_copy();
        edit(folder.path(), &format!("meta/{file}"), from, to);
        says(Dataset::open(folder.path()), parts);
    }
    // A damaged line stops those who need it.
    let folder = demo_copy();
    edit(folder.path(), "meta/episodes.jsonl", "\"length\": 355", "\"length\": -5");
    edit(folder.path(), "meta/tasks.jsonl", "task_index", "index");
    let dataset = Dataset::open(folder.path()).unwrap();
    says(dataset.episode(1), &["episodes.jsonl", "line 2", "-5"]);
    says(dataset.tasks(), &["tasks.jsonl", "line 1", "task_index"]);
    assert!(dataset.episode(2).is_ok());
}

#[test]
fn names_and_ranges() {
    let dataset = Dataset::open(repo("demo/dataset")).unwrap();
    says(dataset.episode(4), &["episode 4", "4 episodes", "0 to 3"]);
    says(dataset.episode_meta(usize::MAX), &["0 to 3"]);
    let episode = dataset.episode(2).unwrap();
    says(episode.group(Kind::State, "legs"), &["state group", "legs", "left_arm, right_arm"]);
    says(episode.video("wrist"), &["video view", "wrist", "ego_view"]);
    let known = "annotation.human.task_description";
    says(episode.instruction("annotation.colour", 0, 16), &["annotation.colour", "task", known]);
    says(episode.instruction("task", 260, 16), &["step 260", "260 steps", "0 to 259"]);
    assert!(dataset.dimension_names(Kind::State, "legs").is_empty());
}

#[test]
fn patterns_and_columns_that_do_not_fit() {
    let folder = demo_copy();
    edit(folder.path(), "meta/info.json", "episode_{episode_index:06d}.parquet", "{episode}.parquet");
    says(Dataset::open(folder.path()).unwrap().episode(0), &["data_path", "{episode}", "info.json"]);

    let folder = demo_copy();
    edit(folder.path(), "meta/info.json", "\"shape\": [\n    26", "\"shape\": [\n    30");
    edit(folder.path(), "meta/modality.json", "\"end\": 26", "\"end\": 30");
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    says(episode.group(Kind::State, "right_hand"), &["observation.state", "30 values", "26 values"]);

    let folder = demo_copy();
    edit(folder.path(), "meta/modality.json", "\"start\": 0", "\"original_key\": \"effort\", \"start\": 0");
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    says(episode.group(Kind::Action, "left_arm"), &["column", "effort", "observation.state, action"]);

    let folder = demo_copy();
    edit(folder.path(), "meta/tasks.jsonl", "\"task_index\": 0", "\"task_index\": 3");
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    let key = "annotation.human.task_description";
    says(episode.instruction(key, 7, 16), &["task_index, row 7", "task index of 3", "found 0"]);

    let folder = demo_copy();
    edit(folder.path(), "meta/modality.json", "\"task_index\"", "\"timestamp\"");
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    says(episode.instruction(key, 1, 16), &["timestamp", "integers", "floats"]);
}

#[test]
fn the_shorter_of_metadata_and_rows_counts() {
    let folder = demo_copy();
    edit(folder.path(), "meta/episodes.jsonl", "\"length\": 362", "\"length\": 100");
    edit(folder.path(), "meta/episodes.jsonl", "\"length\": 355", "\"length\": 9999");
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(dataset.episode(0).unwrap().len(), 100);
    assert_eq!(dataset.episode(0).unwrap().group(Kind::State, "left_arm").unwrap().rows, 100);
    assert_eq!(dataset.episode(1).unwrap().len(), 355);
}

#[test]
fn sub_tasks() {
    let folder = demo_copy();
    let sub_tasks = r#""sub_tasks": [{"start": 24, "end": 60, "text": "reach"}], "length": 362"#;
    edit(folder.path(), "meta/episodes.jsonl", "\"length\": 362", sub_tasks);
    let dataset = Dataset::open(folder.path()).unwrap();
    let episode = dataset.episode(0).unwrap();
    // The window opens half an action horizon early.
    for (horizon, first) in [(16, 16usize), (1, 24), (7, 21), (200, 0)] {
        let text = |step: usize| episode.instruction("sub_task", step, horizon).unwrap();
        let before = if first == 0 { "reach" } else { "" };
        let texts = [0, first.saturating_sub(1), first, 59, 60].map(text);
        assert_eq!(texts, [before, before, "reach", "reach", ""], "{horizon}");
    }
    says(dataset.episode(1).unwrap().instruction("sub_task", 0, 16), &["language key", "sub_task"]);
}

#[test]
fn videos_that_do_not_fit() {
    let folder = demo_copy();
    let video = folder.path().join("videos/chunk-000/observation.images.ego_view/episode_000000.mp4");
    let dataset = Dataset::open(folder.path()).unwrap();
    let episode = dataset.episode(0).unwrap();
    fs::copy(demo_video(2), &video).unwrap();
    says(episode.video("ego_view"), &["episode_000000.mp4", "260 frames", "362 steps"]);
    fs::remove_file(&video).unwrap();
    let result = episode.video("ego_view");
    assert!(matches!(result, Err(Error::Missing { .. })));
    says(result, &["episode_000000.mp4", "`ego_view` video of episode 0", "missing"]);

    edit(folder.path(), "meta/modality.json", "observation.images.ego_view", "observation.images.top");
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    says(episode.video("ego_view"), &["observation.images.top", "known: observation.images.ego_view"]);
}

#[test]
fn truncated_parquet() {
    let folder = demo_copy();
    let path = folder.path().join("data/chunk-000/episode_000000.parquet");
    let whole = fs::read(&path).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    fs::write(&path, "").unwrap();
    says(dataset.episode(0), &["episode_000000.parquet", "the data of episode 0", "an empty file"]);
    for part in 1..40 {
        fs::write(&path, &whole[..whole.len() * part / 40]).unwrap();
        let result = dataset.episode(0);
        says(result, &["episode_000000.parquet", "the footer", "copied or downloaded in part"]);
    }
}

#[test]
fn damaged_parquet_is_an_error_or_numbers_but_never_a_panic() {
    let folder = demo_copy();
    let path = folder.path().join("data/chunk-000/episode_000002.parquet");
    let whole = fs::read(&path).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let mut random = Random(0xbeef);
    let (mut errors, mut read) = (0, 0);
    for copy in 0..DAMAGED_COPIES {
        let mut damaged = whole.clone();
        // Every other copy is damaged in the footer, where the structure is.
        let from = if copy % 2 == 0 { whole.len() - 4200 } else { 0 };
        for _ in 0..1 + random.below(4) {
            let at = from + random.below(whole.len() - from);
            damaged[at] = random.below(256) as u8;
        }
        fs::write(&path, &damaged).unwrap();
        let episode = dataset.episode(2);
        match episode
            .and_then(|e| Ok((e.group(Kind::State, "left_arm")?, e.group(Kind::Action, "left_arm")?)))
        {
            Ok(_) => read += 1,
            Err(error) => {
                errors += 1;
                assert!(error.to_string().contains("episode_000002.parquet"), "{error}");
            }
        }
    }
    println!("{errors} damaged copies gave errors, {read} were read");
}
