//! Options that several commands have, and how their values are written. A leaf: no command is known here.

pub mod demo;
mod engine;
mod episodes;
mod export;
mod observations;
mod source;
mod values;
mod video;

pub use crate::engines::precision;
pub use engine::{DeviceArgs, Devices, EngineArgs, EngineOptions, engine_precision, one_precision};
pub use episodes::{EpisodeRange, chosen};
pub use export::{NamesArg, ProductsArg, refuse_unused};
pub use observations::ObservationArgs;
pub use source::{SourceArgs, model, stale};
pub use values::{image_size, words_of};
pub use video::VideoArgs;
