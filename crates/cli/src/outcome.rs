//! How a command ends, and what is said of an error.

use steadyhand_gr00t::Error;

/// What a command ends with when it did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done, and holds.
    Success,
    /// The work was done, and its result is a failure: a verification that does not hold.
    Failure,
    /// Some of the work could not be done, and was listed and left out.
    Partial,
    /// This signal ended the work early; what was done is kept.
    Interrupted(i32),
}

/// The error and its causes on one line. A cause that the error above it already quotes is left out.
pub fn describe(error: &anyhow::Error) -> String {
    error.chain().map(spelled).fold(String::new(), |line, cause| match line.ends_with(&cause) {
        true => line,
        false if line.is_empty() => cause,
        false => format!("{line}: {cause}"),
    })
}

/// An error's text. The library knows options by their names in Rust; here they are spelled as they are typed.
fn spelled(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(Error::Option { option, what }) => format!("--{}: {what}", option.replace('_', "-")),
        _ => error.to_string(),
    }
}

/// Whether the reader of what is printed went away, as `head` does.
pub fn reader_left(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}
