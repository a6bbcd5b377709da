//! Datasets as people have them: what nobody asks for may look as it likes, and what is asked for and cannot be
//! had is told in one sentence.

mod common;

use std::{fs, path::Path, sync::Arc};

use common::{Random, demo_copy, demo_video, fnv1a, repo};
use parquet::{
    basic::{BrotliLevel, Compression, GzipLevel},
    data_type::{
        ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type,
        Int64Type,
    },
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use steadyhand_lerobot::{Codec, Dataset, Error, Kind};

/// The demo's language key.
const KEY: &str = "annotation.human.task_description";
/// Bytes that change structure, numbers and names.
const DAMAGE: &[u8] = b"0919-.e{}[]\",:nNtx ";
/// Damaged copies tried of each file.
const DAMAGED_COPIES: usize = 200;
const TEXT: &str = "Pick up the yellow bottle on the table.";

/// Replaces a text in a file of the dataset.
fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file}: {from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Everything of episode 0 that an evaluation reads.
fn read(folder: &Path) -> Result<(usize, Vec<f32>, String), Error> {
    let episode = Dataset::open(folder)?.episode(0)?;
    let state = episode.group(Kind::State, "left_arm")?;
    episode.group(Kind::Action, "right_hand")?;
    let text = episode.instruction(KEY, 3, 16)?;
    episode.video("ego_view")?;
    Ok((episode.len(), state.data, text))
}

#[test]
fn what_is_not_used_may_look_as_it_likes() {
    let expected = read(&repo("demo/dataset")).unwrap();
    assert_eq!((expected.0, expected.2.as_str()), (362, TEXT));
    let edits: &[(&str, &str, &str)] = &[
        ("meta/episodes.jsonl", "\"length\": 362", "\"length\": 362.0"),
        ("meta/episodes.jsonl", "{\"episode_index\": 0", "\u{feff}{\"episode_index\": 0"),
        ("meta/episodes.jsonl", &format!("[\"{TEXT}\"]"), &format!("\"{TEXT}\"")),
        ("meta/episodes.jsonl", &format!("[\"{TEXT}\"]"), "null"),
        ("meta/info.json", "\"fps\": 30", "\"fps\": 30.0, \"noise\": NaN"),
        ("meta/info.json", "\"features\": {", "\"features\": {\"odd\": null,"),
        (
            "meta/info.json",
            "\"features\": {",
            "\"features\": {\"odd\": {\"dtype\": 3, \"names\": true, \"shape\": \"x\"},",
        ),
        ("meta/info.json", "\"robot_type\": \"Unitree_G1_Inspire\"", "\"robot_type\": [1, -Infinity]"),
        ("meta/info.json", "\"codebase_version\": \"v2.1\"", "\"codebase_version\": \"2.1\""),
        ("meta/modality.json", "\"state\": {", "\"state\": {\"odd\": {\"original_key\": \"x\"},"),
        ("meta/modality.json", "\"state\": {", "\"state\": {\"odd\": {\"start\": 9, \"end\": 99},"),
        ("meta/modality.json", "\"action\": {", "\"action\": {\"odd\": null,"),
        ("meta/modality.json", "\"annotation\": {", "\"annotation\": null, \"before\": {"),
        ("meta/stats.json", "\"mean\": [", "\"mean\": [NaN, null, \"x\", [], "),
        ("meta/stats.json", "{", "version https://git-lfs.github.com/spec/v1 {"),
    ];
    for (file, from, to) in edits {
        let folder = demo_copy();
        edit(folder.path(), file, from, to);
        let found = read(folder.path()).unwrap_or_else(|error| panic!("{file}: {to}: {error}"));
        assert_eq!(found, expected, "{file}: {to}");
    }
}

#[test]
fn what_is_used_is_checked_when_it_is_used() {
    let folder = demo_copy();
    edit(
        folder.path(),
        "meta/modality.json",
        "\"state\": {",
        "\"state\": {\"odd\": {\"start\": 9, \"end\": 99},",
    );
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    let error = episode.group(Kind::State, "odd").unwrap_err().to_string();
    assert!(error.contains("state.odd") && error.contains("start 9, end 99"), "{error}");
    edit(folder.path(), "meta/stats.json", "\"mean\": [", "\"mean\": [NaN, ");
    let error = Dataset::open(folder.path()).unwrap().group_stats(Kind::State, "left_arm", "mean");
    assert!(error.unwrap_err().to_string().contains("finite"));
    edit(folder.path(), "meta/stats.json", "{", "{{");
    assert!(Dataset::open(folder.path()).unwrap().stats().is_err());
}

#[test]
fn what_stands_in_place_of_a_file_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n";
    let page = "<!DOCTYPE html><html><head><title>Sign in</title>";
    let (data, video) = (
        "data/chunk-000/episode_000000.parquet",
        "videos/chunk-000/observation.images.ego_view/episode_000000.mp4",
    );
    let webm =
        "\u{1a}E\u{df}\u{a3}".chars().map(|c| c as u8).chain(*b"\x01\x42\x82\x84webm").collect::<Vec<u8>>();
    let cases: &[(&str, &[u8], &str)] = &[
        (data, pointer.as_bytes(), "Git LFS pointer"),
        (video, pointer.as_bytes(), "git lfs pull"),
        ("meta/info.json", pointer.as_bytes(), "Git LFS pointer"),
        ("meta/episodes.jsonl", page.as_bytes(), "web page"),
        (data, page.as_bytes(), "web page"),
        (video, &webm, "a WebM video"),
        (video, b"\x89PNG\r\n\x1a\n", "a PNG image"),
        ("meta/tasks.jsonl", b"Entry not found", "the hub's refusal"),
        (
            "meta/episodes.jsonl",
            b"{\n  \"episode_index\": 0,\n  \"length\": 3\n}\n",
            "one whole JSON object on each line",
        ),
        ("meta/episodes.jsonl", b"[{\"episode_index\": 0, \"length\": 3}]", "a list of objects"),
        ("meta/info.json", b"{\"fps\": 1, \"fps\": 2}", "`fps` stands twice"),
    ];
    for (file, contents, said) in cases {
        let folder = demo_copy();
        fs::write(folder.path().join(file), contents).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(file.rsplit('/').next().unwrap()), "{file}: {error}");
    }
}

