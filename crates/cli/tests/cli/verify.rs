//! `steady verify`: goldens hold, and a change that matters does not.

use crate::support::{copy, last_line, numbers, read_tensors, repo, verify, write_tensors};

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

#[test]
fn a_folder_without_fixtures_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    verify(&[folder.path()], &[]).refuses(&[folder.path().to_str().unwrap(), "expected a fixture folder"]);
    let missing = folder.path().join("none");
    verify(&[&missing], &[]).refuses(&[missing.to_str().unwrap()]);
}
