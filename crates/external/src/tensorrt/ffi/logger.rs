//! What the library has to say: an `ILogger` that keeps the errors.
//!
//! One for the process: the library uses the logger of the object that was made first for all of them.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;

/// `ILogger::Severity::kWARNING`; errors are below it, information above.
const WARNING: i32 = 2;
/// Most messages kept: a library may repeat itself.
const MOST: usize = 64;

/// Receives messages from the library, on any of its threads.
#[repr(C)]
struct Logger {
    /// Address of [`TABLE`]'s first function, where the library expects it.
    _table: *const Functions,
    errors: Mutex<Vec<String>>,
}

// SAFETY: the table is never written, and the errors are behind a lock.
unsafe impl Sync for Logger {}

static LOGGER: Logger = Logger { _table: &raw const TABLE.functions, errors: Mutex::new(Vec::new()) };

/// The table of virtual functions of `ILogger`, with what stands before it.
#[repr(C)]
struct Table {
    offset_to_top: isize,
    type_information: *const c_void,
    functions: Functions,
}

#[repr(C)]
struct Functions {
    language: extern "C" fn(*const Logger) -> i32,
    interface: extern "C" fn(*const Logger) -> Interface,
    destroy: extern "C" fn(*const Logger),
    destroy_and_free: extern "C" fn(*const Logger),
    log: unsafe extern "C" fn(*const Logger, i32, *const c_char),
}

/// `InterfaceInfo`.
#[repr(C)]
struct Interface {
    kind: *const c_char,
    major: i32,
    minor: i32,
}

// SAFETY: the table and what it points to are never written.
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    offset_to_top: 0,
    type_information: std::ptr::null(),
    functions: Functions { language, interface, destroy: keep, destroy_and_free: keep, log },
};

/// `APILanguage::kCPP`: the interface is implemented in native code.
extern "C" fn language(_: *const Logger) -> i32 {
    0
}

extern "C" fn interface(_: *const Logger) -> Interface {
    Interface { kind: c"ILogger".as_ptr(), major: 1, minor: 0 }
}

/// The logger is Rust's to free.
extern "C" fn keep(_: *const Logger) {}

/// # Safety
/// `logger` is a living [`Logger`], `text` a string that ends in a zero.
unsafe extern "C" fn log(logger: *const Logger, severity: i32, text: *const c_char) {
    if severity >= WARNING || text.is_null() {
        return;
    }
    // SAFETY: the library calls with the logger that it was given and with a string of its own.
    let (logger, text) = unsafe { (&*logger, CStr::from_ptr(text)) };
    let mut errors = logger.errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let text = text.to_string_lossy().trim().to_owned();
    if errors.len() < MOST && !errors.contains(&text) {
        errors.push(text);
    }
}

/// The logger as the library takes it.
pub(super) fn address() -> *mut c_void {
    (&raw const LOGGER).cast_mut().cast()
}

/// The errors since the last call, or `otherwise`.
pub(super) fn errors(otherwise: &str) -> String {
    let errors = std::mem::take(&mut *LOGGER.errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    if errors.is_empty() { otherwise.to_owned() } else { errors.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_once_and_the_rest_is_not() {
        let say = |severity, text: &CStr| {
            // SAFETY: the logger and a string.
            unsafe { (TABLE.functions.log)(&raw const LOGGER, severity, text.as_ptr()) };
        };
        say(1, c"first");
        say(2, c"a warning");
        say(3, c"information");
        say(0, c"second\n");
        say(1, c"first");
        assert_eq!(errors("nothing"), "first; second");
        assert_eq!(errors("nothing"), "nothing");
    }
}
