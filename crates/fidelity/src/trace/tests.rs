//! Traces as written here, as other tools write them, and as nothing should have written them.

use super::*;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as OfficialDtype, TensorView};
use std::collections::HashMap;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("engine".to_owned(), "cpu, f32".to_owned())])
}

/// A safetensors file with this header text and this much data.
fn file_with(folder: &Path, name: &str, header: &[u8], data: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, data].concat();
    std::fs::write(&path, bytes).expect("written");
    path
}

/// The message of a file with this header that must not open.
fn refusal(header: &str, data: &[u8]) -> String {
    let folder = folder();
    file_with(folder.path(), "a.safetensors", header.as_bytes(), data);
    let message = Trace::open(folder.path()).expect_err(header).to_string();
    assert!(message.contains("a.safetensors"), "{message}");
    message
}

#[test]
fn a_trace_reads_back_as_written_and_in_order() {
    let folder = folder();
    let mut writer = TraceWriter::create(folder.path(), metadata()).expect("created");
    writer.add("z", &[2, 2], &[1.0, -0.0, f32::NAN, f32::INFINITY]).expect("added");
    writer.add_bytes("flag", Dtype::Bool, &[3], &[1, 0, 1]).expect("added");
    writer
        .add_bytes("ids", Dtype::I64, &[2], &[(-7i64).to_le_bytes(), 9i64.to_le_bytes()].concat())
        .expect("added");
    writer.add_bytes("a", Dtype::Bf16, &[2], &[0x80, 0x3f, 0x00, 0xc0]).expect("added");
    writer.add("scalar", &[], &[3.5]).expect("added");
    writer.add("empty", &[0, 5], &[]).expect("added");
    writer.finish().expect("finished");

    let trace = Trace::open(folder.path()).expect("opened");
    assert_eq!(trace.names().collect::<Vec<_>>(), ["z", "flag", "ids", "a", "scalar", "empty"]);
    assert_eq!(trace.metadata(), &metadata());
    let z = trace.read("z").expect("read");
    assert!(z[0] == 1.0 && z[1].is_sign_negative() && z[2].is_nan() && z[3] == f32::INFINITY);
    assert_eq!(trace.read("flag").expect("read"), [1.0, 0.0, 1.0]);
    assert_eq!(trace.read("ids").expect("read"), [-7.0, 9.0]);
    assert_eq!(trace.read("a").expect("read"), [1.0, -2.0]);
    assert_eq!(trace.read_bytes("a").expect("read"), [0x80, 0x3f, 0x00, 0xc0]);
    assert_eq!(trace.read("scalar").expect("read"), [3.5]);
    assert_eq!(trace.read("empty").expect("read"), [0f32; 0]);
    let entry = trace.entry("ids").expect("there");
    assert_eq!((entry.dtype, entry.shape.as_slice(), entry.value_count()), (Dtype::I64, &[2][..], 2));
    let message = trace.read("absent").expect_err("absent").to_string();
    assert!(message.contains("expected a tensor `absent`, found none among 6"), "{message}");
}

#[test]
fn parts_are_bounded_and_the_official_crate_reads_them() {
    let folder = folder();
    let mut writer = TraceWriter::with_part_bytes(folder.path(), metadata(), 1000).expect("created");
    writer.add_bytes("odd", Dtype::U8, &[3], &[1, 2, 3]).expect("added");
    writer.add("aligned", &[100], &[0.5; 100]).expect("added");
    writer.add("larger than a part", &[1000], &[0.25; 1000]).expect("added");
    writer.add("last", &[1], &[1.0]).expect("added");
    writer.finish().expect("finished");

    let trace = Trace::open(folder.path()).expect("opened");
    let files: Vec<&Path> =
        trace.names().map(|name| trace.entry(name).expect("there").file.as_path()).collect();
    assert_eq!(files[0], files[1]);
    assert!(files[1] != files[2] && files[2] != files[3]);
    for file in &files[1..] {
        let bytes = std::fs::read(file).expect("read");
        let official = SafeTensors::deserialize(&bytes).expect("the official crate reads it");
        for (name, view) in official.tensors() {
            assert_eq!(trace.read_bytes(&name).expect("read"), view.data());
            assert_eq!(trace.entry(&name).expect("there").shape, view.shape());
        }
    }
    assert_eq!(trace.entry("aligned").expect("there").start % 8, 0);
}

