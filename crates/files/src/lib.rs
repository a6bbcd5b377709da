//! Files as people have them: what readers of datasets and of checkpoints share.
//!
//! [`json`] reads JSON as Python writes and reads it. [`Disguise`] tells what a file is that is not what its name
//! says: a Git LFS pointer, a web page, another container. [`folders`] finds the folder that was meant.
//! [`scratch`] keeps account of folders for temporary files.

mod disguise;
pub mod folders;
pub mod json;
pub mod scratch;

pub use disguise::{Disguise, Kind};
