//! No option is read and then counts for nothing.

use crate::support::{repo, steady};

/// Command, option, and the words that must be refused, if any.
fn table() -> Vec<(String, String, Option<String>)> {
    let text = include_str!("options.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parts = lines.map(|line| line.split(" | ").collect::<Vec<_>>());
    let row = |parts: Vec<&str>| match parts[..] {
        [command, option, words] => {
            (command.to_owned(), option.to_owned(), Some(words.to_owned()).filter(|words| words != "always"))
        }
        _ => panic!("expected `command | option | words`, found {parts:?}"),
    };
    parts.map(row).collect()
}

#[test]
fn an_option_that_would_count_for_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["demo", "tests"] {
        #[cfg(unix)]
        std::os::unix::fs::symlink(repo(part), folder.path().join(part)).unwrap();
    }
    std::fs::write(folder.path().join("e.onnx"), b"").unwrap();
    for (command, option, words) in table() {
        let Some(words) = words else { continue };
        let args: Vec<&str> = command.split(' ').chain(words.split(' ')).collect();
        let run = steady(folder.path(), &args);
        assert_eq!(run.code, 2, "{args:?}: {run:#?}");
        // Of a Rust option's name in a library's error, the words.
        let named = [option.clone(), option.trim_start_matches('-').replace('-', "_")];
        assert!(
            named.iter().any(|name| run.stderr.contains(name)),
            "{args:?} does not name {option}: {run:#?}"
        );
    }
}