#[test]
fn every_dtype_widens() {
    let folder = folder();
    let mut writer = TraceWriter::create(folder.path(), BTreeMap::new()).expect("created");
    let cases: [(Dtype, &[u8], &[f32]); 15] = [
        (Dtype::F32, &[0, 0, 128, 63], &[1.0]),
        (Dtype::Bf16, &[128, 63], &[1.0]),
        (Dtype::F16, &[0, 60], &[1.0]),
        (Dtype::F64, &[0, 0, 0, 0, 0, 0, 240, 63], &[1.0]),
        (Dtype::F8E4m3, &[0x38, 0xfe], &[1.0, -448.0]),
        (Dtype::F8E5m2, &[0x3c, 0x7c], &[1.0, f32::INFINITY]),
        (Dtype::I64, &[255; 8], &[-1.0]),
        (Dtype::I32, &[254, 255, 255, 255], &[-2.0]),
        (Dtype::I16, &[0, 128], &[-32768.0]),
        (Dtype::I8, &[128, 127], &[-128.0, 127.0]),
        (Dtype::U64, &[255; 8], &[18_446_744_073_709_551_615.0]),
        (Dtype::U32, &[255; 4], &[4_294_967_295.0]),
        (Dtype::U16, &[255, 255], &[65535.0]),
        (Dtype::U8, &[255], &[255.0]),
        (Dtype::Bool, &[0, 1], &[0.0, 1.0]),
    ];
    for (dtype, bytes, values) in cases {
        writer.add_bytes(&dtype.to_string(), dtype, &[values.len()], bytes).expect("added");
    }
    writer.add_bytes("bad bool", Dtype::Bool, &[1], &[7]).expect("added");
    writer.finish().expect("finished");
    let trace = Trace::open(folder.path()).expect("opened");
    for (dtype, bytes, values) in cases {
        assert_eq!(Dtype::from_name(&dtype.to_string()), Some(dtype));
        assert_eq!(trace.read(&dtype.to_string()).expect("read"), values, "{dtype}");
        assert_eq!(trace.read_bytes(&dtype.to_string()).expect("read"), bytes);
    }
    assert!(trace.read("bad bool").expect_err("7").to_string().contains("expected 0 or 1, found 7"));
}

