//! A small v3.0 dataset written here: two episodes in one data file and one video, rows across row groups.

mod common;

use std::{fs, path::Path, sync::Arc};

use common::{Random, clip, fnv1a, hashes};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use steadyhand_lerobot::{Dataset, Error, Kind};

/// Rows of the data file; the clip has as many frames.
const ROWS: usize = 40;
/// Rows of the first episode.
const FIRST: usize = 15;

/// Damaged copies tried of each file.
const DAMAGED_COPIES: usize = 300;

type Group<'a> = SerializedRowGroupWriter<'a, fs::File>;

/// Writes a parquet file of some row groups.
fn write(path: &Path, schema: &str, groups: usize, fill: impl Fn(usize, &mut Group)) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for group in 0..groups {
        let mut rows = writer.next_row_group().unwrap();
        fill(group, &mut rows);
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

/// Writes the next column of a row group.
fn column<T: DataType>(group: &mut Group, values: &[T::T], defs: Option<&[i16]>, reps: Option<&[i16]>) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, defs, reps).unwrap();
    column.close().unwrap();
}

/// A column without nulls.
fn plain<T: DataType>(group: &mut Group, values: &[T::T]) {
    column::<T>(group, values, Some(&vec![1; values.len()]), None);
}

/// Lists of `dim` values a row, without nulls.
fn lists<T: DataType>(group: &mut Group, values: &[T::T], dim: usize) {
    let reps: Vec<i16> = (0..values.len()).map(|i| i16::from(i % dim != 0)).collect();
    column::<T>(group, values, Some(&vec![3; values.len()]), Some(&reps));
}

const LIST: &str = "(LIST) { repeated group list { optional";

fn texts(values: &[&str]) -> Vec<ByteArray> {
    values.iter().map(|v| ByteArray::from(*v)).collect()
}

fn info(version: &str) -> String {
    let scalar = |dtype: &str| format!(r#"{{"dtype": "{dtype}", "shape": [1], "names": null}}"#);
    format!(
        r#"{{"codebase_version": "{version}", "fps": 30, "chunks_size": 1000,
        "data_path": "data/chunk-{{chunk_index:03d}}/file-{{file_index:03d}}.parquet",
        "video_path": "videos/{{video_key}}/chunk-{{chunk_index:03d}}/file-{{file_index:03d}}.mp4",
        "features": {{
            "observation.state": {{"dtype": "float64", "shape": [3], "names": {{"motors": ["a", "b", "c"]}}}},
            "action": {{"dtype": "float32", "shape": [2], "names": null}},
            "observation.images.top": {{"dtype": "video", "shape": [48, 64, 3]}},
            "episode_index": {}, "task_index": {}, "next.reward": {}
        }}}}"#,
        scalar("int64"),
        scalar("int64"),
        scalar("float32")
    )
}

/// The state of a row: exact in f32.
fn state(row: usize, i: usize) -> f64 {
    row as f64 + i as f64 / 4.0
}

/// Writes the dataset.
fn dataset() -> tempfile::TempDir {
    dataset_of("h264_deep_b", ROWS, FIRST, FIRST as f64 / 30.0)
}

