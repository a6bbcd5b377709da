//! Files as people have them: what readers of datasets and of checkpoints share.
//!
//! [`json`] reads JSON as Python writes and reads it. [`Disguise`] tells what a file is that is not what its name
//! says: a Git LFS pointer, a web page, another container. [`folders`] finds the folder that was meant. [`read`] takes no
//! more memory than an honest file needs, and [`guarded`] stands around readers that panic. [`scratch`] keeps account of
//! temporary files and folders, [`whole`] writes a file whole or not at all.

mod bounded;
mod disguise;
pub mod folders;
mod guard;
pub mod json;
pub mod scratch;
pub mod whole;

pub use bounded::{MAX_TEXT, MAX_VALUE, open, read, read_up_to};
pub use disguise::{Disguise, Kind};
pub use guard::{guarded, is_guarded};
