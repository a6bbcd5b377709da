//! `steady verify`: goldens hold, and a change that matters does not.

use crate::support::{Run, copy, read_tensors, repo, shared, steady, write_tensors};
use std::path::Path;

/// Runs `steady verify` on fixtures of the repository.
fn verify(fixtures: &[&Path], options: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = fixtures.iter().map(|path| path.as_os_str());
    let options = options.iter().map(std::ffi::OsStr::new);
    steady(folder.path(), ["verify".as_ref()].into_iter().chain(fixtures).chain(options))
}

fn last_line(run: &Run) -> &str {
    run.stdout.trim_end().lines().last().unwrap()
}

#[test]
fn model_goldens_and_the_demo_hold() {
    let (golden, demo) = (repo("tests/fixtures/golden"), repo("tests/fixtures/demo_expected"));
    for precision in ["f32", "bf16"] {
        let run = verify(&[&golden, &demo], &["--precision", precision]).succeeds();
        for fixture in ["one_view", "two_views", "mixed_shapes", "demo_expected"] {
            let line = run.stdout.lines().find(|line| line.starts_with(&format!("{fixture}: "))).unwrap();
            let [held, of] = numbers(line);
            assert!(held == of && held > 0, "{precision}: {line}");
        }
        assert!(last_line(&run).starts_with("worst relative L2"), "{}", run.stdout);
        assert!(!run.stdout.contains("FAILED"));
    }
}

/// The two numbers of `NAME: 3 of 4 comparisons hold`.
fn numbers(line: &str) -> [usize; 2] {
    let words: Vec<&str> = line.split(' ').collect();
    [words[1], words[3]].map(|word| word.parse().unwrap())
}

#[test]
fn processor_goldens_hold() {
    let Some(tokenizer) = shared("processor_goldens_hold", "tokenizer/eagle") else { return };
    let goldens = repo("tests/fixtures/golden_processor");
    let run = verify(&[&goldens], &["--tokenizer", tokenizer.to_str().unwrap()]).succeeds();
    let held = run.stdout.lines().filter(|line| line.ends_with("comparisons hold")).map(numbers);
    let held: Vec<[usize; 2]> = held.collect();
    assert!(held.len() == 7 && held.iter().all(|[held, of]| held == of && *held >= 6), "{}", run.stdout);
    assert!(last_line(&run).starts_with("worst relative L2"), "{}", run.stdout);
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
