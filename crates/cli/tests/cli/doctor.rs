//! `steady doctor`, on whatever machine the tests run.

use crate::support::{has_line, json, repo, steady};
use serde_json::Value;
use std::fs;

#[test]
fn what_is_missing_is_an_answer_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let run =
        steady(folder.path(), ["doctor", "--onnxruntime", "nowhere", "--json", "new/doctor.json"]).succeeds();
    for title in ["Machine", "GPUs", "Libraries", "Number formats", "Verdict"] {
        assert!(run.stdout.lines().any(|line| line == title), "no {title} in {}", run.stdout);
    }
    let found = json(&folder.path().join("new/doctor.json"));
    assert!(found["cpu"]["threads"].as_u64().unwrap() > 0);
    let library = |name: &str| -> Value {
        let libraries = found["libraries"].as_array().unwrap();
        libraries.iter().find(|library| library["name"] == name).expect(name).clone()
    };
    let runtime = library("ONNX Runtime");
    assert_eq!(runtime["found"], Value::Null);
    assert!(runtime["problem"]["what"].as_str().unwrap().contains("nowhere: nothing there"), "{runtime}");
    assert!(runtime["problem"]["mend"].as_str().unwrap().starts_with("pip install onnxruntime"), "{runtime}");

    let (verdict, policies) = (&found["verdict"], found["policies"].as_array().unwrap());
    assert_eq!(policies.len(), 6);
    let runs = |how: &str| policies.iter().filter(|policy| policy["runs"] == how).count();
    let usable = found["gpus"]["devices"].get(0).is_some_and(|device| device["problem"].is_null());
    match usable && library("NVRTC")["problem"].is_null() {
        true => {
            assert_eq!(verdict["engine"], "cuda");
            assert!(runs("native") >= 5, "{policies:?}");
        }
        false => {
            assert_eq!((&verdict["engine"], runs("emulated")), (&"cpu".into(), 6));
            assert!(policies.iter().all(|policy| policy["reason"].is_string()), "{policies:?}");
            assert!(
                run.stdout.contains("--engine auto emulates every precision on the CPU: "),
                "{}",
                run.stdout
            );
        }
    }
    // Something is always missing here: ONNX Runtime.
    assert!(verdict["next"].is_string());
}

#[test]
fn policies_are_checked_against_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let text = "base = \"mixed\"\n[[site]]\npattern = \"dit.block.3.norm1\"\naccumulate = \"fp16\"\n";
    fs::write(folder.path().join("narrow.toml"), text).unwrap();
    fs::write(folder.path().join("slip.toml"), text.replace("norm1", "norm9")).unwrap();
    let checkpoint = repo("demo/checkpoint").display().to_string();
    let options = ["doctor", "--checkpoint", &checkpoint, "--precision", "narrow.toml,slip.toml"];
    let run = steady(folder.path(), options).succeeds();
    has_line(&run, &["narrow.toml", "emulated", "`dit.block.3.norm1`:", "accumulate:", "fp16"]);
    has_line(&run, &["slip.toml", "refused", "`dit.block.3.norm9`:"]);
    assert!(run.stdout.contains("mend the precision slip.toml"), "{}", run.stdout);
    // Without a checkpoint the reference cannot run.
    steady(folder.path(), ["doctor", "--checkpoint", "nowhere"]).refuses(&["nowhere"]);
}
