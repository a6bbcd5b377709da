//! FFmpeg's own program as a child process: what the decoders built in do not decode comes through its pipe,
//! frame by frame, as it gives them.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, OnceLock},
    thread::JoinHandle,
};

use steadyhand_files::Kind;

use super::{Frame, MAX_PIXELS};
use crate::{Error, Result};

/// Bytes kept of what the program complains.
const MAX_COMPLAINT: u64 = 1 << 12;
/// The most frames of a listed file: six days at 30 a second.
const MAX_FRAMES: usize = 1 << 24;

/// Frames that are read over rather than to start again nearer to the one wanted.
const MAX_READ_OVER: usize = 256;
/// Pictures back that a picture may refer to: 16 in H.264 and HEVC, 8 in AV1 and VP9, and those shown out of order.
const REFERENCES: usize = 32;
/// Seconds back from which on a picture is decoded, at least.
const REFERRED_SECONDS: f64 = 2.0;

/// The program on `PATH`.
#[derive(Debug)]
pub(super) struct Program {
    /// Whether it is of version 5.1 or later, which renamed an option.
    renamed: bool,
}

impl Program {
    /// The program, looked for once in a process.
    pub(super) fn find() -> Option<&'static Program> {
        static FOUND: OnceLock<Option<Program>> = OnceLock::new();
        let look = || {
            let output = Command::new("ffmpeg").arg("-version").stdin(Stdio::null()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let version = text.strip_prefix("ffmpeg version ")?;
            // Builds from the repository have no number; they are newer.
            let mut numbers = version.trim_start_matches('n').split(|c: char| !c.is_ascii_digit());
            let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
            let renamed = match (number(), number()) {
                (Some(major), minor) => (major, minor.unwrap_or(0)) >= (5, 1),
                _ => true,
            };
            Some(Program { renamed })
        };
        FOUND.get_or_init(look).as_ref()
    }

