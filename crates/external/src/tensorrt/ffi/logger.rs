//! What the library has to say: an `ILogger` that keeps the errors, and writes everything to a file that asks for it.
//!
//! One for the process: the library uses the logger of the object that was made first for all of them.

use std::ffi::{CStr, c_char, c_void};
use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

/// `ILogger::Severity::kWARNING`; errors are below it, information above.
const WARNING: i32 = 2;
/// Most messages kept: a library may repeat itself.
const MOST: usize = 64;

/// `ILogger::Severity` by number.
const SEVERITIES: [&str; 5] = ["internal error", "error", "warning", "info", "verbose"];

/// What was said and not yet asked for.
static SAID: Mutex<Said> = Mutex::new(Said { file: None, errors: Vec::new(), warning: None });

struct Said {
    /// Where everything goes, with the time since when.
    file: Option<(Box<dyn Write + Send>, Instant)>,
    errors: Vec<String>,
    /// The last one: libraries give some reasons as warnings, such as that there is no driver, or why an implementation
    /// was left out before there was none.
    warning: Option<String>,
}

/// Receives messages from the library, on any of its threads: an object without fields of its own.
#[repr(C)]
struct Logger<T> {
    /// Address of a table's first function, where the library expects it.
    _table: *const T,
}

// SAFETY: the tables are never written.
unsafe impl<T> Sync for Logger<T> {}

/// Of libraries that ask an interface first what it is.
static VERSIONED: Logger<VersionedFunctions> = Logger { _table: &raw const VERSIONED_TABLE.functions };
/// Of the others.
static PLAIN: Logger<Functions> = Logger { _table: &raw const TABLE.functions };

/// A table of virtual functions, with what stands before it.
#[repr(C)]
struct Table<T> {
    offset_to_top: isize,
    type_information: *const c_void,
    functions: T,
}

/// Those of `ILogger`.
#[repr(C)]
struct Functions {
    log: unsafe extern "C" fn(*const c_void, i32, *const c_char),
    destroy: extern "C" fn(*const c_void),
    destroy_and_free: extern "C" fn(*const c_void),
}

/// Those of `ILogger` where it is an `IVersionedInterface`.
#[repr(C)]
struct VersionedFunctions {
    language: extern "C" fn(*const c_void) -> i32,
    interface: extern "C" fn(*const c_void) -> Interface,
    destroy: extern "C" fn(*const c_void),
    destroy_and_free: extern "C" fn(*const c_void),
    log: unsafe extern "C" fn(*const c_void, i32, *const c_char),
}

/// `InterfaceInfo`.
#[repr(C)]
struct Interface {
    kind: *const c_char,
    major: i32,
    minor: i32,
}

// SAFETY: the tables and what they point to are never written.
unsafe impl<T> Sync for Table<T> {}

static VERSIONED_TABLE: Table<VersionedFunctions> = Table {
    offset_to_top: 0,
    type_information: std::ptr::null(),
    functions: VersionedFunctions { language, interface, destroy: keep, destroy_and_free: keep, log },
};

static TABLE: Table<Functions> = Table {
    offset_to_top: 0,
    type_information: std::ptr::null(),
    functions: Functions { log, destroy: keep, destroy_and_free: keep },
};

/// `APILanguage::kCPP`: the interface is implemented in native code.
extern "C" fn language(_: *const c_void) -> i32 {
    0
}

extern "C" fn interface(_: *const c_void) -> Interface {
    Interface { kind: c"ILogger".as_ptr(), major: 1, minor: 0 }
}

/// The logger is Rust's to free.
extern "C" fn keep(_: *const c_void) {}

/// # Safety
/// `text` is null or a string that ends in a zero.
unsafe extern "C" fn log(_: *const c_void, severity: i32, text: *const c_char) {
    if text.is_null() {
        return;
    }
    // SAFETY: the library calls with a string of its own.
    let text = unsafe { CStr::from_ptr(text) };
    let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let text = text.to_string_lossy().trim().to_owned();
    if let Some((file, since)) = &mut said.file {
        let of = SEVERITIES.get(usize::try_from(severity).unwrap_or(usize::MAX)).unwrap_or(&"other");
        // A full disk must not end a build.
        drop(writeln!(file, "{:.3} s, {of}: {text}", since.elapsed().as_secs_f64()));
    }
    if severity > WARNING {
        return;
    }
    if severity == WARNING {
        said.warning = Some(text);
    } else if said.errors.len() < MOST && !said.errors.contains(&text) {
        said.errors.push(text);
    }
}

/// The logger as a library takes it, with the table that it expects.
pub(super) fn address(versioned: bool) -> *mut c_void {
    match versioned {
        true => (&raw const VERSIONED).cast_mut().cast(),
        false => (&raw const PLAIN).cast_mut().cast(),
    }
}

/// Writes everything that is said from now on to this file, each with the seconds since then.
pub(in crate::tensorrt) fn write_to(file: Box<dyn Write + Send>) {
    let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    said.file = Some((file, Instant::now()));
}

/// The errors since the last call, or `otherwise`, each with the last warning.
pub(super) fn errors(otherwise: &str) -> String {
    let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (errors, warning) = (std::mem::take(&mut said.errors), said.warning.take());
    let errors = if errors.is_empty() { otherwise.to_owned() } else { errors.join("; ") };
    match warning {
        Some(warning) => format!("{errors}: {warning}"),
        None => errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_once_and_of_warnings_the_last() {
        let say = |severity, text: &CStr| {
            // SAFETY: a string.
            unsafe { (TABLE.functions.log)(address(false), severity, text.as_ptr()) };
        };
        say(1, c"first");
        say(2, c"a warning");
        say(3, c"information");
        say(0, c"second\n");
        say(1, c"first");
        assert_eq!(errors("nothing"), "first; second: a warning");
        assert_eq!(errors("nothing"), "nothing");
        let file = tempfile::NamedTempFile::new().expect("a file");
        write_to(Box::new(file.reopen().expect("the same file")));
        say(4, c"all of it\n");
        say(9, c"whatever");
        let written = std::fs::read_to_string(file.path()).expect("what was written");
        let said: Vec<&str> =
            written.lines().filter_map(|line| line.split_once(", ")).map(|(_, said)| said).collect();
        assert_eq!(said, ["verbose: all of it", "other: whatever"]);
        say(2, c"another");
        say(2, c"no driver");
        assert_eq!(errors("no builder"), "no builder: no driver");
        assert_eq!(errors("nothing"), "nothing");
    }
}
