//! `steady verify`: goldens hold, and a change that matters does not.

use crate::support::{copy, json, last_line, number, numbers, read_tensors, repo, verify, write_tensors};
use serde_json::Value;
use std::path::Path;

#[test]
fn model_goldens_and_the_demo_hold() {
    let (golden, demo) = (repo("tests/fixtures/golden"), repo("tests/fixtures/demo_expected"));
    let n1_7 = repo("tests/fixtures/golden_n1d7");
    for precision in ["f32", "bf16"] {
        let run = verify(&[&golden, &n1_7, &demo], &["--precision", precision]).succeeds();
        let held: Vec<&str> = run.stdout.lines().filter(|line| line.ends_with("comparisons hold")).collect();
        let names = ["mixed_shapes", "one_view", "two_views", "mixed_shapes", "demo_expected"];
        assert_eq!(held.len(), names.len(), "{precision}: {held:?}");
        for (line, name) in held.into_iter().zip(names) {
            let [held, of] = numbers(line);
            assert!(line.starts_with(&format!("{name}: ")) && held == of && held > 0, "{precision}: {line}");
        }
        assert!(last_line(&run).starts_with("worst relative L2"), "{}", run.stdout);
        assert!(!run.stdout.contains("FAILED"));
    }
}

#[test]
fn a_processor_golden_without_a_tokenizer_says_so() {
    let golden = repo("tests/fixtures/golden_processor/minmax_absolute");
    verify(&[&golden], &[]).refuses(&["minmax_absolute", "tokenizer.json", "--tokenizer"]);
}

#[test]
fn a_limit_below_rounding_fails() {
    let golden = repo("tests/fixtures/golden/one_view");
    let run = verify(&[&golden], &["--max-relative-l2", "1e-9"]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("FAILED") && run.stderr.contains("above their limit"), "{run:#?}");
    assert!(last_line(&run).starts_with("worst relative L2"), "{}", run.stdout);
}

#[test]
fn one_changed_weight_byte_fails() {
    let folder = tempfile::tempdir().unwrap();
    copy(&repo("tests/fixtures/golden/one_view"), folder.path());
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    let (_, _, bytes) = tensors.get_mut("backbone.model.mlp1.0.weight").unwrap();
    bytes[0] ^= 0x40; // The upper half of the mantissa of the first bf16 value.
    write_tensors(&path, &tensors);
    let run = verify(&[folder.path()], &[]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("FAILED"), "{run:#?}");
}

/// The report of a verification that ends with `code`.
fn report(fixtures: &[&Path], options: &[&str], code: i32) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/verify.json");
    let run = verify(fixtures, &[options, &["--json", path.to_str().unwrap()]].concat());
    assert_eq!(run.code, code, "{run:#?}");
    json(&path)
}

#[test]
fn the_report_has_every_comparison_and_what_it_was_made_with() {
    let (golden, demo) = (repo("tests/fixtures/golden"), repo("tests/fixtures/demo_expected"));
    let found = report(&[&golden, &demo], &["--precision", "bf16"], 0);
    assert_eq!(found["verdict"], "holds");
    let fixtures = found["fixtures"].as_array().unwrap();
    let names = ["mixed_shapes", "one_view", "two_views", "demo_expected"];
    assert!(fixtures.iter().map(|fixture| &fixture["name"]).eq(names), "{fixtures:#?}");
    for fixture in fixtures {
        assert_eq!((&fixture["engine"], &fixture["precision"]), (&"cpu".into(), &"bf16".into()));
        let hash = fixture["checkpoint"].as_str().unwrap();
        assert!(hash.len() == 16 && hash.chars().all(|digit| digit.is_ascii_hexdigit()), "{hash}");
        assert_eq!(fixture["holding"], fixture["comparisons"]);
    }
    let comparisons = found["comparisons"].as_array().unwrap();
    let total: u64 = fixtures.iter().map(|fixture| fixture["comparisons"].as_u64().unwrap()).sum();
    assert_eq!(comparisons.len() as u64, total);
    assert!(
        comparisons.iter().all(|row| row["holds"] == true && number(&row["found"]) <= number(&row["limit"]))
    );
    // Of a tap that several fixtures have, the one nearest its limit.
    let strain = |row: &Value| number(&row["found"]) / number(&row["limit"]);
    let of = |row: &&Value| row["tap"] == "action_pred";
    let worst = comparisons.iter().filter(of).map(strain).fold(0.0, f64::max);
    assert!(comparisons.iter().filter(of).count() > 1);
    let taps = found["taps"].as_array().unwrap();
    assert_eq!(taps.iter().filter(of).map(strain).collect::<Vec<_>>(), [worst]);
    let farthest = comparisons.iter().filter(|row| row["measure"] == "relative_l2");
    let farthest = farthest.map(|row| number(&row["found"])).fold(0.0, f64::max);
    assert_eq!(number(&found["worst"]["found"]), farthest);
}

#[test]
fn the_report_of_what_does_not_hold_says_so() {
    let golden = repo("tests/fixtures/golden/one_view");
    let found = report(&[&golden], &["--max-relative-l2", "1e-9"], 1);
    assert_eq!(found["verdict"], "fails");
    assert_eq!(found["comparisons"][0]["holds"], false);
    assert_eq!(found["fixtures"][0]["kind"], "model");
    // Another checkpoint has another hash.
    let other = report(&[&repo("tests/fixtures/golden/two_views")], &[], 0);
    assert_ne!(found["fixtures"][0]["checkpoint"], other["fixtures"][0]["checkpoint"]);
}

#[test]
fn a_report_replaces_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.json");
    std::fs::write(&path, "{}").unwrap();
    let golden = repo("tests/fixtures/golden/one_view");
    let words = ["--json", path.to_str().unwrap()];
    verify(&[&golden], &words).refuses(&["notes.json", "no output of steady"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"{}");
}

#[test]
fn a_folder_without_fixtures_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    verify(&[folder.path()], &[]).refuses(&[folder.path().to_str().unwrap(), "expected a fixture folder"]);
    let missing = folder.path().join("none");
    verify(&[&missing], &[]).refuses(&[missing.to_str().unwrap()]);
}