/// Writes a dataset of a clip with `rows_in_all` frames, whose second episode starts at row `split` and at `cut`
/// seconds of the video.
fn dataset_of(video_clip: &str, rows_in_all: usize, split: usize, cut: f64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("meta")).unwrap();
    fs::write(root.join("meta/info.json"), info("v3.0")).unwrap();
    let schema = "message schema { optional int64 task_index; optional binary __index_level_0__ (UTF8); }";
    write(&root.join("meta/tasks.parquet"), schema, 1, |_, group| {
        plain::<Int64Type>(group, &[0, 1]);
        plain::<ByteArrayType>(group, &texts(&["push the cube", "lift the cube"]));
    });
    let video = "videos/observation.images.top";
    let schema = format!(
        "message schema {{ optional int64 episode_index; optional group tasks {LIST} binary element (UTF8); }} }}
        optional int64 length; optional int64 data/chunk_index; optional int64 data/file_index;
        optional int64 {video}/chunk_index; optional int64 {video}/file_index;
        optional double {video}/from_timestamp; optional double {video}/to_timestamp; }}"
    );
    let episodes = root.join("meta/episodes/chunk-000/file-000.parquet");
    write(&episodes, &schema, 1, |_, group| {
        plain::<Int64Type>(group, &[0, 1]);
        let tasks = texts(&["push the cube", "lift the cube", "push the cube"]);
        column::<ByteArrayType>(group, &tasks, Some(&[3, 3, 3]), Some(&[0, 0, 1]));
        plain::<Int64Type>(group, &[split as i64, (rows_in_all - split) as i64]);
        for _ in 0..4 {
            plain::<Int64Type>(group, &[0, 0]);
        }
        plain::<DoubleType>(group, &[0.0, cut]);
        plain::<DoubleType>(group, &[cut, rows_in_all as f64 / 30.0]);
    });
    let schema = format!(
        "message schema {{ optional group observation.state {LIST} double element; }} }}
        optional group action {LIST} float element; }} }}
        optional int64 episode_index; optional int64 task_index; optional float next.reward; }}"
    );
    write(&root.join("data/chunk-000/file-000.parquet"), &schema, 4, |group, writer| {
        let rows = group * rows_in_all / 4..(group + 1) * rows_in_all / 4;
        let states: Vec<f64> = rows.clone().flat_map(|row| (0..3).map(move |i| state(row, i))).collect();
        let actions: Vec<f32> = rows.clone().flat_map(|row| [-(row as f32), row as f32]).collect();
        lists::<DoubleType>(writer, &states, 3);
        lists::<FloatType>(writer, &actions, 2);
        plain::<Int64Type>(writer, &rows.clone().map(|row| i64::from(row >= split)).collect::<Vec<_>>());
        plain::<Int64Type>(writer, &rows.clone().map(|row| i64::from(row >= 20)).collect::<Vec<_>>());
        plain::<FloatType>(writer, &vec![0.0; rows.len()]);
    });
    let video = root.join(video).join("chunk-000/file-000.mp4");
    fs::create_dir_all(video.parent().unwrap()).unwrap();
    fs::copy(clip(video_clip), video).unwrap();
    folder
}

#[test]
fn episodes_of_one_file() {
    let folder = dataset();
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!((dataset.version(), dataset.len()), ("v3.0", 2));
    assert_eq!(dataset.episode_meta(1).unwrap().tasks, ["lift the cube", "push the cube"]);
    assert_eq!(dataset.dimension_names(Kind::State, "state"), ["a", "b", "c"]);
    for (index, rows) in [(0, 0..FIRST), (1, FIRST..ROWS)] {
        let episode = dataset.episode(index).unwrap();
        assert_eq!(episode.len(), rows.len());
        let states = episode.group(Kind::State, "state").unwrap();
        let expected: Vec<f32> =
            rows.clone().flat_map(|row| (0..3).map(move |i| state(row, i) as f32)).collect();
        assert_eq!((states.rows, states.cols, states.data), (rows.len(), 3, expected));
        let actions = episode.group(Kind::Action, "action").unwrap();
        assert_eq!(actions.row(2), [-(rows.start as f32) - 2.0, rows.start as f32 + 2.0]);
    }
    let episode = dataset.episode(1).unwrap();
    let key = "annotation.human.task_description";
    assert_eq!(episode.instruction(key, 4, 16).unwrap(), "push the cube");
    assert_eq!(episode.instruction(key, 5, 16).unwrap(), "lift the cube");
    assert_eq!(episode.instruction("task", 0, 16).unwrap(), "lift the cube");
}

