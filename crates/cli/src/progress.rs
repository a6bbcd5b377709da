//! How far a command is, on stderr: a bar where that is a terminal, else a plain line every now and then.

use crate::output::note;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two plain lines. What takes less says nothing.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The progress of one piece of work; several threads may share it. It disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    what: String,
    unit: &'static str,
    done: u64,
    total: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Of `total` pieces, which are called `unit`, such as `inferences`; `what` is being done.
    pub fn new(what: &str, unit: &'static str, total: u64) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let style = format!("{{msg}} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{eta}} left");
            let style = ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
            Shown::Bar(bar.with_message(what.to_owned()))
        } else {
            let now = Instant::now();
            let lines = Lines { what: what.to_owned(), unit, done: 0, total, started: now, told: now };
            Shown::Lines(Mutex::new(lines))
        };
        Progress { shown }
    }

    /// Of one piece whose length nobody knows: the time that passed is shown.
    pub fn of_unknown_length(what: &str) -> Self {
        let progress = Progress::new(what, "steps", 0);
        if let Shown::Bar(bar) = &progress.shown {
            let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        progress
    }

    /// One piece more is done.
    pub fn inc(&self) {
        self.advance(1);
    }

    /// So many pieces more are done.
    pub fn advance(&self, pieces: u64) {
        match &self.shown {
            Shown::Bar(bar) => bar.inc(pieces),
            Shown::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.done += pieces;
                lines.tell();
            }
        }
    }

    /// So many pieces of so many are done.
    pub fn reach(&self, done: u64, total: u64) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Shown::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                (lines.done, lines.total) = (done, total);
                lines.tell();
            }
        }
    }

    /// Another piece of work begins.
    pub fn phase(&self, what: &str, total: u64) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.reset();
                bar.set_length(total);
                bar.set_message(what.to_owned());
            }
            Shown::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                (lines.what, lines.done, lines.total) = (what.to_owned(), 0, total);
                lines.started = Instant::now();
            }
        }
    }

    /// What is being done now, of the same pieces.
    pub fn now(&self, what: String) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(what),
            Shown::Lines(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).what = what,
        }
    }

    /// Prints without disturbing the bar.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(print),
            Shown::Lines(_) => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn tell(&mut self) {
        if self.told.elapsed() < BETWEEN_LINES {
            return;
        }
        self.told = Instant::now();
        note!("{}", self.line(self.started.elapsed()));
    }

    fn line(&self, elapsed: Duration) -> String {
        let Lines { what, unit, done, total, .. } = self;
        let left = match done {
            0 => String::new(),
            _ => {
                let seconds = elapsed.as_secs_f64() / *done as f64 * total.saturating_sub(*done) as f64;
                format!(", about {} left", roughly(seconds))
            }
        };
        format!("{what}: {done} of {total} {unit}{left}")
    }
}

/// A time in the largest unit that gives at least two of it.
pub fn roughly(seconds: f64) -> String {
    match seconds {
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left() {
        let now = Instant::now();
        let mut lines = Lines {
            what: "evaluating".into(),
            unit: "inferences",
            done: 0,
            total: 90,
            started: now,
            told: now,
        };
        assert_eq!(lines.line(Duration::from_secs(10)), "evaluating: 0 of 90 inferences");
        lines.done = 30;
        assert_eq!(lines.line(Duration::from_secs(100)), "evaluating: 30 of 90 inferences, about 3 min left");
        assert_eq!([0.4, 119.0, 120.0, 7300.0].map(roughly), ["0 s", "119 s", "2 min", "2 h"]);
    }
}