#[test]
fn the_folder_that_was_meant_is_told() {
    let says = |path: &Path, parts: &[&str]| {
        let error = Dataset::open(path).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    says(Path::new("nvidia/some-dataset"), &["hf download --repo-type dataset nvidia/some-dataset"]);
    says(&repo("demo/dataset/meta"), &["info.json", "the folder above"]);
    says(&repo("demo"), &["did you mean", "demo/dataset"]);
    let folder = demo_copy();
    fs::remove_file(folder.path().join("meta/modality.json")).unwrap();
    let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
    let error = episode.group(Kind::State, "left_arm").unwrap_err().to_string();
    assert!(error.contains("modality.json") && error.contains("is missing"), "{error}");
    edit(folder.path(), "meta/info.json", "v2.1", "v3.0");
    says(folder.path(), &["codebase_version", "expected v2.1", "found v3.0"]);
}

#[test]
fn paths_out_of_the_dataset_are_refused() {
    for (field, data) in [("data_path", true), ("video_path", false)] {
        for path in ["../../etc/passwd", "/etc/passwd", "data/../../x"] {
            let folder = demo_copy();
            let info: String = fs::read_to_string(folder.path().join("meta/info.json")).unwrap();
            let start = info.find(&format!("\"{field}\": \"")).unwrap();
            let end = start + info[start..].find(",\n").unwrap();
            let changed = format!("{}\"{field}\": \"{path}\"{}", &info[..start], &info[end..]);
            fs::write(folder.path().join("meta/info.json"), changed).unwrap();
            let error = match Dataset::open(folder.path()).unwrap().episode(0) {
                Ok(episode) if !data => episode.video("ego_view").map(drop).unwrap_err(),
                result => result.map(drop).unwrap_err(),
            };
            let error = error.to_string();
            assert!(error.contains(field) && error.contains("out of the dataset"), "{error}");
        }
    }
}

/// Writes the demo's episode 0 anew, with one column `action` of this parquet type.
fn write_action<T: DataType>(folder: &Path, parquet_type: &str, values: &[T::T], codec: Compression) {
    let schema = format!("message schema {{ required {parquet_type}; required int64 task_index; }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = WriterProperties::builder().set_compression(codec).build();
    let file = fs::File::create(folder.join("data/chunk-000/episode_000000.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&vec![0; values.len()], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// The demo with one action, `left_arm`, of one value.
fn one_action() -> tempfile::TempDir {
    let folder = demo_copy();
    let modality = r#"{"state": {}, "action": {"left_arm": {"start": 0, "end": 1}}, "video": {}}"#;
    fs::write(folder.path().join("meta/modality.json"), modality).unwrap();
    folder
}

#[test]
fn every_type_of_number_is_read() {
    let folder = one_action();
    let fixed = |bytes: &[u8]| FixedLenByteArray::from(ByteArray::from(bytes.to_vec()));
    let values = || {
        let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
        episode.group(Kind::Action, "left_arm").unwrap().data
    };
    let plain = Compression::UNCOMPRESSED;
    let big = 3_000_000_000u32.cast_signed();
    write_action::<Int32Type>(folder.path(), "int32 action (INTEGER(32,false))", &[big, 7], plain);
    assert_eq!(values(), [3e9, 7.0]);
    write_action::<Int32Type>(folder.path(), "int32 action (INTEGER(8,false))", &[200, 7], plain);
    assert_eq!(values(), [200.0, 7.0]);
    write_action::<Int64Type>(folder.path(), "int64 action (INTEGER(64,false))", &[-1, 7], plain);
    assert_eq!(values(), [u64::MAX as f32, 7.0]);
    let halves = [fixed(&[0x00, 0x3c]), fixed(&[0x55, 0xb5])];
    write_action::<FixedLenByteArrayType>(
        folder.path(),
        "fixed_len_byte_array(2) action (FLOAT16)",
        &halves,
        plain,
    );
    assert_eq!(values(), [1.0, -0.33325195]);
    write_action::<Int32Type>(folder.path(), "int32 action (DECIMAL(9,2))", &[-125, 50], plain);
    assert_eq!(values(), [-1.25, 0.5]);
    let decimals = [fixed(&[0xff, 0xff, 0x85]), fixed(&[0, 1, 0])];
    write_action::<FixedLenByteArrayType>(
        folder.path(),
        "fixed_len_byte_array(3) action (DECIMAL(6,1))",
        &decimals,
        plain,
    );
    assert_eq!(values(), [-12.3, 25.6]);
}

#[test]
fn every_compression_is_read() {
    let folder = one_action();
    let expected: Vec<f32> = (0..100).map(|i| (i / 7) as f32).collect();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        write_action::<FloatType>(folder.path(), "float action", &expected, codec);
        let episode = Dataset::open(folder.path()).unwrap().episode(0).unwrap();
        assert_eq!(episode.group(Kind::Action, "left_arm").unwrap().data, expected, "{codec}");
        assert_eq!(episode.instruction("task", 0, 16).unwrap(), TEXT);
    }
}

/// A PNG file of a few colours.
fn png(level: u8, color: png::ColorType) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 3, 2);
    encoder.set_color(color);
    let pixel: Vec<u8> = (0..color.samples() as u8).map(|channel| level + channel).collect();
    encoder.write_header().unwrap().write_image_data(&pixel.repeat(6)).unwrap();
    file
}

#[test]
fn images_in_the_data_are_a_video() {
    let folder = demo_copy();
    let root = folder.path();
    let info = fs::read_to_string(root.join("meta/info.json")).unwrap();
    fs::write(root.join("meta/info.json"), info.replace("\"dtype\": \"video\"", "\"dtype\": \"image\""))
        .unwrap();
    let schema = "message schema { required int64 task_index;
        optional group observation.images.ego_view { optional binary bytes; optional binary path (UTF8); } }";
    let write = |files: &[Option<Vec<u8>>]| {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = fs::File::create(root.join("data/chunk-000/episode_000000.parquet")).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![0; files.len()], None, None).unwrap();
        column.close().unwrap();
        for part in 0..2 {
            let values: Vec<ByteArray> = files
                .iter()
                .flatten()
                .map(|file| ByteArray::from(if part == 0 { file.clone() } else { Vec::new() }))
                .collect();
            let defs: Vec<i16> = files.iter().map(|file| if file.is_some() { 2 } else { 1 }).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&defs), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    };
    let open = || Dataset::open(root).unwrap().episode(0).unwrap().video("ego_view").unwrap();
    write(&(0..40).map(|level| Some(png(level, png::ColorType::Rgb))).collect::<Vec<_>>());
    let mut video = open();
    assert_eq!((video.codec(), video.frame_count()), (Codec::Images, 40));
    for index in [0, 39, 7, 31, 32] {
        let frame = video.frame(index).unwrap();
        let level = index as u8;
        assert_eq!((frame.width, frame.height, &frame.rgb[..3]), (3, 2, &[level, level + 1, level + 2][..]));
    }
    assert!(matches!(video.frame(40), Err(Error::FrameRange { .. })));
    let colors = [png::ColorType::Grayscale, png::ColorType::GrayscaleAlpha, png::ColorType::Rgba];
    write(&colors.map(|color| Some(png(50, color))));
    let mut video = open();
    let pixels: Vec<Vec<u8>> = (0..3).map(|index| video.frame(index).unwrap().rgb[..3].to_vec()).collect();
    assert_eq!(pixels, [[50, 50, 50], [50, 50, 50], [50, 51, 52]]);
    let cut = png(50, png::ColorType::Rgb)[..40].to_vec();
    for (file, found) in [
        (Some(cut), "a whole PNG"),
        (Some(b"text".to_vec()), "something else"),
        (None, "the bytes of one image"),
    ] {
        write(&[file]);
        let error = open().frame(0).unwrap_err().to_string();
        assert!(error.contains("observation.images.ego_view, row 0") && error.contains(found), "{error}");
    }
}