#[test]
fn plain_folders_and_files_of_the_official_crate_open() {
    let folder = folder();
    let data: Vec<u8> = [1.5f32, 2.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = |dtype, shape| TensorView::new(dtype, shape, &data).expect("fits");
    let first =
        HashMap::from([("f", view(OfficialDtype::F32, vec![2])), ("i", view(OfficialDtype::I64, vec![1]))]);
    let tags = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize_to_file(first, tags, &folder.path().join("a.safetensors")).expect("written");
    let second = HashMap::from([("h", view(OfficialDtype::BF16, vec![2, 2]))]);
    safetensors::serialize_to_file(second, None, &folder.path().join("b.safetensors")).expect("written");
    std::fs::write(folder.path().join("notes.txt"), "not a tensor").expect("written");

    let trace = Trace::open(folder.path()).expect("opened");
    assert_eq!(trace.names().len(), 3);
    assert_eq!(trace.read("f").expect("read"), [1.5, 2.5]);
    assert_eq!(trace.entry("h").expect("there").shape, [2, 2]);
    let single = Trace::open(folder.path().join("b.safetensors")).expect("opened");
    assert_eq!(single.names().collect::<Vec<_>>(), ["h"]);

    let again = HashMap::from([("f", view(OfficialDtype::F32, vec![2]))]);
    safetensors::serialize_to_file(again, None, &folder.path().join("c.safetensors")).expect("written");
    let message = Trace::open(folder.path()).expect_err("twice").to_string();
    assert!(message.contains("c.safetensors: tensor `f`: expected a unique name"), "{message}");
}

#[test]
fn headers_that_lie_are_refused_before_memory_is_taken() {
    let tensor = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let one = |entry: String, data: usize| refusal(&format!(r#"{{"x":{entry}}}"#), &vec![0; data]);
    let two = |a: String, b: String, data: usize| refusal(&format!(r#"{{"x":{a},"y":{b}}}"#), &vec![0; data]);
    let overlap = two(tensor("U8", "[8]", 0, 8), tensor("U8", "[8]", 4, 12), 12);
    assert!(overlap.contains("tensor `y`, data_offsets: expected a start at 8"), "{overlap}");
    let hole = two(tensor("U8", "[4]", 0, 4), tensor("U8", "[4]", 8, 12), 12);
    assert!(hole.contains("found 8 to 12"), "{hole}");
    assert!(one(tensor("U8", "[9]", 0, 9), 8).contains("an end of at most 8"));
    assert!(one(tensor("U8", "[1]", 8, 0), 8).contains("found 8 to 0"));
    assert!(one(tensor("F32", "[3]", 0, 8), 8).contains("expected 12 bytes of F32 [3], found 8 bytes"));
    assert!(one(tensor("F32", "[4611686018427387904]", 0, 8), 8).contains("shape"));
    assert!(one(tensor("F32", "[4294967296, 4294967296, 4294967296]", 0, 8), 8).contains("shape"));
    assert!(one(tensor("F32", "[-1]", 0, 8), 8).contains("header"));
    assert!(one(tensor("F99", "[2]", 0, 8), 8).contains("found F99"));
    assert!(one(tensor("U8", "[4]", 0, 4), 8).contains("data length: expected 4 bytes of tensors, found 8"));
    let empty = tensor("U8", "[0]", 0, 0);
    assert!(refusal(&format!(r#"{{"x":{empty},"x":{empty}}}"#), &[]).contains("found `x` twice"));
    for junk in ["", "[]", "{", "{\"x\":1}", "{\"x\":{}}", "null"] {
        assert!(refusal(junk, &[0; 4]).contains("header"), "{junk}");
    }
    let folder = folder();
    let deep = [b"{\"x\":".as_slice(), &[b'['; 100_000]].concat();
    for junk in [&[0xff, 0xfe, b'{', b'}'][..], &deep] {
        let path = file_with(folder.path(), "a.safetensors", junk, &[]);
        assert!(matches!(Trace::open(path), Err(TraceError::Json { .. })));
    }
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let folder = folder();
    let mut writer = TraceWriter::create(folder.path(), metadata()).expect("created");
    writer.add("x", &[3], &[1.0, 2.0, 3.0]).expect("added");
    writer.finish().expect("finished");
    let part = folder.path().join("part-00000.safetensors");
    let trace = Trace::open(folder.path()).expect("opened");
    let whole = std::fs::read(&part).expect("read");
    for length in 0..whole.len() {
        std::fs::write(&part, &whole[..length]).expect("written");
        assert!(Trace::open(folder.path()).is_err(), "{length}");
        assert!(trace.read("x").is_err() && trace.read_bytes("x").is_err(), "shorter since it was opened");
    }
    std::fs::remove_file(&part).expect("removed");
    assert!(matches!(Trace::open(folder.path()), Err(TraceError::Io { .. })));
    for length in [u64::MAX, 1 << 40, 100] {
        std::fs::write(&part, [&length.to_le_bytes()[..], b"{}"].concat()).expect("written");
        let message = Trace::open(&part).expect_err("a header beyond the file").to_string();
        assert!(message.contains("header length: expected at most 2 bytes"), "{message}");
    }
}

#[test]
fn manifests_that_lie_are_refused() {
    let folder = folder();
    let mut writer = TraceWriter::create(folder.path(), metadata()).expect("created");
    writer.add("x", &[2], &[1.0, 2.0]).expect("added");
    writer.add("second", &[1], &[3.0]).expect("added");
    writer.finish().expect("finished");
    let path = folder.path().join(MANIFEST);
    let good = std::fs::read_to_string(&path).expect("read");
    let refuse = |from: &str, to: &str, says: &str| {
        let bad = good.replacen(from, to, 1);
        assert_ne!(good, bad);
        std::fs::write(&path, bad).expect("written");
        let message = Trace::open(folder.path()).expect_err(to).to_string();
        assert!(message.contains(says), "{message}");
    };
    refuse("\"complete\": true", "\"complete\": false", "a finished trace");
    refuse("\"version\": 1", "\"version\": 3", "version: expected 1 or 2, found 3");
    refuse("steadyhand-trace", "other", "format: expected steadyhand-trace, found other");
    refuse("\"F32\"", "\"I32\"", "expected I32 [2], as manifest.json says, found F32 [2]");
    refuse("\"F32\"", "\"F33\"", "manifest");
    refuse("\"name\": \"x\"", "\"name\": \"y\"", "tensor `y`");
    refuse("part-00000", "../part-00000", "a file name in this folder");
    refuse("part-00000", "/part-00000", "a file name in this folder");
    let (start, end) = (good.find("    {").expect("a tensor"), good.find("    },").expect("a second one"));
    let listed = &good[start..end + "    },".len()];
    refuse(listed, &format!("{listed}{listed}"), "expected once");
    refuse(listed, "", "tensor `x` of part-00000.safetensors: expected an entry, found none");
    std::fs::write(&path, [0xff, 0x00, 0x7b]).expect("written");
    assert!(matches!(Trace::open(folder.path()), Err(TraceError::Json { .. })));
}

/// safetensors files of others carry what they say of themselves in their headers.
#[test]
fn without_a_manifest_the_headers_say_what_the_trace_is() {
    let folder = folder();
    let write = |name: &str, header: &str| {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
        std::fs::write(folder.path().join(name), bytes).expect("written");
    };
    let tensor = r#""dtype": "F32", "shape": [1], "data_offsets": [0, 4]"#;
    let said = r#"{"precision": "bf16", "count": 3}"#;
    write("a.safetensors", &format!(r#"{{"__metadata__": {said}, "a": {{{tensor}}}}}"#));
    write("b.safetensors", &format!(r#"{{"__metadata__": null, "b": {{{tensor}}}}}"#));
    let trace = Trace::open(folder.path()).expect("a trace");
    let expected = BTreeMap::from([("precision".to_owned(), "bf16".to_owned())]);
    assert_eq!((trace.metadata(), trace.names().len()), (&expected, 2));

    let other = r#"{"precision": "fp16"}"#;
    write("b.safetensors", &format!(r#"{{"__metadata__": {other}, "b": {{{tensor}}}}}"#));
    let message = Trace::open(folder.path()).expect_err("a contradiction").to_string();
    assert!(message.contains("b.safetensors: metadata `precision`: expected \"bf16\""), "{message}");
}

#[test]
fn a_writer_refuses_what_would_not_read_back() {
    let folder = folder();
    let mut writer = TraceWriter::create(folder.path().join("deep/er"), metadata()).expect("created");
    writer.add("x", &[1], &[1.0]).expect("added");
    assert!(writer.add("x", &[1], &[1.0]).expect_err("twice").to_string().contains("unique"));
    assert!(writer.add("__metadata__", &[1], &[1.0]).is_err());
    let message = writer.add("y", &[3], &[1.0]).expect_err("short").to_string();
    assert!(message.contains("tensor `y`, F32 [3]: expected 12 bytes, found 4 bytes"), "{message}");
    assert!(writer.add("y", &[usize::MAX, 2], &[1.0]).is_err());
    assert!(writer.add_bytes("y", Dtype::F64, &[1], &[0; 7]).is_err());
    let second = TraceWriter::create(folder.path().join("deep/er"), metadata());
    assert!(second.expect_err("occupied").to_string().contains("no trace in it yet"));
    drop(writer);
    let message = Trace::open(folder.path().join("deep/er")).expect_err("unfinished").to_string();
    assert!(message.contains("a finished trace"), "{message}");
    let message = Trace::open(folder.path()).expect_err("nothing there").to_string();
    assert!(message.contains("expected manifest.json or *.safetensors files, found neither"), "{message}");
    assert!(matches!(Trace::open(folder.path().join("absent")), Err(TraceError::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_trace_reads_back(
        tensors in prop::collection::btree_map(
            "\\PC{0,12}",
            (0usize..15, prop::collection::vec(0usize..4, 0..4)),
            0..12,
        ),
        part_bytes in 0usize..2000,
        seed: u8,
    ) {
        let folder = folder();
        let mut writer =
            TraceWriter::with_part_bytes(folder.path(), metadata(), part_bytes).expect("created");
        let mut written = Vec::new();
        for (name, (dtype, shape)) in tensors {
            let dtype = Dtype::ALL[dtype];
            let count: usize = shape.iter().product();
            let byte = |at: usize| (at as u8).wrapping_mul(31).wrapping_add(seed);
            let bytes: Vec<u8> = (0..count * dtype.size()).map(byte).collect();
            writer.add_bytes(&name, dtype, &shape, &bytes).expect("added");
            written.push((name, dtype, shape, bytes));
        }
        writer.finish().expect("finished");
        let trace = Trace::open(folder.path()).expect("opened");
        let names: Vec<&str> = written.iter().map(|tensor| tensor.0.as_str()).collect();
        prop_assert_eq!(trace.names().collect::<Vec<_>>(), names);
        for (name, dtype, shape, bytes) in &written {
            let entry = trace.entry(name).expect("there");
            prop_assert_eq!((entry.dtype, &entry.shape), (*dtype, shape));
            prop_assert_eq!(&trace.read_bytes(name).expect("read"), bytes);
            if *dtype != Dtype::Bool {
                prop_assert_eq!(trace.read(name).expect("read").len(), entry.value_count());
            }
        }
    }

    #[test]
    fn junk_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u64..200) {
        let folder = folder();
        let path = folder.path().join("junk.safetensors");
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        std::fs::write(&path, &bytes).expect("written");
        let _ = Trace::open(&path);
    }
}

/// What was committed is there although the writer never finished, and more may follow; each commit adds to the list of
/// tensors what is new alone.
#[test]
fn a_committed_trace_is_whole_without_an_end() {
    let dir = folder();
    let path = dir.path().join("trace");
    let (manifest, journal) = (path.join("manifest.json"), path.join("manifest.jsonl"));
    let mut writer = TraceWriter::create(&path, BTreeMap::new()).expect("created");
    let mut lengths = Vec::new();
    for (count, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        writer.add(name, &[1], &[count as f32]).expect("added");
        writer.commit().expect("committed");
        let trace = Trace::open(&path).expect("whole");
        assert_eq!(trace.names().len(), count + 1);
        assert_eq!(trace.read(name).expect("read"), [count as f32]);
        let length = |file: &Path| std::fs::metadata(file).expect("a file").len();
        lengths.push((length(&manifest), length(&journal)));
    }
    let added: Vec<u64> = lengths.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    assert!(lengths.iter().all(|(manifest, _)| *manifest == lengths[0].0), "{lengths:?}");
    assert!(added[0] > 0 && added.iter().all(|bytes| *bytes == added[0]), "{lengths:?}");
    // Who knows of no list that goes on is not to take its beginning for all of it.
    assert!(std::fs::read_to_string(&manifest).expect("text").contains("\"version\": 2"));
    // A crash in the middle of a line.
    let whole = std::fs::read(&journal).expect("read");
    std::fs::write(&journal, &whole[..whole.len() - 3]).expect("cut");
    assert_eq!(Trace::open(&path).expect("without the last").names().collect::<Vec<_>>(), ["a", "b", "c"]);
    // Damage elsewhere is told.
    std::fs::write(&journal, [&b"["[..], &whole].concat()).expect("damaged");
    assert!(Trace::open(&path).expect_err("damaged").to_string().contains("manifest.jsonl: manifest: "));
    let aside = dir.path().join("aside");
    std::fs::rename(&journal, &aside).expect("moved");
    assert_eq!(Trace::open(&path).expect("the first").names().len(), 1);
    std::fs::rename(&aside, &journal).expect("moved back");
    std::fs::write(&journal, &whole).expect("mended");
    writer.add("e", &[1], &[4.0]).expect("added");
    writer.finish().expect("finished");
    assert_eq!(Trace::open(&path).expect("whole").names().len(), 5);
}

/// What removed a folder for temporary files meant it to stay away.
#[test]
fn a_parent_that_is_gone_is_not_made_again() {
    let dir = folder();
    let parent = dir.path().join("scratch");
    let missing = TraceWriter::create_in(&parent, "0", BTreeMap::new());
    assert!(missing.is_err() && !parent.exists());
    std::fs::create_dir(&parent).expect("made");
    let mut writer = TraceWriter::create_in(&parent, "0", BTreeMap::new()).expect("created");
    writer.add("a", &[1], &[1.0]).expect("added");
    writer.finish().expect("finished");
    assert_eq!(Trace::open(parent.join("0")).expect("whole").read("a").expect("read"), [1.0]);
    assert!(TraceWriter::create_in(&parent, "0", BTreeMap::new()).is_err());
}
