//! Options that several commands have, and how their values are written. A leaf: no command is known here.

pub mod demo;
mod engine;
mod export;
mod observations;
mod source;
mod values;
mod video;

pub use crate::engines::precision;
pub use engine::{DeviceArgs, EngineArgs, one_precision};
pub use export::{NamesArg, ProductsArg};
pub use observations::ObservationArgs;
pub use source::{SourceArgs, stale};
pub use values::{image_size, words_of};
pub use video::VideoArgs;