    /// A command that reads the first video of `path`, every frame as it is: none dropped, doubled or turned. Where
    /// `from` is a time in seconds, it starts at a key picture of about that time or before.
    /// Damaged pictures end it; with more threads than one they are noticed only sometimes. Whatever the file says,
    /// nothing but files is opened.
    fn command(&self, path: &Path, demuxer: &str, from: Option<f64>) -> Command {
        let mut file = OsString::from("file:");
        file.push(path);
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-v", "error", "-xerror", "-protocol_whitelist", "file"]);
        command.args(["-threads", "1", "-noautorotate", "-copyts", "-f", demuxer]);
        if let Some(from) = from {
            // The file's own times, and all that is decoded from there on.
            command.args(["-seek_timestamp", "1", "-noaccurate_seek", "-ss", &format!("{from:.6}")]);
        }
        command.arg("-i").arg(file).args(["-map", "0:v:0"]);
        command.args([if self.renamed { "-fps_mode" } else { "-vsync" }, "passthrough"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The program's name of a container that it reads for us.
pub(super) fn demuxer(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::WebM | Kind::Matroska => "matroska",
        Kind::Avi => "avi",
        Kind::Ogg => "ogg",
        Kind::Flash => "flv",
        Kind::MpegTransport => "mpegts",
        Kind::MpegProgram => "mpeg",
        Kind::WindowsMedia => "asf",
        _ => return None,
    })
}

/// Whether a file of a container is named as one.
pub(super) fn fits(kind: Kind, path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let named: &[&str] = match kind {
        Kind::WebM | Kind::Matroska => &["webm", "mkv"],
        Kind::Avi => &["avi"],
        Kind::Ogg => &["ogg", "ogv"],
        Kind::Flash => &["flv"],
        Kind::MpegTransport => &["ts", "mts", "m2ts"],
        Kind::MpegProgram => &["mpg", "mpeg", "vob"],
        Kind::WindowsMedia => &["wmv", "asf"],
        _ => &[],
    };
    named.contains(&extension.as_str())
}

/// The command that makes a file of it that the decoders built in read, nearly without loss.
pub(super) fn conversion(path: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let to = path.with_extension("h264.mp4");
    format!(
        "ffmpeg -i {} -map 0:v:0 -fps_mode passthrough -c:v libx264 -crf 1 -pix_fmt yuv420p {}",
        quoted(path),
        quoted(&to)
    )
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Presentation times of all frames, in seconds, ascending.
    pub(super) times: Vec<f64>,
}

/// Decodes a file without converting it, and notes when each frame is shown.
pub(super) fn list(program: &Program, path: &Path, demuxer: &str) -> Result<Listing> {
    listing(program.command(path, demuxer, None), path)
}

/// What a command gives whose output is not said yet.
fn listing(mut command: Command, path: &Path) -> Result<Listing> {
    // Times in the file's own unit.
    command.args(["-enc_time_base", "-1", "-c:v", "rawvideo", "-f", "framecrc", "-"]);
    let mut process = Process::start(command, path)?;
    let mut listing = Listing { width: 0, height: 0, times: Vec::new() };
    let mut unit = 0.0;
    let failed = |source| Error::Io { path: path.into(), source };
    for line in process.output.by_ref().lines() {
        let line = line.map_err(failed)?;
        if let Some(base) = line.strip_prefix("#tb 0: ").and_then(|base| base.split_once('/')) {
            unit = match (base.0.parse::<f64>(), base.1.parse::<f64>()) {
                (Ok(numerator), Ok(denominator)) if denominator > 0.0 => numerator / denominator,
                _ => 0.0,
            };
        } else if let Some((width, height)) =
            line.strip_prefix("#dimensions 0: ").and_then(|size| size.split_once('x'))
        {
            (listing.width, listing.height) = (width.parse().unwrap_or(0), height.parse().unwrap_or(0));
        } else if !line.starts_with('#') {
            // stream, decoding time, presentation time, duration, bytes, checksum
            let time = line.split(',').nth(2).and_then(|time| time.trim().parse::<i64>().ok());
            let time = time.filter(|_| listing.times.len() < MAX_FRAMES);
            listing
                .times
                .push(time.ok_or_else(|| process_error(path, 0, "its list of frames is odd"))? as f64 * unit);
        }
    }
    process.finish(path, listing.times.len())?;
    listing.times.sort_by(f64::total_cmp);
    Ok(listing)
}

/// The frames of a file, decoded in the order of presentation.
#[derive(Debug)]
pub(super) struct Ffmpeg {
    program: &'static Program,
    path: PathBuf,
    demuxer: &'static str,
    /// When each frame is shown, in seconds, ascending.
    times: Arc<[f64]>,
    process: Option<Process>,
    /// The frame that comes next out of the process.
    next: usize,
    /// The last frame given, which may be asked for again.
    last: Option<(usize, Frame)>,
}

impl Ffmpeg {
    /// A file that nothing was read of yet, whose frames are shown at `times`.
    pub(super) fn new(
        program: &'static Program,
        path: &Path,
        demuxer: &'static str,
        times: Arc<[f64]>,
    ) -> Ffmpeg {
        Ffmpeg { program, path: path.into(), demuxer, times, process: None, next: 0, last: None }
    }

    /// The frame at `frame`, counted from 0 in presentation order.
    pub(super) fn frame(&mut self, frame: usize) -> Result<Frame> {
        if let Some((_, last)) = self.last.as_ref().filter(|(index, _)| *index == frame) {
            return Ok(last.clone());
        }
        if self.process.is_none() || frame < self.next || frame - self.next > MAX_READ_OVER {
            // The one before gives its memory and its pipes back first.
            self.process = None;
            self.process = Some(self.start(frame)?);
            self.next = frame;
        }
        loop {
            let read = match &mut self.process {
                Some(process) => process.frame(&self.path, self.next),
                None => Err(process_error(&self.path, frame, "its process ended")),
            };
            if read.is_err() {
                self.process = None;
            }
            let read = read?;
            self.next += 1;
            if self.next > frame {
                self.last = Some((frame, read.clone()));
                return Ok(read);
            }
        }
    }

    /// A process whose first frame is `frame`; the ones before are decoded, but neither converted nor sent.
    fn start(&self, frame: usize) -> Result<Process> {
        let mut command = match self.seeking(frame) {
            Some(command) => command,
            None => {
                let mut command = self.program.command(&self.path, self.demuxer, None);
                if frame > 0 {
                    command.args(["-vf", &format!("select=gte(n\\,{frame})")]);
                }
                command
            }
        };
        command.args(["-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "-"]);
        Process::start(command, &self.path)
    }

    /// A command whose first frame is `frame`, which skips what comes long before; None where all must be decoded: near
    /// the start, or where the program, asked beforehand, does not find the frame at its time. (Formats differ in what
    /// their index tells, and damaged ones lie.)
    fn seeking(&self, frame: usize) -> Option<Command> {
        let at = |frame: usize| self.times.get(frame).copied();
        let (before, time) = (at(frame.checked_sub(1)?)?, at(frame)?);
        // Pictures right behind a key picture may need others from before it: the program starts a good deal earlier,
        // further than pictures refer to.
        let from = at(frame.checked_sub(REFERENCES)?)?.min(time - REFERRED_SECONDS);
        let threshold = before + (time - before) / 2.0;
        if !(from > 0.0 && before < threshold && threshold < time) {
            return None;
        }
        let command = || {
            let mut command = self.program.command(&self.path, self.demuxer, Some(from));
            command.args(["-vf", &format!("select=gte(t\\,{threshold:.9})")]);
            command
        };
        let mut first = command();
        first.args(["-frames:v", "1"]);
        let found = listing(first, &self.path).ok()?.times.first().copied()?;
        ((found - time).abs() < (time - before) / 4.0).then(command)
    }
}

/// A running program.
#[derive(Debug)]
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Reads what the program complains, so that it never waits for a reader.
    complaint: Option<JoinHandle<String>>,
}

impl Process {
    fn start(mut command: Command, path: &Path) -> Result<Process> {
        let failed = |source| Error::Io { path: path.into(), source };
        let mut child = command.spawn().map_err(failed)?;
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (output, mut errors) = pipes.ok_or_else(|| process_error(path, 0, "it has no pipes"))?;
        let read = move || {
            let mut text = Vec::new();
            // What cannot be read is not said.
            let _ = errors.by_ref().take(MAX_COMPLAINT).read_to_end(&mut text);
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        };
        let complaint = std::thread::Builder::new().name("ffmpeg".into()).spawn(read).map_err(failed)?;
        Ok(Process { child, output: BufReader::new(output), complaint: Some(complaint) })
    }

    /// The next frame, which is the file's `index`: a PPM image says its size.
    fn frame(&mut self, path: &Path, index: usize) -> Result<Frame> {
        let mut numbers = [0usize; 3];
        let mut magic = String::new();
        let mut word = |out: &mut String| -> std::io::Result<()> {
            out.clear();
            loop {
                let mut byte = [0];
                match self.output.read(&mut byte)? {
                    1 if !byte[0].is_ascii_whitespace() && out.len() < 20 => out.push(char::from(byte[0])),
                    _ => return Ok(()),
                }
            }
        };
        let mut header = || -> std::io::Result<bool> {
            word(&mut magic)?;
            let mut text = String::new();
            for number in &mut numbers {
                word(&mut text)?;
                *number = text.parse().unwrap_or(0);
            }
            Ok(magic == "P6" && numbers[2] == 255)
        };
        let [width, height, _] = match header() {
            Ok(true) => numbers,
            _ => {
                self.finish(path, index)?;
                return Err(process_error(path, index, "the file has fewer frames for it"));
            }
        };
        let pixels = width.checked_mul(height).filter(|n| (1..=MAX_PIXELS as usize).contains(n));
        let pixels = pixels.ok_or_else(|| process_error(path, index, "its frame is too large"))?;
        let mut rgb = vec![0; pixels * 3];
        if self.output.read_exact(&mut rgb).is_err() {
            self.finish(path, index)?;
            return Err(process_error(path, index, "its output ended within a frame"));
        }
        Ok(Frame { width, height, rgb })
    }

    /// Waits for the program, whose output ended at `frame`; it must not have complained.
    fn finish(&mut self, path: &Path, frame: usize) -> Result<()> {
        let status = self.child.wait().map_err(|source| Error::Io { path: path.into(), source })?;
        let complaint = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match status.success() {
            true => Ok(()),
            false => Err(process_error(
                path,
                frame,
                complaint.lines().next().unwrap_or("it failed without a word"),
            )),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.complaint.take() {
            let _ = thread.join();
        }
    }
}

fn process_error(path: &Path, frame: usize, reason: &str) -> Error {
    Error::Decode { path: path.into(), frame, codec: "FFmpeg's", reason: reason.to_owned() }
}
