//! Readers of other crates that panic on some files.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a reader; None where it panicked. What it was making is dropped, so that nothing half done is seen.
///
/// The process's panic hook is still called: a program that wants no word of it asks [`is_guarded`] there.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(outer);
    result.ok()
}

/// Whether this thread is within [`guarded`].
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_value() {
        assert_eq!(guarded(|| (is_guarded(), guarded(|| 1))), Some((true, Some(1))));
        assert_eq!(guarded(|| [0][std::hint::black_box(1)]), None);
        assert!(!is_guarded());
    }
}
