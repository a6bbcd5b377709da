//! Servers in processes of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server, killed when it is dropped.
pub struct Served {
    pub port: u16,
    process: Child,
}

impl Served {
    /// `steady serve` of the demo's policy in `folder`.
    pub fn start(folder: &Path, options: &[&str]) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("steady"));
        command.args(["serve", "--port", "0", "--frame", "64x64"]).args(options);
        if !options.contains(&"--engine") {
            command.args(["--engine", "cpu"]);
        }
        command.current_dir(folder).env("TMPDIR", folder).env("XDG_CACHE_HOME", folder);
        Self::of(command, |line| line.split(':').nth(2)?.split(' ').next()?.parse().ok())
    }

    /// A server whose first line has its port.
    pub fn of(mut command: Command, port: impl Fn(&str) -> Option<u16>) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let port = port(&line).unwrap_or_else(|| panic!("a port, not {line:?}"));
        Served { port, process }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