#[test]
fn episodes_of_one_video() {
    let folder = dataset();
    let dataset = Dataset::open(folder.path()).unwrap();
    let expected = hashes("h264_deep_b");
    for (index, frames) in [(0, 0..FIRST), (1, FIRST..ROWS)] {
        let mut video = dataset.episode(index).unwrap().video("top").unwrap();
        assert_eq!(video.frame_count(), frames.len());
        for index in [0, frames.len() - 1, 3, 4] {
            let hash = fnv1a(&video.frame(index).unwrap().rgb);
            assert_eq!(hash, expected[frames.start + index], "frame {index}");
        }
        let past_the_end = video.frame(frames.len());
        assert!(matches!(past_the_end, Err(Error::FrameRange { .. })), "{past_the_end:?}");
    }
    // A video with fewer frames: the second episode does not fit any more.
    let path = folder.path().join("videos/observation.images.top/chunk-000/file-000.mp4");
    fs::copy(clip("av1_bt709"), path).unwrap();
    assert!(dataset.episode(0).unwrap().video("top").is_ok());
    let error = dataset.episode(1).unwrap().video("top").unwrap_err().to_string();
    assert!(error.contains("9 frames") && error.contains("25 steps"), "{error}");
}

#[test]
fn frames_are_nearest_in_time() {
    // Frames 12 to 19 of this clip are 0.02 s late: 0.6 frames, which counting frames rounds to the next one.
    let first = 12;
    let late = 0.02;
    for (from, shift) in [(12.0 / 30.0 + late, 0), (12.0 / 30.0 + late - 0.01, 0), (11.0 / 30.0 + 1e-5, -1)] {
        let folder = dataset_of("h264_gap", 20, first, from);
        let dataset = Dataset::open(folder.path()).unwrap();
        let expected = hashes("h264_gap");
        let mut video = dataset.episode(1).unwrap().video("top").unwrap();
        assert_eq!(video.frame_count(), 20 - first);
        for step in 0..video.frame_count() {
            let time = from + step as f64 / 30.0;
            let shown = |frame: usize| frame as f64 / 30.0 + if frame < 12 { 0.0 } else { late };
            let nearest =
                (0..20).min_by(|a, b| (shown(*a) - time).abs().total_cmp(&(shown(*b) - time).abs())).unwrap();
            if step == 0 {
                assert_eq!(nearest as i64, first as i64 + shift, "{from}");
            }
            assert_eq!(fnv1a(&video.frame(step).unwrap().rgb), expected[nearest], "{from}: step {step}");
        }
    }
    // A whole frame behind the last one there is nothing.
    let folder = dataset_of("h264_gap", 20, first, 13.0 / 30.0 + late + 1e-4);
    let error = Dataset::open(folder.path()).unwrap().episode(1).unwrap().video("top").unwrap_err();
    assert!(matches!(error, Error::ShortVideo { frames: 7, steps: 8, .. }), "{error}");
    let folder = dataset_of("h264_gap", 20, first, 900.0);
    let error =
        Dataset::open(folder.path()).unwrap().episode(1).unwrap().video("top").unwrap_err().to_string();
    assert!(error.contains("from_timestamp of episode 1") && error.contains("900"), "{error}");
}

#[test]
fn texts_come_from_the_data_where_the_episodes_have_none() {
    let folder = dataset();
    let root = folder.path();
    fs::write(root.join("meta/episodes/chunk-000/._file-000.parquet"), "junk").unwrap();
    fs::write(root.join("meta/episodes/.DS_Store"), "junk").unwrap();
    let video = "videos/observation.images.top";
    let schema = format!(
        "message schema {{ optional int64 episode_index; optional int64 length;
        optional int64 data/chunk_index; optional int64 data/file_index; optional int64 {video}/chunk_index; }}"
    );
    let episodes = root.join("meta/episodes/chunk-000/file-000.parquet");
    write(&episodes, &schema, 1, |_, group| {
        plain::<Int64Type>(group, &[0, 1]);
        plain::<Int64Type>(group, &[FIRST as i64, (ROWS - FIRST) as i64]);
        for _ in 0..3 {
            plain::<Int64Type>(group, &[0, 0]);
        }
    });
    let schema = "message schema { optional int64 task_index; optional int64 __index_level_0__;
        optional binary task (UTF8); }";
    write(&root.join("meta/tasks.parquet"), schema, 1, |_, group| {
        plain::<Int64Type>(group, &[0, 1]);
        plain::<Int64Type>(group, &[0, 1]);
        plain::<ByteArrayType>(group, &texts(&["push the cube", "lift the cube"]));
    });
    let dataset = Dataset::open(root).unwrap();
    assert!(dataset.episode_meta(1).unwrap().tasks.is_empty());
    let episode = dataset.episode(1).unwrap();
    assert_eq!(episode.instruction("task", 4, 16).unwrap(), "push the cube");
    assert_eq!(episode.instruction("task", 5, 16).unwrap(), "lift the cube");
    // The video's place is not whole, which only matters to those who ask for it.
    assert!(matches!(episode.video("top"), Err(Error::Unknown { .. })));
}

