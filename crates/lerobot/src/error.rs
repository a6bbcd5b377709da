//! The crate's one error type: each variant names the file, the field, what was expected and what was found.

use std::path::{Path, PathBuf};

use steadyhand_files::Disguise;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a dataset, an episode or a video could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that the dataset promises does not exist.
    #[error("{path}: {what} is missing")]
    Missing {
        /// Where the file was expected.
        path: PathBuf,
        /// What the file is.
        what: String,
    },
    /// The operating system could not read a file.
    #[error("{path}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Something else stands in place of a file.
    #[error("{path}: expected {expected}, found {found}")]
    Disguised {
        /// The file.
        path: PathBuf,
        /// What the file should be.
        expected: String,
        /// What it is, with what to do.
        found: Disguise,
    },
    /// A file is not the JSON it should be.
    #[error("{path}{}: {reason}", line.map(|l| format!(":{l}")).unwrap_or_default())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line of a `.jsonl` file, counted from 1.
        line: Option<usize>,
        /// Why, with the field where one does not fit.
        reason: String,
        /// The parser's reason, with its place in the line or file.
        source: serde_json::Error,
    },
    /// A field or column has a value that does not fit.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field or column.
        field: String,
        /// What would have been right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An episode index outside the dataset.
    #[error("{path}: episode {index} does not exist: {}", range("the dataset has", "episodes", *len))]
    EpisodeRange {
        /// The dataset's folder.
        path: PathBuf,
        /// The index asked for.
        index: usize,
        /// The number of episodes.
        len: usize,
    },
    /// A step outside an episode.
    #[error("{path}: step {step} does not exist: {}", range("the episode has", "steps", *len))]
    StepRange {
        /// The episode's data file.
        path: PathBuf,
        /// The step asked for.
        step: usize,
        /// The number of steps.
        len: usize,
    },
    /// A name (of a group, view, language key or column) that the dataset does not have.
    #[error("{path}: no {what} named `{name}`; known: {}", list(known))]
    Unknown {
        /// The file or folder searched.
        path: PathBuf,
        /// What kind of name it is.
        what: String,
        /// The name asked for.
        name: String,
        /// The names that would have been right.
        known: Vec<String>,
    },
    /// A parquet file is damaged or of an unreadable kind.
    #[error("{path}: {column}: parquet cannot be read: {source}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The column, or `file` for the footer.
        column: String,
        /// The reader's reason.
        source: parquet::errors::ParquetError,
    },
    /// An mp4 file whose structure is damaged.
    #[error("{path}: damaged mp4: {field}: expected {expected}, found {found}")]
    Container {
        /// The file.
        path: PathBuf,
        /// The box or table.
        field: String,
        /// What would have been right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A format, codec or pixel layout that this crate does not read.
    #[error("{path}: unsupported {what}: {found} (supported: {supported})")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What kind of thing is unsupported.
        what: String,
        /// What the file has.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// A video that the decoder chosen does not decode.
    #[error("{path}: {found}: {why}; to convert the file: {command}")]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// Its codec, format or container.
        found: String,
        /// Why the decoders do not do.
        why: &'static str,
        /// The command that makes a file of it that is decoded natively.
        command: String,
    },
    /// A coded picture could not be decoded: the bitstream is damaged or uses a tool the decoder lacks.
    #[error("{path}: frame {frame}: {codec} picture cannot be decoded: {reason}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The frame's index in presentation order in the file.
        frame: usize,
        /// The codec.
        codec: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// A frame index outside the video.
    #[error("{path}: frame {index} does not exist: {}", range("the video has", "frames", *count))]
    FrameRange {
        /// The video file.
        path: PathBuf,
        /// The index asked for.
        index: usize,
        /// The number of frames.
        count: usize,
    },
    /// A video with fewer frames than its episode has steps.
    #[error("{path}: the video has {frames} frames, but episode {episode} has {steps} steps")]
    ShortVideo {
        /// The video file.
        path: PathBuf,
        /// The frames that the video has for this episode.
        frames: usize,
        /// The episode's index in the dataset.
        episode: usize,
        /// The episode's number of steps.
        steps: usize,
    },
}

impl Error {
    /// A value that does not fit, in `path` at `field`.
    pub(crate) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Field {
            path: path.into(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// An input/output failure at `path`; a file that is not there becomes [`Error::Missing`] as `what`.
    pub(crate) fn io(path: &Path, what: &str, source: std::io::Error) -> Error {
        match source.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { path: path.into(), what: what.into() },
            _ => Error::Io { path: path.into(), source },
        }
    }
}

/// "the dataset has 4 episodes (valid: 0 to 3)", or that it has none.
fn range(has: &str, things: &str, len: usize) -> String {
    match len.checked_sub(1) {
        Some(last) => format!("{has} {len} {things} (valid: 0 to {last})"),
        None => format!("{has} no {things}"),
    }
}

/// The known names, or that there are none.
fn list(known: &[String]) -> String {
    if known.is_empty() { "none".into() } else { known.join(", ") }
}
