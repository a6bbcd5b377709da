//! What is printed. `println!` panics where its reader has gone or the disk is full; here that is an error of the
//! command, and what is said beside its result is dropped where nobody can hear it.

use anyhow::{Context, Result};
use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;

/// Who is told what is said beside results, in place of standard error.
static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// Prints a line of a command's result.
macro_rules! say {
    ($($argument:tt)*) => { $crate::output::line(format_args!($($argument)*)) };
}

/// Says something beside a command's result, on standard error.
macro_rules! note {
    ($($argument:tt)*) => { $crate::output::aside(format_args!($($argument)*)) };
}

pub(crate) use {note, say};

/// What [`say!`] does.
///
/// # Errors
/// The line cannot be written.
pub fn line(text: Arguments) -> Result<()> {
    written(writeln!(std::io::stdout(), "{text}"))
}

/// Prints text that ends its last line itself.
///
/// # Errors
/// It cannot be written.
pub fn print(text: &str) -> Result<()> {
    written(std::io::stdout().lock().write_all(text.as_bytes()))
}

/// From now on `listener` is told what is said beside results. The first one stays.
pub fn tell(listener: fn(&str)) {
    let _ = LISTENER.set(listener);
}

/// What [`note!`] does.
pub fn aside(text: Arguments) {
    if let Some(listener) = LISTENER.get() {
        return listener(&text.to_string());
    }
    // Where standard error cannot be written, nothing is left to say it on. Colours are for terminals alone.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Writes what standard output still holds back.
///
/// # Errors
/// It cannot be written.
pub fn finish() -> Result<()> {
    written(std::io::stdout().flush())
}

fn written(result: std::io::Result<()>) -> Result<()> {
    result.context("standard output cannot be written")
}
