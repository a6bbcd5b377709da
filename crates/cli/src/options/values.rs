//! How values are written on the command line.

use clap::{Args, FromArgMatches};
use std::ffi::OsString;

/// Reads `HEIGHTxWIDTH`.
pub fn image_size(text: &str) -> Result<[usize; 2], String> {
    let sizes = text.split_once('x').and_then(|(h, w)| Some([h.parse().ok()?, w.parse().ok()?]));
    sizes.ok_or_else(|| "expected HEIGHTxWIDTH, such as 252x252".to_owned())
}

/// The options of a command as its words give them, for a command that runs another one.
///
/// # Errors
/// Words that the command does not take.
pub fn words_of<A: Args + FromArgMatches>(
    words: impl IntoIterator<Item = OsString>,
) -> clap::error::Result<A> {
    let command = A::augment_args(clap::Command::new("steady").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(words)?)
}