#[test]
fn missing_parts_are_named() {
    type Asked = fn(&Path) -> Result<(), Error>;
    let asked: [(&str, Asked); 2] = [
        ("meta/episodes", |folder| Dataset::open(folder).map(drop)),
        // The list of tasks matters to those who look one up.
        ("meta/tasks.parquet", |folder| Dataset::open(folder)?.tasks().map(drop)),
    ];
    for (file, ask) in asked {
        let folder = dataset();
        fs::rename(folder.path().join(file), folder.path().join("away")).unwrap();
        let error = ask(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
    let folder = dataset();
    // Read as v2, the lists of episodes and tasks are other files.
    fs::write(folder.path().join("meta/info.json"), info("v2.1")).unwrap();
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("expected v3.0") && error.contains("episodes.jsonl"), "{error}");
}

#[test]
fn nulls_and_ragged_rows_are_named() {
    let folder = dataset();
    let path = folder.path().join("data/chunk-000/file-000.parquet");
    let schema = format!(
        "message schema {{ optional group action {LIST} float element; }} }}
        optional int64 episode_index; optional int64 task_index; }}"
    );
    // Rows of the action column, by their levels: three values, then a null, an empty list, and one value.
    for (values, defs, reps, found) in [
        (vec![1.0, 2.0], vec![3, 3, 0], vec![0, 1, 0], "null or empty"),
        (vec![1.0, 2.0], vec![3, 3, 1], vec![0, 1, 0], "null or empty"),
        (vec![1.0, 2.0, 3.0], vec![3, 3, 3], vec![0, 1, 0], "1 values"),
        (vec![1.0, 2.0, 3.0], vec![3, 3, 3, 2], vec![0, 1, 0, 1], "a null among them"),
    ] {
        write(&path, &schema, 1, |_, group| {
            column::<FloatType>(group, &values, Some(&defs), Some(&reps));
            plain::<Int64Type>(group, &[0, 0]);
            plain::<Int64Type>(group, &[0, 0]);
        });
        let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
        let error = episode.group(Kind::Action, "action").unwrap_err().to_string();
        assert!(error.contains("action, row 1") && error.contains(found), "{error}");
    }
    write(&path, &schema, 1, |_, group| {
        lists::<FloatType>(group, &[1.0, 2.0, 3.0, 4.0], 2);
        plain::<Int64Type>(group, &[0, 0]);
        column::<Int64Type>(group, &[0], Some(&[1, 0]), None);
    });
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    let error = episode.instruction("annotation.human.task_description", 0, 16).unwrap_err().to_string();
    assert!(error.contains("task_index, row 1") && error.contains("found null"), "{error}");
    let error = Dataset::open(folder.path()).unwrap().episode(1).unwrap_err().to_string();
    assert!(error.contains("rows of episode 1") && error.contains("episodes 0 to 0"), "{error}");
}

#[test]
fn damaged_tables_are_errors_or_episodes_but_never_panics() {
    let folder = dataset();
    let files =
        ["meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"];
    let mut random = Random(0xcafe);
    for file in files {
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        for _ in 0..DAMAGED_COPIES {
            let mut damaged = whole.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(whole.len());
                damaged[at] = [0, 1, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(6)];
            }
            fs::write(&path, &damaged).unwrap();
            if let Ok(dataset) = Dataset::open(folder.path()) {
                for index in [0, 1] {
                    let Ok(episode) = dataset.episode(index) else { continue };
                    let _ = (episode.group(Kind::State, "state"), episode.group(Kind::Action, "action"));
                    let _ = (episode.instruction("task", 0, 16), episode.video("top").map(drop));
                }
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}