#[test]
fn damaged_metadata_is_an_error_or_a_dataset_but_never_a_panic() {
    let folder = demo_copy();
    let mut random = Random(0xdada);
    for file in ["info.json", "episodes.jsonl", "tasks.jsonl", "modality.json", "stats.json"] {
        let path = folder.path().join("meta").join(file);
        let whole = fs::read(&path).unwrap();
        for _ in 0..DAMAGED_COPIES {
            let mut damaged = whole.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                damaged[at] = DAMAGE[random.below(DAMAGE.len())];
            }
            fs::write(&path, &damaged).unwrap();
            if let Ok(dataset) = Dataset::open(folder.path()) {
                let _ = (dataset.stats().is_ok(), dataset.group_stats(Kind::State, "left_arm", "mean"));
                let _ = (dataset.dimension_names(Kind::Action, "left_hand"), read(folder.path()));
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn the_demo_decodes_as_before() {
    let mut video =
        Dataset::open(repo("demo/dataset")).unwrap().episode(1).unwrap().video("ego_view").unwrap();
    let mut same = steadyhand_lerobot::Video::open(demo_video(1)).unwrap();
    assert_eq!(fnv1a(&video.frame(300).unwrap().rgb), fnv1a(&same.frame(300).unwrap().rgb));
}

#[test]
fn what_does_not_fit_is_named_by_its_field() {
    for (file, from, to, parts) in [
        ("meta/info.json", "\"fps\": 30,", "\"fps\": \"30\",", ["info.json: fps: ", "\"30\""]),
        (
            "meta/info.json",
            "\"chunks_size\": 1000",
            "\"chunks_size\": [1]",
            ["info.json: chunks_size: ", "sequence"],
        ),
        (
            "meta/episodes.jsonl",
            "\"length\": 362",
            "\"length\": \"362\"",
            ["line 1: ", "length: invalid type"],
        ),
    ] {
        let folder = demo_copy();
        edit(folder.path(), file, from, to);
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let folder = demo_copy();
    fs::write(folder.path().join("meta/info.json"), "").unwrap();
    let error = read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("info.json") && error.contains("an empty file"), "{error}");
}

#[test]
fn text_and_torn_files_in_place_of_parquet_are_named() {
    let folder = demo_copy();
    let path = folder.path().join("data/chunk-000/episode_000000.parquet");
    let whole = fs::read(&path).unwrap();
    for (contents, found) in [
        (&b"{\"error\": \"Repository not found\"}"[..], "found JSON text"),
        (b"timestamp,action\n0.0,1.0\n", "found text"),
        (b"ARROW1\0\0", "found an Arrow file"),
        (&[0; 4096], "found nothing but zeros"),
        (&whole[..whole.len() / 2], "copied or downloaded in part"),
        (b"", "found an empty file"),
    ] {
        fs::write(&path, contents).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("episode_000000.parquet") && error.contains(found), "{error}");
    }
}
