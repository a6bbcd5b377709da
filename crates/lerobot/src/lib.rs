#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! LeRobot datasets v2.0, v2.1 and v3.0, read exactly: metadata, numeric columns, statistics, video frames.
//!
//! The way through the crate is [`Dataset::open`] → [`Dataset::episode`] → [`Episode::group`],
//! [`Episode::instruction`] and [`Episode::video`] → [`Video::frame`] or [`Video::stream`].
//!
//! Everything read from a file is treated as untrusted: sizes are checked before memory is taken, and
//! every [`Error`] names the file, the field, what was expected and what was found.
//!
//! Video frames are the ones FFmpeg gives as `rgb24`, bit for bit; [`video`] says what was compared.

mod dataset;
mod episode;
mod error;
mod info;
mod json;
mod modality;
mod parquet;
mod paths;
mod stats;
pub mod video;

pub use dataset::{Dataset, EpisodeMeta, SubTask};
pub use episode::{Episode, Matrix};
pub use error::{Error, Result};
pub use info::Feature;
pub use modality::{Annotation, Group, Kind, Modality, View};
pub use stats::{StatArray, Stats};
pub use video::{Codec, DecodedBy, Frame, FrameStream, Video, VideoDecoder};
