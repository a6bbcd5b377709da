//! Ctrl-C and SIGTERM: a command that can end early with what it has done does so; every other one ends at once. Either
//! way nothing is left behind in folders for temporary files.

use crate::output::note;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Whether the command at hand asks [`signal`] itself between two pieces of its work.
static GENTLE: AtomicBool = AtomicBool::new(false);
/// The signal that came; none is 0.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Starts to listen. Called once, before the command.
///
/// # Errors
/// The system allows no handler.
#[cfg(unix)]
pub fn listen() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::{iterator::Signals, low_level::emulate_default_handler};
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let first = CAME.swap(signal, Ordering::SeqCst) == 0;
            if first && GENTLE.load(Ordering::SeqCst) {
                note!("stopping after the inference at hand; once more stops at once");
                continue;
            }
            let _removed = steadyhand_files::scratch::remove_all();
            // Ends as if nobody had listened, so that a shell stops its loop too.
            if emulate_default_handler(signal).is_err() {
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Elsewhere the system's own way of ending stays.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn listen() -> std::io::Result<()> {
    Ok(())
}

/// From now on the first signal is left to whoever asks for it.
pub fn end_gently() {
    GENTLE.store(true, Ordering::SeqCst);
}

/// The signal that came, if any.
pub fn signal() -> Option<i32> {
    Some(CAME.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}
